"""DCRec's two item graphs, built from training sequences alone, and differentiable propagation over them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from prunebench.datasets.schema import Int64, Sequences

BLOCK_PAIRS = 2**22
TIES = 4
T = TypeVar("T", Tensor, csr_array)


@dataclass(frozen=True, eq=False)
class Edges:
    """Directed edges between items 0 … n_items - 1, sorted by (row, column): int32 [e], int32 [e], floats [e]."""

    rows: NDArray[np.int32]
    columns: NDArray[np.int32]
    weights: NDArray[np.floating]

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def of(cls, rows: Int64, columns: Int64, weights: NDArray) -> Edges:
        order = np.lexsort((columns, rows))
        return cls(rows[order].astype(np.int32), columns[order].astype(np.int32), weights[order].astype(np.float32))


def transition_edges(sequences: Sequences, n_items: int) -> Edges:
    """How often two different items stand next to each other in a sequence, in either order; symmetric."""
    rows = sequences.rows_of_items()
    items = sequences.items.astype(np.int64)
    adjacent = (rows[1:] == rows[:-1]) & (items[1:] != items[:-1])
    before, after = items[:-1][adjacent], items[1:][adjacent]
    keys, counts = np.unique(np.concatenate([before * n_items + after, after * n_items + before]), return_counts=True)
    return Edges.of(keys // n_items, keys % n_items, counts)


def similarity_edges(sequences: Sequences, n_items: int, neighbours: int) -> Edges:
    """From each item to the ``neighbours`` others of the highest cosine between their sets of users; a row sums to 1.

    Item numbers decide nothing: a tie at the last place is kept whole, and left out whole where that would make more
    than four times as many neighbours. Products are made for blocks of items, so that memory is that of the
    interactions, of four million pairs, and of the edges kept, even where one user has a huge history.
    """
    keys = np.unique(sequences.rows_of_items() * n_items + sequences.items)
    users, items = keys // n_items, keys % n_items
    by_user = csr_array((np.ones(len(keys)), (users, items)), shape=(len(sequences), n_items))
    by_item = by_user.T.tocsr()
    popularity = np.bincount(items, minlength=n_items)
    reach = np.bincount(items, weights=np.bincount(users)[users] if len(users) else None, minlength=n_items)
    block_of = np.cumsum(np.minimum(reach, n_items)) // BLOCK_PAIRS
    starts = np.flatnonzero(np.diff(block_of, prepend=-1))
    found = [
        _nearest(by_item[first:last] @ by_user, first, popularity, neighbours)
        for first, last in pairwise([*starts.tolist(), n_items])
    ]
    rows, columns, together = (np.concatenate([part[i] for part in found]) for i in range(3))
    cosine = together / np.sqrt(popularity[rows] * popularity[columns])
    return Edges.of(rows, columns, cosine / np.bincount(rows, cosine, n_items)[rows])


def _nearest(together: csr_array, first: int, popularity: Int64, neighbours: int) -> tuple[Int64, Int64, NDArray]:
    """Rows, columns and common users of the block's nearest pairs; its rows are the items from ``first`` on."""
    rows = np.repeat(np.arange(together.shape[0], dtype=np.int64), np.diff(together.indptr))
    columns, counts = together.indices.astype(np.int64), together.data
    other = rows + first != columns
    rows, columns, counts = rows[other], columns[other], counts[other]
    # Within a row the cosine orders pairs as count² / popularity does, and equal ratios are equal floats.
    closeness = counts**2 / popularity[columns]
    order = np.lexsort((-closeness, rows))
    rows, columns, counts, closeness = rows[order], columns[order], counts[order], closeness[order]
    per_row = np.bincount(rows, minlength=together.shape[0])
    start = np.cumsum(per_row) - per_row
    last = np.minimum(start + np.minimum(neighbours, per_row) - 1, len(rows) - 1)
    edge = closeness[last[rows]]
    tied = np.bincount(rows[closeness >= edge], minlength=len(per_row))[rows]
    kept = np.where(tied <= TIES * neighbours, closeness >= edge, closeness > edge)
    return rows[kept] + first, columns[kept], counts[kept]


