"""Batches of rows of near-equal length, padded on the left to their own longest row only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prunebench.datasets.schema import Sequences
from prunebench.recommenders.base import RecommenderError

Int64 = NDArray[np.int64]


def length_batches(
    lengths: NDArray, rows: int, tokens: int | None = None, rng: np.random.Generator | None = None
) -> list[Int64]:
    """Positions 0 … n - 1 cut into batches of near-equal length.

    ``lengths`` int [n]. A batch has at most ``rows`` rows and, padded to its longest, at most ``tokens`` tokens (one row
    longer than that is a batch of its own). With ``rng``, rows of equal length are mixed and batches come in random
    order, for training; without, the order is fixed: by length, then position. Raises RecommenderError for a bound
    below 1.
    """
    if rows < 1 or (tokens is not None and tokens < 1):
        raise RecommenderError(f"a batch needs at least 1 row and 1 token: rows={rows}, tokens={tokens}")
    lengths = np.asarray(lengths, np.int64)
    order = np.argsort(lengths, kind="stable") if rng is None else np.lexsort((rng.random(len(lengths)), lengths))
    if tokens is None:
        cuts = np.arange(rows, len(order), rows)
    else:
        cuts = _cuts(lengths[order], rows, tokens)
    batches = np.split(order, cuts) if len(order) else []
    return batches if rng is None else [batches[i] for i in rng.permutation(len(batches))]


def _cuts(ascending: Int64, rows: int, tokens: int) -> Int64:
    """Where batches of ascending lengths end. The loop is over batches: each end is found by bisection."""
    cuts, start, n = [], 0, len(ascending)
    while start < n:
        low, high = start + 1, min(start + rows, n)
        while low < high:
            middle = (low + high + 1) // 2
            if ascending[middle - 1] * (middle - start) <= tokens:
                low = middle
            else:
                high = middle - 1
        start = low
        cuts.append(start)
    return np.array(cuts[:-1], np.int64)


def pad_left(offsets: Int64, rows: NDArray, width: int | None = None) -> tuple[Int64, NDArray[np.bool_]]:
    """Where each cell of a left-padded batch comes from in the flat array, and which cells are real.

    ``offsets`` int64 [n + 1] of ragged rows; the batch is ``rows`` (positions), as wide as its longest row or ``width``
    (longer rows keep their last ``width`` cells). Returns source int64 [b, width] (0 in padding) and real bool [b, width].
    """
    ends = offsets[1:][rows]
    lengths = ends - offsets[:-1][rows]
    wide = int(lengths.max(initial=0)) if width is None else width
    from_end = np.arange(wide, 0, -1, dtype=np.int64)
    real = from_end[None, :] <= lengths[:, None]
    return np.where(real, ends[:, None] - from_end, 0), real


def padded(sequences: Sequences, rows: NDArray, fill: int = 0, shift: int = 0, width: int | None = None) -> Int64:
    """The rows' values plus ``shift``, int64 [b, longest], with ``fill`` on the left of shorter rows."""
    source, real = pad_left(sequences.offsets, rows, width)
    if not len(sequences.items):
        return np.full(source.shape, fill, np.int64)
    return np.where(real, sequences.items[source].astype(np.int64) + shift, fill)
