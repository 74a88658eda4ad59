"""Why a run failed, in a sentence."""

import sys

from pydantic import ValidationError

from active_learning.disk.files import refusal
from active_learning.disk.record import fault_of
from active_learning.settings.config import RunConfig
from active_learning.settings.learners import LEARNERS


def describe(error: BaseException, run: RunConfig | None = None) -> str:
    """Return an error's message on one line, or its kind if it has none, and the way out where trying again is none."""
    if isinstance(error, ValidationError):
        return f"a round cannot be recorded: {fault_of(error)}"
    known = sys.modules.get("active_learning.models.inference")  # where it is not loaded, no error is torch's
    if isinstance(error, MemoryError) or (known and known.is_out_of_memory(error)):
        passes = run is not None and "samples" in LEARNERS[run.learner].gives
        smaller = ", or a smaller --dropout_iter in another result folder" if passes else ""
        return f"there is not enough memory (try fewer runs and programs at a time{smaller})"
    words = refusal(error) if isinstance(error, OSError) else str(error)
    words = " ".join(words.split()) or type(error).__name__
    if isinstance(error, FloatingPointError):
        return f"{words} (try a lower --lr in another result folder)"
    if run is not None and run.device != "cpu" and known and known.is_of_device(error):
        return f"{words} (try --device cpu in another result folder)"
    return words
