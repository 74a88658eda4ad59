"""A first batch without labels: a cover of the pool.

As in TypiClust (G. Hacohen, A. Dekel, D. Weinshall, "Active Learning on a Budget: Opposite Strategies Suit High and Low
Budgets", ICML 2022), section 3: as many clusters as there will be labels, and of each of the largest that have none yet
the most typical image. The features are simple ones: principal components of small pictures. No class is known then,
and no network is asked.
"""

import warnings
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from active_learning.images.cache import Images

SIDE, COMPONENTS, NEIGHBOURS = 16, 50, 20
MOST_LOOKED_AT = 20_000
"""Images of the pool, drawn at random, that the cover is made of where there are more."""

MOST_LABELLED = 500
"""Labelled images, drawn at random, whose clusters need no other: there are as many clusters as these and the batch."""


class Typical(NamedTuple):
    """An image that stands for a cluster: its row, its typicality, and how many images the cluster has."""

    row: int
    typicality: float
    cluster_size: int


def cover(
    pixels: Images,
    pool: npt.NDArray[np.int64],
    labelled: npt.NDArray[np.int64],
    count: int,
    rng: np.random.Generator,
) -> list[Typical]:
    """Return images that cover the pool, the largest cluster's first.

    The typicality of an image is 1 / its mean distance to its 20 nearest neighbours in its cluster, in the unit of the
    features (standard deviations of a grey level).

    Args:
        pixels: uint8 (rows, channels, size, size).
        pool: rows to choose from.
        labelled: rows whose clusters need no other.
        count: K, at most as many as the pool has.
        rng: draws the images that are looked at and the clusters' first centres.
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    looked_at = pool[np.sort(rng.choice(len(pool), min(MOST_LOOKED_AT, len(pool)), replace=False))]
    labelled = rng.permutation(labelled)[:MOST_LABELLED]
    rows = np.concatenate([looked_at, labelled])
    with (
        threadpool_limits(1),
        warnings.catch_warnings(),
        np.errstate(invalid="ignore"),
    ):  # one thread: one order of sums
        warnings.filterwarnings("ignore", "Number of distinct clusters")  # of equal pictures: filled up below
        features_nd = _features(pixels, rows, rng)
        clusters = min(len(labelled) + count, len(rows))
        seed = int(rng.integers(2**31))
        cluster_n = KMeans(clusters, n_init=1, random_state=seed).fit_predict(features_nd)
    chosen = _most_typical(features_nd, cluster_n, len(looked_at), count)
    taken = {position for position, _, _ in chosen}
    others = [position for position in rng.permutation(len(looked_at)).tolist() if position not in taken]
    chosen += [(position, 0.0, 0) for position in others[: count - len(chosen)]]
    return [Typical(int(rows[position]), typicality, size) for position, typicality, size in chosen]


def _features(pixels: Images, rows: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    from PIL import Image
    from sklearn.decomposition import PCA

    small = np.empty((len(rows), pixels.shape[1], SIDE, SIDE), dtype=np.float32)
    for number, row in enumerate(rows):
        for channel, plane in enumerate(pixels[row]):
            picture = Image.fromarray(np.asarray(plane)).resize((SIDE, SIDE), Image.Resampling.BOX)
            small[number, channel] = np.asarray(picture)
    flat_nf = small.reshape(len(rows), -1) / max(float(small.std()), 1.0)
    components = min(COMPONENTS, *flat_nf.shape)
    seed = int(rng.integers(2**31))
    features_nd: npt.NDArray[np.float64] = PCA(components, svd_solver="full" if len(rows) < 500 else "randomized",
                                               random_state=seed).fit_transform(flat_nf)  # fmt: skip
    return features_nd


def _most_typical(
    features_nd: npt.NDArray[np.float64], cluster_n: npt.NDArray[np.int64], candidates: int, count: int
) -> list[tuple[int, float, int]]:
    """Return position, typicality and cluster size of the most typical candidate of each of the largest free clusters.

    Args:
        features_nd: of candidates, then of labelled images.
        cluster_n: the cluster of each.
        candidates: how many come first.
        count: K.
    """
    from sklearn.neighbors import NearestNeighbors

    held = set(cluster_n[candidates:].tolist())
    sizes = np.bincount(cluster_n)
    free = [int(cluster) for cluster in np.argsort(-sizes, kind="stable") if sizes[cluster] and cluster not in held]
    chosen = []
    for cluster in free[:count]:
        members = np.flatnonzero(cluster_n == cluster)
        neighbours = min(NEIGHBOURS, len(members) - 1)
        typicality = 0.0
        best = int(members[0])
        if neighbours:
            nearest = NearestNeighbors(n_neighbors=neighbours).fit(features_nd[members])
            typicality_m = 1 / np.maximum(nearest.kneighbors()[0].mean(axis=1), 1e-6)
            best, typicality = int(members[typicality_m.argmax()]), float(typicality_m.max())
        chosen.append((best, typicality, len(members)))
    return chosen
