"""Pre-training text of the catalogue LLM: documents of titles that walk between content neighbours."""

from __future__ import annotations

import faiss
import numpy as np
from numpy.typing import NDArray

from prunebench.datasets.schema import Sequences
from prunebench.recommenders.base import Config, Float32

_ROUND = 1024  # documents drawn together; part of what a seed means
_REDRAWS = 3


class WalkConfig(Config):
    """How a document wanders through the content graph. Nothing here knows of users, popularity or item numbers.

    ``shortest``, ``longest``: titles per document, uniform between them. ``neighbours``: out-degree of the graph; rank r
    is followed with probability ∝ r^-``rank_power``. The next title is a neighbour of an earlier one, whose distance back
    is geometric with parameter ``recency``; with probability ``jump`` it is any title instead.
    """

    shortest: int = 2
    longest: int = 12
    neighbours: int = 32
    rank_power: float = 1.0
    recency: float = 0.5
    jump: float = 0.05


class Documents:
    """Endless token stream of documents ``<bos> title <eos> title <eos> …`` over n distinct titles."""

    def __init__(self, tokens: Sequences, vectors: Float32, bos: int, eos: int, config: WalkConfig) -> None:
        """``tokens``: n rows of token ids; ``vectors`` float32 [n, d] of unit length, aligned with them."""
        self._config = config
        self._graph = neighbour_graph(vectors, config.neighbours)
        weights = np.arange(1, self._graph.shape[1] + 1, dtype=np.float64) ** -config.rank_power
        self._cumulative = np.cumsum(weights / weights.sum())
        # Piece r is title r with its end, piece n the start of a document: a stream is pieces laid end to end.
        ends = Sequences.from_rows([[eos]] * len(tokens))
        self._pieces = _stack(tokens.join(ends), Sequences.from_rows([[bos]]))

    def stream(self, size: int, rng: np.random.Generator) -> NDArray[np.int32]:
        """``size`` tokens of fresh documents, int32 [size]; the last document may be cut."""
        parts: list[NDArray[np.int32]] = []
        missing = size
        while missing > 0:
            text = self._pieces.take(self._round(rng)).items
            parts.append(text)
            missing -= len(text)
        return np.concatenate(parts)[:size]

    def _round(self, rng: np.random.Generator) -> NDArray[np.int64]:
        walks = self.walks(_ROUND, rng)
        lengths = rng.integers(self._config.shortest, self._config.longest + 1, _ROUND)
        starts = np.full((_ROUND, 1), len(self._graph))
        kept = np.arange(walks.shape[1] + 1) <= lengths[:, None]
        return np.concatenate([starts, walks], axis=1)[kept]

    def walks(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Title rows of ``count`` walks of the longest kind, int64 [count, longest]. A title seldom repeats in one."""
        config, n = self._config, len(self._graph)
        walks = np.empty((count, config.longest), np.int64)
        walks[:, 0] = rng.integers(n, size=count)
        for step in range(1, config.longest):
            open_ = np.arange(count)
            for _ in range(_REDRAWS):
                back = np.minimum(rng.geometric(config.recency, len(open_)), step)
                ranks = np.searchsorted(self._cumulative, rng.random(len(open_)))
                following = self._graph[walks[open_, step - back], np.minimum(ranks, self._graph.shape[1] - 1)]
                jumps = rng.random(len(open_)) < config.jump
                walks[open_, step] = np.where(jumps, rng.integers(n, size=len(open_)), following)
                open_ = open_[(walks[open_, :step] == walks[open_, step, None]).any(axis=1)]
                if not len(open_):
                    break
            else:
                walks[open_, step] = rng.integers(n, size=len(open_))
        return walks


def neighbour_graph(vectors: Float32, neighbours: int) -> NDArray[np.int64]:
    """Nearest other rows by inner product, nearest first, int64 [n, min(neighbours, n - 1)]."""
    n = len(vectors)
    width = min(neighbours, n - 1)
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(np.ascontiguousarray(vectors, np.float32))
    found = index.search(np.ascontiguousarray(vectors, np.float32), width + 1)[1]
    # A row is its own nearest unless another has equal vectors, and then it may not be found at all.
    other = found != np.arange(n)[:, None]
    other[other.all(axis=1), -1] = False
    return found[other].reshape(n, width)


def _stack(above: Sequences, below: Sequences) -> Sequences:
    return Sequences(
        np.concatenate([above.items, below.items]),
        np.concatenate([above.offsets, above.offsets[-1] + below.offsets[1:]]),
    )
