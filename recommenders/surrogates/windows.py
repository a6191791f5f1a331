"""Next-item training windows over ragged sequences, and negatives that are a pure function of (seed, id, position)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prunebench.datasets.schema import Int64, Sequences

_ATTEMPTS = 8


@dataclass(frozen=True, eq=False)
class Windows:
    """For each row of ``sequences``, its last ``max_length`` (item, next item) pairs; flat, t pairs in all.

    ``inputs`` n rows of items; ``targets`` int32 [t], aligned with ``inputs.items``; ``places`` int64 [t], the target's
    index in the whole sequence; ``keys`` int64, sorted (row, item) pairs of the whole sequences.
    """

    inputs: Sequences
    targets: NDArray[np.int32]
    places: Int64
    keys: Int64
    n_items: int

    @classmethod
    def of(cls, sequences: Sequences, max_length: int, n_items: int) -> Windows:
        rows = sequences.rows_of_items()
        keys = np.unique(rows * n_items + sequences.items)
        first, last = sequences.offsets[:-1][rows], sequences.offsets[1:][rows]
        place = np.arange(len(rows), dtype=np.int64)
        in_window = place >= last - (max_length + 1)
        as_input = in_window & (place < last - 1)
        as_target = in_window & (place > np.maximum(first, last - (max_length + 1)))
        inputs = Sequences.from_flat(sequences.items[as_input], np.bincount(rows[as_input], minlength=len(sequences)))
        return cls(inputs, sequences.items[as_target], (place - first)[as_target], keys, n_items)

    def negatives(self, ids: NDArray, seed: int) -> NDArray[np.int32]:
        """One item per pair, int32 [t], hashed from (seed, ids[row], place), so that every pass sees the same ones.

        An item of the row's own sequence is hashed again, up to eight times; a row that has nearly everything may keep one.
        """
        rows = self.inputs.rows_of_items()
        owner = np.asarray(ids, np.int64)[rows]
        drawn = hashed_items(owner, self.places, seed, self.n_items)
        pending = np.flatnonzero(self._interacted(rows, drawn))
        for attempt in range(1, _ATTEMPTS):
            if not len(pending):
                break
            drawn[pending] = hashed_items(owner[pending], self.places[pending], seed, self.n_items, attempt)
            pending = pending[self._interacted(rows[pending], drawn[pending])]
        return drawn.astype(np.int32)

    def _interacted(self, rows: Int64, items: Int64) -> NDArray[np.bool_]:
        key = rows * self.n_items + items
        found = np.searchsorted(self.keys, key)
        return self.keys[np.minimum(found, len(self.keys) - 1)] == key


def hashed_items(ids: Int64, places: Int64, seed: int, n_items: int, attempt: int = 0) -> Int64:
    """Items 0 … n_items - 1, int64 [t], as if drawn uniformly, but a function of (seed, attempt, id, place) alone."""
    state = _mix(_mix(np.array([seed], np.uint64)) + np.uint64(attempt))
    state = _mix(_mix(state + ids.astype(np.uint64)) + places.astype(np.uint64))
    # Multiply and shift in place of a remainder; its bias is below n_items / 2³².
    return (((state >> np.uint64(32)) * np.uint64(n_items)) >> np.uint64(32)).astype(np.int64)


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's step: a bijective hash of 64-bit integers."""
    z = state + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
