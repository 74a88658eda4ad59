"""The work of an experiment: skip, resume and spread runs, and tell how far they are.

Reading order:
    runner     an experiment: what is there, what is left to do, who does it
    execution  one run in this process; cluster: many on Dask's workers, of a scheduler that answers
    progress   what is shown of runs that go on; estimate: how long they take
    status     what a result folder holds; show: what a run ends with
"""
