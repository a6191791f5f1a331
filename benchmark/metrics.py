"""Tie-aware ranking metrics per user, and their means over users, warm targets and cold targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from prunebench.datasets.schema import Queries, RecDataset, Sequences
from prunebench.recommenders.base import Rankings

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

CUTOFFS = (5, 10, 20, 50)


class MetricError(ValueError):
    """Rankings or targets break their contract; the message says which row and how."""


@dataclass(frozen=True, eq=False)
class PerUser:
    """Metrics of n users at c cut-offs: ``recall``, ``ndcg``, ``precision`` and ``mrr``, float64 [n, c].

    A user without a target has NaN everywhere and counts in no mean. The m distinct (user, target) pairs are kept with
    what each contributed, so that any subset of targets can be averaged apart: ``target_rows`` int64 [m],
    ``target_items`` int64 [m], expected ``hits`` and discounted ``gains`` float64 [m, c].
    """

    cutoffs: tuple[int, ...]
    recall: Float64
    ndcg: Float64
    precision: Float64
    mrr: Float64
    target_rows: Int64
    target_items: Int64
    hits: Float64
    gains: Float64

    def __len__(self) -> int:
        return len(self.recall)


def evaluate(rankings: Rankings, targets: Sequences, cutoffs: tuple[int, ...] = CUTOFFS) -> PerUser:
    """Recall, NDCG, precision and MRR of each row at each cut-off, in expectation over the order of equal scores.

    An item of the tie group on ranks a + 1 … a + g is among the first K with probability clip((K − a) / g, 0, 1), and
    its expected gain is the mean over those ranks r of [r ≤ K] / log2(r + 1) (McSherry & Najork, ECIR 2008). Repeated
    targets count once. Recall@K = hits / |targets|; NDCG@K divides by the ideal for min(K, |targets|) targets; MRR@K
    is the expectation of [r ≤ K] / r for the first hit's rank r, exact for any number of tied targets.
    Items absent from a row count as not ranked: rows must go as deep as the largest cut-off, tie groups whole.

    Raises MetricError where the numbers of rows differ, scores increase in a row or are NaN, or a row repeats a target.
    """
    n = len(targets)
    if len(rankings) != n:
        raise MetricError(f"{len(rankings)} rankings for {n} rows of targets")
    if not cutoffs or min(cutoffs) < 1:
        raise MetricError(f"cut-offs must be positive integers, not {cutoffs}")
    ks = np.asarray(cutoffs, np.int64)
    base = _base(rankings.items, targets.items)
    target_keys = np.unique(targets.rows_of_items() * base + targets.items)
    target_rows = target_keys // base
    n_targets = np.bincount(target_rows, minlength=n)

    before, size = _tie_groups(rankings)
    keys = _rows(rankings) * base + rankings.items
    slot = np.searchsorted(target_keys, keys)
    slot[slot == len(target_keys)] = 0
    found = np.flatnonzero(target_keys[slot] == keys) if len(target_keys) else np.empty(0, np.int64)
    slot, before, size = slot[found], before[found], size[found]
    if len(np.unique(slot)) != len(slot):
        row = int(target_rows[slot[np.bincount(slot)[slot] > 1][0]])
        raise MetricError(f"row {row} of the rankings lists an item twice")

    hits = np.zeros((len(target_keys), len(ks)))
    gains = np.zeros_like(hits)
    hits[slot] = np.clip((ks - before[:, None]) / size[:, None], 0, 1)
    discounts = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, ks.max() + 2)))])
    within = discounts[np.minimum((before + size)[:, None], ks)] - discounts[np.minimum(before[:, None], ks)]
    gains[slot] = within / size[:, None]

    recall, ndcg = _recall_ndcg(target_rows, hits, gains, n, ks)
    counted = np.where(n_targets > 0, 1.0, np.nan)[:, None]
    precision = _sum_by_row(target_rows, hits, n) / ks * counted
    mrr = _reciprocal_ranks(target_rows[slot], before, size, n, ks) * counted
    return PerUser(
        tuple(cutoffs), recall, ndcg, precision, mrr, target_rows, target_keys - target_rows * base, hits, gains
    )


def mask(rankings: Rankings, histories: Sequences) -> Rankings:
    """The rankings without each row's own history items.

    A target that is also in the history can then not be hit. Ask for as many more items as a history holds.
    """
    if len(rankings) != len(histories):
        raise MetricError(f"{len(rankings)} rankings for {len(histories)} histories")
    rows = _rows(rankings)
    base = _base(rankings.items, histories.items)
    keep = ~np.isin(rows * base + rankings.items, histories.rows_of_items() * base + histories.items)
    kept = np.bincount(rows[keep], minlength=len(rankings))
    offsets = np.concatenate([[0], np.cumsum(kept)]).astype(np.int64)
    return Rankings(rankings.items[keep], rankings.scores[keep], offsets)


def check_rankings(rankings: Rankings, depth: Int64, n_items: int) -> None:
    """Raise MetricError unless the rankings keep the contract for ``depth`` int64 [n] over ``n_items`` items.

    Each row lists distinct items 0 … n_items − 1, at least min(depth, n_items) of them, scores not increasing, no NaN.
    Without this a backbone that returns too few items would be read as one that misses.
    """
    if len(rankings) != len(depth):
        raise MetricError(f"{len(rankings)} rankings for {len(depth)} queries")
    _tie_groups(rankings)
    short = np.flatnonzero(np.diff(rankings.offsets) < np.minimum(depth, n_items))
    if len(short):
        row = int(short[0])
        held = int(rankings.offsets[row + 1] - rankings.offsets[row])
        raise MetricError(f"row {row} of the rankings holds {held} items where {min(int(depth[row]), n_items)} are due")
    foreign = np.flatnonzero((rankings.items < 0) | (rankings.items >= n_items))
    if len(foreign):
        row, item = int(_rows(rankings)[foreign[0]]), int(rankings.items[foreign[0]])
        raise MetricError(f"row {row} of the rankings names item {item}, outside 0 … {n_items - 1}")
    keys = np.sort(_rows(rankings) * n_items + rankings.items)
    twice = np.flatnonzero(keys[1:] == keys[:-1])
    if len(twice):
        raise MetricError(f"row {int(keys[twice[0]]) // n_items} of the rankings lists an item twice")


def summarise(per_user: PerUser, queries: Queries, dataset: RecDataset) -> dict[str, Any]:
    """Means over the users with a target, as plain JSON: metric → cut-off (text) → mean.

    ``warm`` and ``cold`` average recall and NDCG over the users with at least one such target, counting only those
    targets; cold means that the item never occurs in train. Each part carries its number of users and of targets. A
    mean over nobody is None.
    """
    if len(per_user) != len(queries):
        raise MetricError(f"metrics of {len(per_user)} users for {len(queries)} queries")
    counted = ~np.isnan(per_user.recall[:, 0])

    def means(values: Float64, rows: NDArray[np.bool_]) -> dict[str, float | None]:
        return {str(k): float(values[rows, at].mean()) if rows.any() else None for at, k in enumerate(per_user.cutoffs)}

    summary: dict[str, Any] = {"users": int(counted.sum()), "targets": len(per_user.target_rows)}
    for name in ("recall", "ndcg", "precision", "mrr"):
        summary[name] = means(getattr(per_user, name), counted)
    warm = dataset.popularity[per_user.target_items] > 0
    ks = np.asarray(per_user.cutoffs, np.int64)
    for name, part in (("warm", warm), ("cold", ~warm)):
        rows = per_user.target_rows[part]
        recall, ndcg = _recall_ndcg(rows, per_user.hits[part], per_user.gains[part], len(per_user), ks)
        having = ~np.isnan(recall[:, 0])
        summary[name] = {
            "users": int(having.sum()),
            "targets": len(rows),
            "recall": means(recall, having),
            "ndcg": means(ndcg, having),
        }
    return summary


def coverage(rankings: Rankings, cutoffs: Sequence[int]) -> dict[str, int]:
    """Catalogue coverage: how many distinct items the first k of all rows hold, as listed; cut-off (text) → items."""
    rank = np.arange(len(rankings.items), dtype=np.int64) - rankings.offsets[_rows(rankings)]
    return {str(k): len(np.unique(rankings.items[rank < k])) for k in cutoffs}


def _rows(rankings: Rankings) -> Int64:
    return np.repeat(np.arange(len(rankings), dtype=np.int64), np.diff(rankings.offsets))


def _base(*items: NDArray[np.int32]) -> int:
    """A number above every item, so that row · base + item is one key per (row, item)."""
    return 1 + max(int(part.max(initial=0)) for part in items)


def _tie_groups(rankings: Rankings) -> tuple[Int64, Int64]:
    """For each ranked item, how many items of its row score higher, and how many score the same (itself included)."""
    total = len(rankings.items)
    starts_row = np.zeros(total + 1, bool)
    starts_row[rankings.offsets] = True
    scores = rankings.scores
    unordered = np.flatnonzero(~((scores[1:] <= scores[:-1]) | starts_row[1:total]) | np.isnan(scores[1:]))
    if len(unordered) or (total and np.isnan(scores[0])):
        at = int(unordered[0]) + 1 if len(unordered) else 0
        row = int(np.searchsorted(rankings.offsets, at, side="right")) - 1
        raise MetricError(f"row {row} of the rankings is not in order of non-increasing scores, or has a NaN")
    starts_group = starts_row[:total].copy()
    starts_group[1:] |= scores[1:] != scores[:-1]
    firsts = np.flatnonzero(starts_group)
    group = np.cumsum(starts_group) - 1
    sizes = np.diff(np.append(firsts, total))
    row_starts = np.repeat(rankings.offsets[:-1], np.diff(rankings.offsets))
    return firsts[group] - row_starts, sizes[group]


def _sum_by_row(rows: Int64, values: Float64, n: int) -> Float64:
    columns = [np.bincount(rows, values[:, at], minlength=n) for at in range(values.shape[1])]
    return np.stack(columns, axis=1).astype(np.float64)


def _recall_ndcg(rows: Int64, hits: Float64, gains: Float64, n: int, ks: Int64) -> tuple[Float64, Float64]:
    """Recall and NDCG [n, c] from each target's contribution; NaN for rows without a target."""
    count = np.bincount(rows, minlength=n)[:, None]
    most = int(max(count.max(initial=0), 1))
    ideal = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, most + 2)))])
    nobody = count == 0
    recall = np.where(nobody, np.nan, _sum_by_row(rows, hits, n) / np.maximum(count, 1))
    best = ideal[np.minimum(count, ks)]
    return recall, np.where(nobody, np.nan, _sum_by_row(rows, gains, n) / np.where(nobody, 1.0, best))