@dataclass(frozen=True, eq=False)
class Graph:
    """A sparse matrix A over the rows of the item table (item ids + 1; row 0, padding, has no edge)."""

    rows: csr_array
    _map: _Map

    @classmethod
    def of(cls, edges: Edges, table: Tensor) -> Graph:
        """For ``table`` [n_items + 1, d], of its type. Raises ValueError for an edge to no item of it."""
        weights = torch.from_numpy(edges.weights).to(table.dtype).numpy()
        rows = csr_array((weights, (edges.rows + 1, edges.columns + 1)), shape=(len(table), len(table)))
        return cls(rows, _Map(_sparse(rows, table), _sparse(rows.T.tocsr(), table)))

    def smooth(self, table: Tensor, depth: int) -> Tensor:
        """M · table, [n_items + 1, d], with M = I + (I + A + … + A^depth) / (depth + 1)."""
        return _with_mean(self.propagate, table, depth)

    def smoothing(self, ids: Tensor, depth: int) -> Tensor:
        """The rows of M of ``smooth`` at ids int64 [t], dense, [t, n_items + 1]."""
        places = ids.cpu().numpy()
        one_hot = csr_array(
            (np.ones(len(places), self.rows.dtype), places, np.arange(len(places) + 1)),
            shape=(len(places), self.rows.shape[0]),
        )
        made = _with_mean(lambda x: x @ self.rows, one_hot, depth)
        return torch.from_numpy(made.toarray()).to(ids.device)

    def propagate(self, x: Tensor) -> Tensor:
        """A · x for x [n_items + 1, d]; differentiable as often as wanted, in reverse and in forward mode."""
        return _Propagation.apply(x, self._map)


def symmetric(edges: Edges, n_items: int) -> tuple[Edges, NDArray[np.float64]]:
    """Weights w_ij / √(d_i d_j) with d the row sums, and 1 / √d, [n_items], 0 for an item without edges."""
    degrees = np.bincount(edges.rows, edges.weights, n_items)
    root = np.where(degrees > 0, 1 / np.sqrt(np.maximum(degrees, 1)), 0)
    return Edges(edges.rows, edges.columns, edges.weights * root[edges.rows] * root[edges.columns]), root


@dataclass(frozen=True, eq=False)
class _Map:
    # No tuple: functorch would look into one, and cannot wrap sparse tensors.
    matrix: Tensor
    transposed: Tensor


class _Propagation(torch.autograd.Function):
    """A product with a constant sparse matrix. PyTorch's own has no forward mode."""

    @staticmethod
    def forward(x: Tensor, by: _Map) -> Tensor:
        return by.matrix @ x

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, _Map], output: Tensor) -> None:
        ctx.by = inputs[1]

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        return _Propagation.apply(upstream[0], _Map(ctx.by.transposed, ctx.by.matrix)), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        return _Propagation.apply(tangents[0], ctx.by)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, None], x: Tensor, by: _Map) -> tuple[Tensor, int | None]:
        if in_dims[0] is None:
            return _Propagation.apply(x, by), None
        side_by_side = x.movedim(in_dims[0], 1)
        return _Propagation.apply(side_by_side.flatten(1), by).view(side_by_side.shape), 1


def _with_mean(step: Callable[[T], T], x: T, depth: int) -> T:
    """x + (x + step(x) + … + step^depth(x)) / (depth + 1), of dense or sparse."""
    total = propagated = x
    for _ in range(depth):
        propagated = step(propagated)
        total = total + propagated
    return x + total / (depth + 1)


def _sparse(matrix: csr_array, like: Tensor) -> Tensor:
    parts = (matrix.indptr.astype(np.int64), matrix.indices.astype(np.int64), matrix.data)
    pointers, columns, values = (torch.from_numpy(part).to(like.device) for part in parts)
    with warnings.catch_warnings():
        # That the layout is "in beta" is PyTorch's to know, not the user's.
        warnings.simplefilter("ignore", UserWarning)
        return torch.sparse_csr_tensor(pointers, columns, values, matrix.shape, check_invariants=False)
