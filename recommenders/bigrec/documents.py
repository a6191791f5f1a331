"""Pre-training text of the catalogue LLM: documents of titles that walk between content neighbours."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from prunebench.datasets.schema import Sequences
from prunebench.recommenders.base import Config, Float32

_ROUND = 1024  # documents drawn together; part of what a seed means


class WalkConfig(Config):
    """How a document wanders among the titles. Nothing here knows of users, popularity or item numbers.

    ``shortest``, ``longest``: titles per document, uniform between them. The next title is, with probability ``gather``,
    one near the mean of the last ``window`` titles; with probability ``jump`` any title; else one near a single earlier
    title, whose distance back is geometric with parameter ``recency``. "Near" is one of the ``neighbours`` nearest titles
    that the document does not hold yet, rank r with probability ∝ r^-``rank_power``.
    """

    shortest: int = Field(2, ge=1)
    longest: int = Field(12, ge=1)
    gather: float = Field(0.5, ge=0, le=1)
    jump: float = Field(0.25, ge=0, le=1)
    window: int = Field(10, ge=1)
    recency: float = Field(0.5, gt=0, le=1)
    neighbours: int = Field(32, ge=1)
    rank_power: float = Field(1.3, ge=0)

    def model_post_init(self, context: Any) -> None:
        if self.shortest > self.longest:
            raise ValueError(f"shortest ({self.shortest}) is above longest ({self.longest})")
        if self.gather + self.jump > 1:
            raise ValueError(f"gather ({self.gather}) and jump ({self.jump}) are more than 1 together")


class Documents:
    """Endless token stream of documents ``<bos> title <eos> title <eos> …`` over n distinct titles."""

    def __init__(self, tokens: Sequences, vectors: Float32, bos: int, eos: int, config: WalkConfig) -> None:
        """``tokens``: n rows of token ids; ``vectors`` float32 [n, d] of unit length, aligned with them."""
        self._config = config
        self._vectors = np.ascontiguousarray(vectors, np.float32)
        self._index = faiss.IndexFlatIP(vectors.shape[1])
        self._index.add(self._vectors)
        weights = np.arange(1, config.neighbours + 1, dtype=np.float64) ** -config.rank_power
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
        starts = np.full((_ROUND, 1), len(self._vectors))
        kept = np.arange(walks.shape[1] + 1) <= lengths[:, None]
        return np.concatenate([starts, walks], axis=1)[kept]

    def walks(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Title rows of ``count`` walks, int64 [count, min(longest, n)]. Only a jump can come to a title twice."""
        config, n = self._config, len(self._vectors)
        walks = np.empty((count, min(config.longest, n)), np.int64)
        walks[:, 0] = rng.integers(n, size=count)
        for step in range(1, walks.shape[1]):
            back = np.minimum(rng.geometric(config.recency, count), step)
            centre = self._vectors[walks[np.arange(count), step - back]]
            kind = rng.random(count)
            gather = kind < config.gather
            centre[gather] = self._vectors[walks[gather, max(0, step - config.window) : step]].mean(axis=1)
            near = self._near(centre, walks[:, :step], rng.random(count))
            jump = kind >= 1 - config.jump
            walks[:, step] = np.where(jump, rng.integers(n, size=count), near)
        return walks

    def _near(self, centre: Float32, taken: NDArray[np.int64], draw: NDArray[np.float64]) -> NDArray[np.int64]:
        """A title near each row of ``centre`` [m, d] that is not in its row of ``taken`` [m, t], int64 [m]."""
        width = min(self._config.neighbours + taken.shape[1], len(self._vectors))
        found = self._index.search(centre, width)[1]
        free = ~(found[:, :, None] == taken[:, None, :]).any(axis=2)
        order = free.cumsum(axis=1)
        rank = np.searchsorted(self._cumulative[:-1], draw, side="right") + 1
        chosen = free & (order == np.minimum(rank, order[:, -1])[:, None])
        return found[np.arange(len(found)), chosen.argmax(axis=1)]


def _stack(above: Sequences, below: Sequences) -> Sequences:
    return Sequences(
        np.concatenate([above.items, below.items]),
        np.concatenate([above.offsets, above.offsets[-1] + below.offsets[1:]]),
    )