def _reciprocal_ranks(rows: Int64, before: Int64, size: Int64, n: int, ks: Int64) -> Float64:
    """Expected reciprocal rank of the first hit, [n, c], from the hits' rows and tie groups.

    The first hit lies in the first group that holds a target. With m targets among its g items, the first of them is at
    place j of the group with probability C(g − j, m − 1) / C(g, m).
    """
    result = np.zeros((n, len(ks)))
    if not len(rows):
        return result
    order = np.lexsort((before, rows))
    rows, before, size = rows[order], before[order], size[order]
    new_group = np.ones(len(rows), bool)
    new_group[1:] = (rows[1:] != rows[:-1]) | (before[1:] != before[:-1])
    firsts = np.flatnonzero(new_group)
    tied = np.diff(np.append(firsts, len(rows)))
    first_in_row = np.ones(len(firsts), bool)
    first_in_row[1:] = rows[firsts[1:]] != rows[firsts[:-1]]
    rows, before, size, tied = (part[first_in_row] for part in (rows[firsts], before[firsts], size[firsts], tied))

    places = np.clip(np.minimum(size - tied + 1, ks.max() - before), 0, None)
    who = np.repeat(np.arange(len(rows)), places)
    j = np.arange(len(who)) - np.repeat(np.cumsum(places) - places, places) + 1
    g, m = size[who].astype(np.float64), tied[who].astype(np.float64)
    chance = np.exp(_log_choose(g - j, m - 1) - _log_choose(g, m))
    rank = before[who] + j
    for at, k in enumerate(ks):
        result[:, at] = np.bincount(rows[who], np.where(rank <= k, chance / rank, 0.0), minlength=n)
    return result


def _log_choose(n: Float64, k: Float64) -> Float64:
    return gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
