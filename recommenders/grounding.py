"""Grounding: from generated titles to rankings of items, by L2 distance between vectors."""

from __future__ import annotations

import faiss
import numpy as np
from numpy.typing import NDArray

from prunebench.recommenders.base import Float32, Rankings, RecommenderError
from prunebench.recommenders.runtime import Runtime

BEAM_MARGIN = 1e-4
"""What each beam adds to the squared distances of the next, as a share of the title vectors' mean squared length.

Two beams may write two titles of the catalogue, both at distance 0 but for float error (about 1e-6 of that length): the
likelier one then comes first. Titles an encoder tells apart are farther apart (3e-3 and more with all-MiniLM-L6-v2).
"""


class Grounding:
    """Ranks all items by the distance of their title's vector to the nearest of a query's generated titles'.

    Items of one title share one vector and therefore one score, exactly; ties are items', listed by id, and never cut.
    """

    def __init__(self, titles: tuple[str, ...], title_vectors: Float32) -> None:
        """``title_vectors`` float32 [n_items, d]; of items with equal titles the first one's vector counts."""
        if len(title_vectors) != len(titles):
            raise RecommenderError(f"{len(title_vectors)} vectors for {len(titles)} titles")
        group = {title: row for row, title in enumerate(dict.fromkeys(titles))}
        self._group = np.fromiter((group[title] for title in titles), np.int64, len(titles))
        _, first = np.unique(self._group, return_index=True)
        self._sizes = np.bincount(self._group, minlength=len(group)).astype(np.int64)
        self._items = np.argsort(self._group, kind="stable").astype(np.int32)
        self._starts = np.concatenate([[0], np.cumsum(self._sizes)]).astype(np.int64)
        vectors = np.ascontiguousarray(title_vectors[first], np.float32)
        self.margin = BEAM_MARGIN * float(np.einsum("ij,ij->", vectors, vectors)) / len(vectors)
        self._index = faiss.IndexFlatL2(vectors.shape[1])
        self._index.add(vectors)

    def rank(self, queries: Float32, depth: NDArray[np.int64], runtime: Runtime, *, block: int = 512) -> Rankings:
        """Rankings for ``queries`` float32 [n, beams, d], to ``depth`` int64 [n] items plus the whole tie group.

        An item's score is −min over beams of (squared distance + beam · margin), the likeliest beam being number 0; see
        ``BEAM_MARGIN``. Queries are served in blocks of like depth.
        """
        order = np.argsort(depth, kind="stable")
        blocks = [order[at : at + block] for at in range(0, len(order), block)]
        ranked = Rankings.concatenate(
            self._search(np.ascontiguousarray(queries[rows], np.float32), depth[rows])
            for rows in runtime.track(blocks, "grounding")
        )
        return ranked.take(np.argsort(order, kind="stable"))

    def _search(self, queries: Float32, depth: NDArray[np.int64]) -> Rankings:
        n, beams, size = queries.shape
        # Each beam is searched to the full depth: the best by the minimum are among the best of some beam.
        wanted = np.repeat(np.minimum(depth, len(self._group)), beams)
        margin = np.tile(self.margin * np.arange(beams), n).astype(np.float32)[:, None]
        total = self._index.ntotal
        # One title more than asked shows whether the last tie group ends; if not, look twice as deep.
        titles = min(total, int(wanted.max(initial=1)) + 1)
        while True:
            distance, found = self._index.search(queries.reshape(n * beams, size), titles)
            distance += margin
            items = np.cumsum(self._sizes[found], 1)
            edge = np.argmax(items >= np.maximum(wanted, 1)[:, None], 1)
            cut = distance[np.arange(len(found)), edge]
            if titles == total or (distance[:, -1] > cut).all():
                break
            titles = min(total, 2 * titles)
        line, column = np.nonzero((distance <= cut[:, None]) & (wanted > 0)[:, None])
        row, group, near = line // beams, found[line, column], distance[line, column]
        order = np.argsort(near, kind="stable")
        nearest = order[np.unique((row * total + group)[order], return_index=True)[1]]
        row, group, near = row[nearest], group[nearest], near[nearest]
        count = self._sizes[group]
        row, score = np.repeat(row, count), -np.repeat(near, count)
        ends = np.cumsum(count)
        item = self._items[np.repeat(self._starts[group] - (ends - count), count) + np.arange(int(count.sum()))]
        ranked = np.lexsort((item, -score, row))
        row, item, score = row[ranked], item[ranked], score[ranked]
        lengths = np.bincount(row, minlength=n)
        last = np.cumsum(lengths) - lengths + np.minimum(depth, lengths) - 1
        kept = score >= score[last[row]]
        offsets = np.concatenate([[0], np.cumsum(np.bincount(row[kept], minlength=n))]).astype(np.int64)
        return Rankings(item[kept], score[kept].astype(np.float32), offsets)
