"""Features of a pretrained network: computed once an image, and kept under its digest and the weights'."""

import io
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from active_learning.disk.files import write_atomically
from active_learning.images.library import Library
from active_learning.models.hardware import computing_threads
from active_learning.models.pretrained import FEATURES, IMAGES_AT_ONCE, Pretrained

Features = npt.NDArray[np.float32]


def features_of(
    library: Library,
    weights: str,
    folder: Path,
    threads: int,
    progress: Callable[[Iterable[Any], str, int], Iterator[Any]],
    check: Callable[[], None],
) -> tuple[Features, str]:
    """Return the features (rows, 512, 1, 1) of all images, as a network takes images, and the weights' digest.

    Args:
        library: the images.
        weights: as `Pretrained` takes them.
        folder: where the cache is.
        threads: that compute them.
        progress: shows how far it is.
        check: called for every block; what it raises ends the work.
    """
    network = Pretrained(weights)
    path = folder / f"features-{network.digest[:16]}-{library.size}.npz"
    known = _read(path)
    features = np.zeros((len(library.pixels), FEATURES), np.float32)
    missing = []
    for picture in library.pictures:
        if picture.sha256 in known:
            features[picture.row] = known[picture.sha256]
        else:
            missing.append(picture.row)
    rows = np.array(missing, np.int64)
    with computing_threads(threads):
        done = 0
        blocks = network.features(np.asarray(library.pixels), rows, check)
        for block in progress(blocks, "features", -(-len(rows) // IMAGES_AT_ONCE)):
            features[rows[done : done + len(block)]] = block
            done += len(block)
    if missing:
        _write(path, features, library)
    return features[:, :, np.newaxis, np.newaxis], network.digest


def _read(path: Path) -> dict[str, Features]:
    """Return the cached features by the content's sha256; none if the file is damaged."""
    with suppress(OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile), path.open("rb") as file:
        with np.load(file, allow_pickle=False) as arrays:
            digests, rows = arrays["sha256"], arrays["features"]
        if rows.shape == (len(digests), FEATURES):
            return dict(zip(digests.tolist(), rows, strict=True))
    return {}


def _write(path: Path, features: Features, library: Library) -> None:
    buffer = io.BytesIO()
    digests = np.array([picture.sha256 for picture in library.pictures])
    np.savez(buffer, sha256=digests, features=features[[picture.row for picture in library.pictures]])
    write_atomically(path, buffer.getvalue())
