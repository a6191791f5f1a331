"""What a surrogate is shown: windows of sequences, and draws that are a pure function of (seed, sample id, position)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prunebench.datasets.schema import Int64, Sequences
from prunebench.recommenders.batching import pad_left

_ATTEMPTS = 8


@dataclass(frozen=True, eq=False)
class Windows:
    """For each row of ``sequences``, its last ``max_length`` pairs of an item seen and one to predict; flat, t in all.

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
        """Pairs of an item and the next one."""
        rows = sequences.rows_of_items()
        keys = np.unique(rows * n_items + sequences.items)
        first, last = sequences.offsets[:-1][rows], sequences.offsets[1:][rows]
        place = np.arange(len(rows), dtype=np.int64)
        in_window = place >= last - (max_length + 1)
        as_input = in_window & (place < last - 1)
        as_target = in_window & (place > np.maximum(first, last - (max_length + 1)))
        inputs = Sequences.from_flat(sequences.items[as_input], np.bincount(rows[as_input], minlength=len(sequences)))
        return cls(inputs, sequences.items[as_target], (place - first)[as_target], keys, n_items)

    @classmethod
    def whole(cls, sequences: Sequences, max_length: int, n_items: int) -> Windows:
        """Pairs of an item and itself: what a model that is to fill in masked items starts from."""
        tails = sequences.tail(max_length)
        rows = tails.rows_of_items()
        places = np.arange(len(rows)) - tails.offsets[1:][rows] + sequences.lengths[rows]
        keys = np.unique(sequences.rows_of_items() * n_items + sequences.items)
        return cls(tails, tails.items, places, keys, n_items)

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


class Batch(NamedTuple):
    """Some rows of ``Examples``, left-padded to [b, l]. Items count from 1; padding is 0 and weighs nothing.

    ``rows`` int64 [b] are the samples' positions; ``cells`` where each cell lies among the flat ones (0 in padding).
    """

    rows: Int64
    cells: Tensor
    real: Tensor
    inputs: Tensor
    targets: Tensor
    negatives: Tensor | None
    weight: Tensor

    def asked(self) -> Tensor | None:
        """Columns int64 [b, m] that hold every cell with a weight, m ≤ l as small as can be; None where m = l."""
        weighs = self.weight > 0
        most = max(int(weighs.sum(1).max()), 1)
        if most == weighs.shape[1]:
            return None
        return weighs.byte().argsort(dim=1, descending=True, stable=True)[:, :most]


@dataclass(frozen=True, eq=False)
class Examples:
    """One look at n samples, t cells in all, flat: what is seen, what is to be predicted, and how much that counts.

    ``offsets`` int64 [n + 1]; ``inputs``, ``targets`` and ``negatives`` (None: softmax over all items) int32 [t], items
    counted from 1; ``weights`` float32 [t]: a cell's share in its sample's loss, summing to 1 over a sample.
    """

    offsets: Int64
    inputs: NDArray[np.int32]
    targets: NDArray[np.int32]
    negatives: NDArray[np.int32] | None
    weights: NDArray[np.float32]

    @classmethod
    def of(cls, windows: Windows, negatives: NDArray[np.int32] | None) -> Examples:
        """Every pair of the windows, all of a sample's weighing the same."""
        lengths = windows.inputs.lengths
        return cls(
            windows.inputs.offsets,
            windows.inputs.items + np.int32(1),
            windows.targets + np.int32(1),
            None if negatives is None else negatives + np.int32(1),
            np.repeat(1 / np.maximum(lengths, 1), lengths).astype(np.float32),
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Int64:
        return np.diff(self.offsets)

    @cached_property
    def counting(self) -> Int64:
        """Cells that weigh anything, int64 [n]."""
        return np.diff(np.concatenate([[0], np.cumsum(self.weights > 0)])[self.offsets])

    def batch(self, rows: Int64, device: torch.device, width: int | None = None) -> Batch:
        """The given rows, padded to the longest or to ``width``."""
        cells, real = pad_left(self.offsets, rows, width)

        def tensor(values: NDArray) -> Tensor:
            return torch.from_numpy(values).to(device)

        def items(flat: NDArray[np.int32]) -> Tensor:
            return tensor(np.where(real, flat[cells], 0).astype(np.int64))

        return Batch(
            rows,
            tensor(cells),
            tensor(real),
            items(self.inputs),
            items(self.targets),
            None if self.negatives is None else items(self.negatives),
            tensor(np.where(real, self.weights[cells], np.float32(0))),
        )


def hashed_items(ids: Int64, places: Int64, seed: int, n_items: int, attempt: int = 0) -> Int64:
    """Items 0 … n_items - 1, int64 [t], as if drawn uniformly, but a function of (seed, attempt, id, place) alone."""
    # Multiply and shift in place of a remainder; its bias is below n_items / 2³².
    state = _hashed(ids, places, seed, attempt)
    return (((state >> np.uint64(32)) * np.uint64(n_items)) >> np.uint64(32)).astype(np.int64)


def hashed_shares(ids: Int64, places: Int64, seed: int) -> NDArray[np.float64]:
    """Numbers in [0, 1), float64 [t], as if drawn uniformly, but a function of (seed, id, place) alone."""
    return (_hashed(ids, places, seed, 0) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _hashed(ids: Int64, places: Int64, seed: int, attempt: int) -> NDArray[np.uint64]:
    state = _mix(_mix(np.array([seed], np.uint64)) + np.uint64(attempt))
    return _mix(_mix(state + ids.astype(np.uint64)) + places.astype(np.uint64))


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's step: a bijective hash of 64-bit integers."""
    z = state + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
