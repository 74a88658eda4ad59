"""Deep Bayesian active learning: one run, many runs, what they leave on disk and what is read from it.

Reading order:
    loop          one run: fit, test, score, select, label
    streams       the random streams, by (seed, repetition, round, purpose); metrics: error, likelihood, calibration
    settings/     what a user may set, the registries of learners and networks, and the command line
    images/       a user's image files: found, decoded, known by their content; a folder of them as a data set
    models/       what a run trains and asks: all that knows torch, and Minimum Bayes Risk
    disk/         durable files, the record of a run, result folders
    report/       curves to statistics, tables, figures and one page
    ranking/      which of a user's images to label next
    work/         runs skipped, resumed, spread over processes and machines
    presets/      the four experiments and three ways to train, as files of flags
    interruption  SIGINT and SIGTERM; terminal: any stream

Imports point one way: main, work and ranking, report, loop and images, models and disk, settings, and the files beside
main.py, which import nothing of ours.
"""
