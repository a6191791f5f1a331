"""Clusters of user vectors: K-means, and greedy farthest-first.

Everything runs on the samples in the order of a hash of (seed, sample id), so that the result follows the ids and never
the order in which they came; the same order draws the first centres and breaks ties.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from prunebench.methods.base import MethodError
from prunebench.methods.selection import check_budget, priorities
from prunebench.recommenders.lloyd import lloyd
from prunebench.recommenders.runtime import Runtime

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

ITERATIONS = 100
"""Lloyd steps of K-means at most; 1,024 clusters of Games' surrogate vectors stand still before the 50th."""
BLOCK = 1 << 18
"""Numbers in a block of rows that is worked on at once: little enough to stay in a core's cache."""


@dataclass(frozen=True, eq=False)
class Clusters:
    """A partition of n samples into k clusters, some of which may be empty.

    ``labels`` int64 [n] in 0 … k - 1; ``sizes`` int64 [k]; ``order`` int64 [n]: the samples by their hash.
    """

    labels: Int64
    sizes: Int64
    order: Int64

    @property
    def empty(self) -> int:
        """How many clusters have no member."""
        return int((self.sizes == 0).sum())

    def distances(self, vectors: NDArray) -> Float64:
        """Euclidean distance of each row of ``vectors`` [n, d] to the mean of its cluster's rows, float64 [n]."""
        n = len(self.labels)
        # Summed in the hash's order: not even rounding may depend on the order of the samples.
        members = csr_array((np.ones(n), (self.labels[self.order], np.arange(n))), shape=(len(self.sizes), n))
        means = (members @ vectors[self.order]) / np.maximum(self.sizes, 1)[:, None]
        distances = np.empty(n)
        for rows in _blocks(vectors):
            distances[rows] = np.linalg.norm(vectors[rows] - means[self.labels[rows]], axis=1)
        return distances

    def ranks(self, scores: NDArray) -> Int64:
        """Place of each sample in its cluster, int64 [n]: 0 for the smallest of ``scores`` [n]; ties by the hash."""
        by_cluster = self.order[np.lexsort((scores[self.order], self.labels[self.order]))]
        ranks = np.empty(len(self.labels), np.int64)
        ranks[by_cluster] = np.arange(len(ranks)) - np.repeat(np.cumsum(self.sizes) - self.sizes, self.sizes)
        return ranks


def kmeans(vectors: NDArray, ids: Int64, k: int, seed: int) -> Clusters:
    """K-means of ``vectors`` [n, d] that belong to ``ids`` [n]: Lloyd's algorithm by faiss, on all of them.

    The first centres are k of the distinct vectors, by the hash of (seed, id). Samples of equal vectors share a cluster.
    Where there are at most k distinct vectors each has a cluster of its own, and the other clusters are empty.
    Raises MethodError for k < 1 and for vectors that are not finite.
    """
    if k < 1:
        raise MethodError(f"K-means needs at least 1 cluster, not {k}")
    rows, order = canonical(vectors, ids, seed)
    if len(rows):
        # faiss takes distances from inner products, which an offset common to all vectors would swamp.
        rows -= rows.mean(axis=0, dtype=np.float64).astype(np.float32)
    distinct, member, counts = _distinct(rows)
    if len(distinct) <= k:
        assigned = np.arange(len(distinct))
    else:
        assigned = lloyd(distinct, counts, distinct[:k], seed, ITERATIONS)[1]
    labels = np.empty(len(ids), np.int64)
    labels[order] = assigned[member]
    return Clusters(labels, np.bincount(labels, minlength=k).astype(np.int64), order)


def farthest_first(vectors: NDArray, ids: Int64, count: int, seed: int, runtime: Runtime) -> Int64:
    """Positions of ``count`` samples in the order of greedy k-center (Gonzalez 1985; Sener & Savarese, ICLR 2018).

    First the sample nearest to the mean of ``vectors`` [n, d], then always the one farthest from all chosen ones; ties
    by the hash of (seed, id). A smaller count gives a prefix. O(n · d) per step. Raises MethodError for vectors that are
    not finite and for a count beyond n.
    """
    check_budget(count, len(ids))
    rows, order = canonical(vectors, ids, seed)
    blocks = list(_blocks(rows))
    buffer = np.empty_like(rows[blocks[0]]) if blocks else rows
    nearest, chosen = np.full(len(rows), np.inf, np.float32), np.empty(count, np.int64)
    taken = np.zeros(len(rows), bool)

    def squares(centre: NDArray[np.float32], block: slice) -> NDArray[np.float32]:
        difference = np.subtract(rows[block], centre, out=buffer[: block.stop - block.start])
        return np.einsum("ij,ij->i", difference, difference)

    for step in runtime.track(range(count), "farthest-first"):
        if step:
            chosen[step] = np.argmax(nearest)
        else:
            mean = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
            chosen[step] = np.argmin(np.concatenate([squares(mean, block) for block in blocks]))
        taken[chosen[step]] = True
        for block in blocks:
            np.minimum(nearest[block], squares(rows[chosen[step]], block), out=nearest[block])
        nearest[taken] = -1
    return order[chosen]


def canonical(vectors: NDArray, ids: Int64, seed: int) -> tuple[NDArray[np.float32], Int64]:
    """The rows of ``vectors`` [n, d] by the hash of (seed, id), and that order, int64 [n].

    Rows are float32 and scaled by the power of two that brings the largest entry to 0.5 … 1, so that no square
    overflows or vanishes; differences between rows keep every bit. Raises MethodError as ``checked`` does.
    """
    vectors = checked(vectors, ids)
    order = np.argsort(priorities(ids, seed))
    exponent = np.frexp(max(vectors.max(initial=0), -vectors.min(initial=0)))[1]
    return np.ldexp(vectors[order], -exponent).astype(np.float32, copy=False), order


def checked(vectors: NDArray, ids: Int64, what: str = "vectors") -> NDArray:
    """``vectors`` as an array [n, d]. Raises MethodError for another shape, and for a number that is not finite."""
    vectors = np.asarray(vectors)
    if vectors.ndim != 2 or len(vectors) != len(ids) or not vectors.shape[1]:
        raise MethodError(f"{what} of shape {vectors.shape} for {len(ids)} samples: give one row [d] per sample")
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise MethodError(f"{what} of sample {int(ids[bad[0]])} are not finite ({len(bad)} such samples)")
    return vectors


def _distinct(rows: NDArray[np.float32]) -> tuple[NDArray[np.float32], Int64, Int64]:
    """The different rows in order of first appearance, which of them each row is, and how many rows each stands for."""
    # One key per row; -0 and 0 are to be the same bytes.
    keys = np.ascontiguousarray(rows + np.float32(0)).view(np.dtype((np.void, 4 * rows.shape[1])))[:, 0]
    _, first, member, counts = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    order = np.argsort(first)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rows[first[order]], rank[member], counts[order]


def _blocks(vectors: NDArray) -> Iterator[slice]:
    """Slices of at most ``BLOCK`` numbers that cover the rows."""
    height = max(1, BLOCK // vectors.shape[1])
    return (slice(start, min(start + height, len(vectors))) for start in range(0, len(vectors), height))
