"""Why a run failed, in a sentence."""

from pydantic import ValidationError

from active_learning.disk.files import refusal
from active_learning.disk.record import fault_of


def describe(error: BaseException) -> str:
    """Return an error's message on one line, or its kind if it has none, and the way out where trying again is none."""
    if isinstance(error, ValidationError):
        return f"a round cannot be recorded: {fault_of(error)}"
    if isinstance(error, MemoryError):
        return "there is not enough memory (try fewer --jobs, or a smaller --dropout_iter)"
    words = refusal(error) if isinstance(error, OSError) else str(error)
    words = " ".join(words.split()) or type(error).__name__
    return f"{words} (try a lower --lr)" if isinstance(error, FloatingPointError) else words
