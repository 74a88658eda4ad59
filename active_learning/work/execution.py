"""Executes one run in this process: from its last whole round to its end, into its folder or into memory."""

import ctypes
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from acquisition_functions import ACQUISITION_FUNCTIONS
from active_learning.disk.numbering import Numbering, renumbered
from active_learning.disk.provenance import provenance
from active_learning.disk.record import Round, Row
from active_learning.disk.store import RunFolder
from active_learning.images.dataset import load_run
from active_learning.interruption import Check, Watch
from active_learning.loop import active_learning_rounds
from active_learning.models.engines import bytes_a_pass, bytes_an_image, engine
from active_learning.models.field import check_length_scale
from active_learning.models.hardware import (
    USED_OF_MEMORY,
    available_memory,
    choose_device,
    choose_precision,
    computing_threads,
)
from active_learning.settings.config import ConfigError, ExperimentConfig, RunConfig, has_field
from active_learning.settings.learners import LEARNERS, Weights
from active_learning.settings.networks import NETWORKS
from active_learning.work.reasons import describe
from cnn_model import Device, Precision
from load_data import ImageData, repeated, select_classes

Advance = Callable[[RunConfig, int, float], None]
"""Told of each finished round: the run, the round and its test error."""


def choose_hardware(config: ExperimentConfig) -> tuple[Precision, Device]:
    """Return what `--precision` and `--device` come to on this machine.

    Raises:
        ConfigError: for a device that this machine does not have.
    """
    device = choose_device(config.device)
    return choose_precision(config.precision, device), device


def checked_data(config: ExperimentConfig, runs: Sequence[RunConfig], side_by_side: int, check: Check) -> ImageData:
    """Return the data set of an experiment once, however many copies of it the runs take, if they can have it here.

    Args:
        config: the experiment.
        runs: what of it is to be run.
        side_by_side: how many of the runs at a time.
        check: as for `load_data`.

    Raises:
        ConfigError: when the network takes larger images, the memory is too small or the length scale says nothing.
        DataError: when the data set cannot be had.
    """
    data = load_cached(runs[0], config.data_dir, check)
    smallest, side = NETWORKS[config.network].smallest, min(data.train_images.shape[2:])
    if side < smallest:
        raise ConfigError(
            f"--network {config.network} takes images of at least {smallest} pixels a side, and these have {side}: "
            "take another network or data set."
        )
    if config.scheduler is None:  # the memory of other machines only they know
        check_memory(config, runs, data, side_by_side)
    with_field = any(has_field(run.acquisition, run.learner) for run in runs)
    if with_field and isinstance(config.mbr_sigma, float) and config.copies == 1:  # copies lie near each other
        check_length_scale(config.mbr_sigma, data.train_images[_kept(config, data)])
    return data


def check_memory(config: ExperimentConfig, runs: Sequence[RunConfig], data: ImageData, side_by_side: int) -> None:
    """Refuse runs on this machine whose data, passes, probabilities or graph cannot fit into the memory that there is.

    Args:
        config: the experiment.
        runs: what of it is to be run.
        data: its data set, once, however many `config.copies` there are.
        side_by_side: how many of the runs at a time.

    Raises:
        ConfigError: saying how many copies or passes would fit, or how many runs.
    """
    available = available_memory()
    if available is None:
        return
    of_others = (side_by_side - 1) * (data.train_images.nbytes + data.test_images.nbytes)  # here they are in memory
    left = max(0, int(USED_OF_MEMORY * available) - of_others) // side_by_side
    fewer = f", or fewer --jobs than {side_by_side}" if side_by_side > 1 else ""
    each = f"{'each of ' * (side_by_side > 1)}{side_by_side} run{'s' * (side_by_side > 1)}"
    for demand in (_of_copies, _of_passes, _of_probabilities, _of_graph):
        what, size, way = demand(config, runs, data, left)
        if size > left:
            raise ConfigError(
                f"{what} takes {size / 1e9:,.1f} GB, and {each} can have {left / 1e9:,.1f} GB: {way}{fewer}."
            )
        left -= size if demand is _of_copies else 0  # they stay, and beside them one of the others at a time


Demand = tuple[str, int, str]
"""What takes memory, how many bytes, and what takes less."""


def _of_copies(config: ExperimentConfig, runs: Sequence[RunConfig], data: ImageData, left: int) -> Demand:
    if config.copies == 1:  # the data set is there already
        return "", 0, ""
    a_copy = data.train_images.nbytes + BYTES_OF_AN_INDEX * len(data.train_labels)
    a_copy += int(a_copy * _kept(config, data).mean()) if config.classes else 0  # the kept images are a copy once more
    noise = BYTES_OF_NOISE * data.train_images.size
    fitting = (left - noise - _of_passes(config, runs, data, left)[1]) // a_copy
    way = _at_most(fitting) if fitting > 1 else "leave it out"
    return f"--copies {config.copies}", config.copies * a_copy + noise, way


