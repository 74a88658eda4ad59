"""Matplotlib as the report uses it: it draws files only, so what is asked of a screen is no concern of it.

matplotlib reads the environment variable MPLBACKEND while it is imported, and fails there if it does not know the name:
that of a notebook, say, in an environment without it. A figure made without pyplot needs no backend to be chosen. That
there is no home to keep a list of fonts in, it says in five lines: it takes a folder of its own, and nothing is wrong.
"""

import logging
import os
from contextlib import suppress

_asked_for = os.environ.pop("MPLBACKEND", None)
_logger = logging.getLogger("matplotlib")
_level = _logger.level
_logger.setLevel(logging.ERROR)
try:
    import matplotlib as mpl
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize, to_hex
    from matplotlib.figure import Figure as Canvas
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator
finally:
    _logger.setLevel(_level)
    if _asked_for is not None:
        os.environ["MPLBACKEND"] = _asked_for
if _asked_for:
    with suppress(ValueError):
        mpl.rcParams["backend"] = _asked_for  # a notebook that imports pyplot later finds the one it asked for

__all__ = [
    "Axes",
    "Canvas",
    "FixedLocator",
    "FuncFormatter",
    "MaxNLocator",
    "Normalize",
    "NullFormatter",
    "NullLocator",
    "mpl",
    "to_hex",
]
