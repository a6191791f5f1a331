"""What a quantiser makes of vectors: codes per level, and what the codes say of the vectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from prunebench.recommenders.base import Float32


@dataclass(frozen=True, eq=False)
class Quantised:
    """``codes`` int64 [n, levels] of n vectors, ``codebooks`` float32 [size, width] per level, and ``reconstruction``,
    float32 [n, d], of the vectors from their codes. ``notes``: figures about the training."""

    codes: NDArray[np.int64]
    codebooks: tuple[Float32, ...]
    reconstruction: Float32
    notes: Mapping[str, float | int | str] = field(default_factory=dict)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Codes of each level's codebook."""
        return tuple(len(codebook) for codebook in self.codebooks)

    def reconstruction_error(self, rows: Float32, counts: NDArray[np.int64]) -> float:
        """Mean squared distance of ``rows`` [n, d] to the reconstruction, relative to that to their mean.

        Each row counts ``counts`` [n] times. 0 for rows that are all alike.
        """
        mean = np.average(rows, axis=0, weights=counts)
        spread = counts @ np.square(rows - mean).sum(axis=1, dtype=np.float64)
        lost = counts @ np.square(rows - self.reconstruction).sum(axis=1, dtype=np.float64)
        return float(lost / spread) if spread > 0 else 0.0


def different(
    rows: Float32, counts: NDArray[np.int64] | None = None
) -> tuple[Float32, NDArray[np.int64], NDArray[np.int64]]:
    """The different rows of ``rows`` [n, d] in an order of their own, which of them each row is, and the sum of their
    ``counts`` [n], 1 by default."""
    # One key per row; -0 and 0 are to be the same bytes.
    keys = np.ascontiguousarray(rows + np.float32(0)).view(np.dtype((np.void, 4 * rows.shape[1])))[:, 0]
    _, first, member = np.unique(keys, return_index=True, return_inverse=True)
    ones = np.ones(len(rows), np.int64) if counts is None else counts
    return rows[first], member, np.bincount(member, weights=ones, minlength=len(first)).astype(np.int64)