def _of_passes(config: ExperimentConfig, runs: Sequence[RunConfig], data: ImageData, left: int) -> Demand:
    a_pass = bytes_a_pass(NETWORKS[config.network].module, data.train_images.shape[1:], runs[0].precision)
    a_pass += bytes_an_image(data.class_count, passes=1)
    here = any(run.learner == "bayesian" and run.device == "cpu" for run in runs)
    return f"--dropout_iter {config.dropout_iter}", here * a_pass * config.dropout_iter, _at_most(left // a_pass)


def _at_most(count: int) -> str:
    return f"give at most {count}" if count > 0 else "not even one fits: it takes a machine with more free memory"


def _of_probabilities(config: ExperimentConfig, runs: Sequence[RunConfig], data: ImageData, _left: int) -> Demand:
    """Of functions that see all passes of all candidates at once."""
    candidates = min(config.pool_subset or sys.maxsize, _pool_size(config, data))
    classes = len(config.classes) or data.class_count
    names = [run.acquisition for run in runs if "samples" in ACQUISITION_FUNCTIONS[run.acquisition].needs]
    size = bool(names) * BYTES_OF_A_PROBABILITY * config.dropout_iter * candidates * classes
    way = "give a smaller --pool_subset" if config.pool_subset else f"give a --pool_subset below {candidates}"
    return f"--acq_func {(names or [''])[0]} for {candidates} images", size, f"{way} or a smaller --dropout_iter"


def _of_graph(config: ExperimentConfig, runs: Sequence[RunConfig], data: ImageData, _left: int) -> Demand:
    here = any(has_field(run.acquisition, run.learner) for run in runs)
    nodes = _pool_size(config, data)
    fewer = "fewer --copies" if config.copies > 1 else "a larger --val_size"
    what = f"{config.field_flag}, with its graph of {nodes} images,"
    return what, here * 8 * nodes**2, f"leave it out, or give {fewer}"


def _kept(config: ExperimentConfig, data: ImageData) -> npt.NDArray[np.bool_]:
    return np.isin(data.train_labels, config.classes or range(data.class_count))


def _pool_size(config: ExperimentConfig, data: ImageData) -> int:
    """Return how many images are in the pool or labelled."""
    return config.copies * int(_kept(config, data).sum()) - config.val_size


BYTES_OF_AN_INDEX = 32
"""Of a training image: its label, and its places in the splits and in the order of a round's pool."""
BYTES_OF_NOISE = 12
"""Of a pixel of one copy, while it is made."""
BYTES_OF_A_PROBABILITY = 20
"""As it is computed, in float32; as BatchBALD takes it, in float64; and its entropy."""


def execute_in_folder(
    folder: RunFolder, data_dir: Path | None, advance: Advance, check: Check = lambda: None
) -> str | None:
    """Take a run from its last whole round on disk to its end; each round is on disk before the next begins.

    Returns:
        None, or the reason why the run failed, which is recorded in its folder too.
    """
    run = folder.config
    try:
        with folder.locked(check):
            finished = folder.load()
            folder.mend()
            if not folder.finished:  # a process that we waited for may have ended it
                folder.begin_session(session(run))
                weights = folder.weights() if run.warm_start and finished else None

                def save(round_: Round) -> None:
                    folder.append(round_)
                    advance(run, round_.round, round_.test_error)

                execute(run, finished, weights, data_dir, save, Watch(check, folder.note))
    except Exception as error:
        # Whatever it was, other runs may do better; the traceback is kept for whoever has to find out.
        reason = describe(error, run)
        with suppress(OSError):  # a full disk may be the very reason
            folder.fail(reason, traceback.format_exc())
        return reason
    return None


def execute(
    run: RunConfig,
    finished: Sequence[Round],
    weights: Weights | None,
    data_dir: Path | None,
    save: Callable[[Round], None],
    watch: Watch,
) -> None:
    """Hand the rounds after the finished ones to `save`, one by one.

    Args:
        run: the run.
        finished: its finished rounds as recorded, which count images and labels as the data set does.
        weights: those after the last of them, needed with `warm_start` only.
        data_dir: where the data set is.
        save: takes each round, which counts as they do.
        watch: who looks at it.

    Raises:
        Exception: whatever makes the run fail.
    """
    keep_freed_memory()
    data = load_cached(run, data_dir, watch.check, run.copies)
    numbering = Numbering.of(data.train_labels, run.classes) if run.classes else None
    if run.classes:
        data = select_classes(data, run.classes)
    with computing_threads(run.threads):
        if numbering:
            finished = [renumbered(round_, numbering.of_run) for round_ in finished]
        for round_ in active_learning_rounds(run, data, finished, weights, watch):
            save(renumbered(round_, numbering.of_dataset) if numbering else round_)


def session(run: RunConfig) -> Row:
    """Return what this process is, and who computes its passes, for the run's provenance."""
    here = {**provenance(), "threads": run.threads}
    if "samples" in LEARNERS[run.learner].gives:  # without dropout the network itself is the one pass
        here["engine"] = engine(NETWORKS[run.network].module, run.device, run.precision)
    return here


_loaded: dict[tuple[object, ...], ImageData] = {}


def load_cached(run: RunConfig, data_dir: Path | None, check: Check | None = None, copies: int = 1) -> ImageData:
    """Load a run's data, with copies, once in this process, however many runs use it; `check` as for `load_data`."""
    key = run.dataset, run.folder, run.image_size, run.network, copies, data_dir
    if key not in _loaded:
        _loaded.clear()  # one is enough, and two may not fit
        _loaded[key] = repeated(load_run(run, data_dir, check), copies)
    return _loaded[key]


@lru_cache(maxsize=1)
def keep_freed_memory() -> None:
    """Have this process keep the memory that one training step frees for the next.

    The GNU C library gives freed blocks of this size back to the kernel and asks for them again, a hundred megabytes a
    step; a sixth of each step went into page faults. Elsewhere there is no `mallopt`, and nothing is done.
    """
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(_M_MMAP_THRESHOLD, KEPT_BLOCK_BYTES)
        library.mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)


KEPT_BLOCK_BYTES = 64 * 2**20
"""Freed blocks up to this size are kept: activations are smaller, the matrices of Minimum Bayes Risk larger."""
KEPT_BYTES = 512 * 2**20
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # as malloc.h numbers them
