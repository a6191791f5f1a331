"""Grounding: from generated titles to rankings of items, by L2 distance between vectors."""

from __future__ import annotations

import faiss
import numpy as np
from numpy.typing import NDArray

from prunebench.recommenders.base import Float32, Rankings, RecommenderError
from prunebench.recommenders.runtime import Runtime


class Grounding:
    """Ranks all items by the distance of their title's vector to a generated title's.

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
        self._index = faiss.IndexFlatL2(title_vectors.shape[1])
        self._index.add(np.ascontiguousarray(title_vectors[first], np.float32))

    def rank(self, queries: Float32, depth: NDArray[np.int64], runtime: Runtime, *, block: int = 512) -> Rankings:
        """Rankings of the rows of ``queries`` float32 [n, d], to ``depth`` int64 [n] items plus the whole tie group.

        Scores are negative squared distances. Queries are served in blocks of like depth.
        """
        order = np.argsort(depth, kind="stable")
        blocks = [order[at : at + block] for at in range(0, len(order), block)]
        ranked = Rankings.concatenate(
            self._search(np.ascontiguousarray(queries[rows], np.float32), depth[rows])
            for rows in runtime.track(blocks, "grounding")
        )
        return _take(ranked, np.argsort(order, kind="stable"))

    def _search(self, queries: Float32, depth: NDArray[np.int64]) -> Rankings:
        wanted = np.minimum(depth, len(self._group))
        total = self._index.ntotal
        # One title more than asked shows whether the last tie group ends; if not, look twice as deep.
        titles = min(total, int(wanted.max(initial=1)) + 1)
        while True:
            distance, found = self._index.search(queries, titles)
            items = np.cumsum(self._sizes[found], 1)
            edge = np.argmax(items >= np.maximum(wanted, 1)[:, None], 1)
            cut = distance[np.arange(len(found)), edge]
            if titles == total or (distance[:, -1] > cut).all():
                break
            titles = min(total, 2 * titles)
        row, column = np.nonzero((distance <= cut[:, None]) & (wanted > 0)[:, None])
        group = found[row, column]
        count = self._sizes[group]
        row, score = np.repeat(row, count), -np.repeat(distance[row, column], count)
        ends = np.cumsum(count)
        item = self._items[np.repeat(self._starts[group] - (ends - count), count) + np.arange(int(count.sum()))]
        ranked = np.lexsort((item, -score, row))
        offsets = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(queries)))]).astype(np.int64)
        return Rankings(item[ranked], score[ranked].astype(np.float32), offsets)


def _take(rankings: Rankings, rows: NDArray[np.int64]) -> Rankings:
    lengths = np.diff(rankings.offsets)[rows]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    source = np.repeat(rankings.offsets[rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
    return Rankings(rankings.items[source], rankings.scores[source], offsets)
