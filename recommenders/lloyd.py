"""Weighted K-means of vectors from given first centres, by faiss."""

from __future__ import annotations

import faiss
import numpy as np
from numpy.typing import NDArray

from prunebench.recommenders.base import Float32


def lloyd(
    rows: Float32, weights: NDArray[np.int64], first: Float32, seed: int, iterations: int
) -> tuple[Float32, NDArray[np.int64]]:
    """Lloyd's algorithm on ``rows`` [n, d], each counted ``weights`` [n] times, from the centres ``first`` [k, d], k < n.

    Returns the centres, float32 [k, d], and each row's nearest, int64 [n]. ``seed`` decides where a centre that lost all
    its rows goes.
    """
    trainer = faiss.Kmeans(
        rows.shape[1],
        len(first),
        niter=iterations,
        seed=seed % 2**31,
        min_points_per_centroid=1,
        max_points_per_centroid=len(rows),
    )
    trainer.train(rows, weights=weights.astype(np.float32), init_centroids=first)
    return np.asarray(trainer.centroids), trainer.index.search(rows, 1)[1][:, 0]
