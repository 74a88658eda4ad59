"""What a user may set: what is computed, how it is done, and the command line between the two. Knows no torch.

Reading order:
    config     every setting with its bounds, and what decides the numbers of one run
    learners   what a run trains, tests and asks, as a protocol and a registry; networks: a registry
    arms       which runs an experiment asks for, and which command asks for given runs
    flags      words and files to settings
"""
