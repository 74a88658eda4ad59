"""Deep Bayesian active learning: one run, many runs, what they leave on disk and what is read from it.

Reading order:
    config        what a user may set, and what decides the numbers of one run; flags: the command line made from it
    streams       the random streams, by (seed, repetition, round, purpose)
    loop          one run: fit, test, score, select, label; metrics: error, likelihood, calibration
    learners      what a run trains, tests and asks, as a protocol and a registry
    models        all that knows torch: network and field, the learners; inference: MC dropout; fast: by our kernels;
                  augmentation; hardware
    mbr           Minimum Bayes Risk on a Gaussian random field, the baseline of experiment 3
    kernels       the network on a CPU: convolutions, gradients, MC dropout
    store         everything on disk; numbering: which image an index names; renumber: records of earlier versions
    experiments   which runs an experiment asks for; presets/: the four experiments and three ways to train
    runner        skip, resume and spread runs; execution: one run in this process; cluster: many on Dask's workers
    interruption  SIGINT and SIGTERM; terminal: any stream; status: what a result folder holds; show: a run's last words
    report        curves to statistics, tables, figures and one page
"""
