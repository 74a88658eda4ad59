"""What a run trains and asks: the only folder that knows torch. `settings.learners` lists the learners.

Reading order:
    network       a network as a learner; field: Minimum Bayes Risk as a learner
    inference     class probabilities, block by block; engines: who computes them
    fast          the paper's network by our kernels; kernels: those, compiled by numba
    mbr           Gaussian random fields and expected risks
    augmentation  distortions of the images that a fit sees; hardware: device, precision, memory
"""
