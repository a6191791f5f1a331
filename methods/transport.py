"""Exact optimal transport from a subset of rows: costs in blocks, greedy covering, and swaps found by dual prices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import ot
from numpy.typing import NDArray

from prunebench.methods.base import MethodError
from prunebench.recommenders.runtime import Runtime

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
UInt64 = NDArray[np.uint64]

BLOCK = 64
"""Rows of the cost matrix looked at together: what stays in a core's cache is several times faster."""
PRODUCT = 1024
"""Rows of the cost matrix computed together by one product of matrices."""
TOLERANCE = 1e-10
"""Costs are in [0, 1]; an improvement below this is rounding."""
PIVOTS = 10**9


@dataclass(frozen=True, eq=False)
class Plan:
    """An optimal transport between uniform weights: its cost, and the prices that prove it.

    ``rows`` float64 [k] and ``columns`` float64 [m]: rows_i + columns_j ≤ c_ij, with equality where mass moves, and
    mean(rows) + mean(columns) = ``value``.
    """

    value: float
    rows: Float64
    columns: Float64


@dataclass(frozen=True, eq=False)
class Refined:
    """``chosen`` int64 [k], increasing; ``values``: the transport's cost at the start and after each swap; ``solved``."""

    chosen: Int64
    values: tuple[float, ...]
    solved: int


def cost_matrix(vectors: NDArray, targets: NDArray, effort: NDArray | None, weight: float, runtime: Runtime) -> Float32:
    """minmax(‖z_i − v_j‖ / max − λ g_i / max g) (GORACS, Mei et al. 2025), float32 [n, m]: the only copy ever made.

    ``vectors`` [n, d] and ``targets`` [m, d]; ``effort`` g ≥ 0 [n] or None, ``weight`` λ. A maximum of 0 divides nothing;
    where all costs are equal they are zeros. Distances are computed in float64.
    """
    n, m = len(vectors), len(targets)
    try:
        cost = np.empty((n, m), np.float32)
    except MemoryError:
        raise MethodError(
            f"transport costs of {n:,} samples × {m:,} validation users take {4e-9 * n * m:,.0f} GB, more than there is; set method.validation_users lower"
        ) from None
    right = np.asarray(targets, np.float64)
    lengths, squares = (np.einsum("ij,ij->i", x, x, dtype=np.float64) for x in (vectors, targets))
    # What two equal float32 vectors may differ by: rounding must not pass for distance.
    nothing = 1e-12 * (lengths.max() + squares.max())
    nearest, farthest = np.empty(n), np.empty(n)
    for rows in runtime.track(_blocks(n, PRODUCT), "transport: costs", -(-n // PRODUCT)):
        distances = np.asarray(vectors[rows], np.float64) @ right.T
        distances *= -2
        distances += lengths[rows, None]
        distances += squares
        distances[distances < nothing] = 0
        np.sqrt(distances, out=distances)
        cost[rows] = distances
        nearest[rows], farthest[rows] = distances.min(axis=1), distances.max(axis=1)
    scale = farthest.max() or 1.0
    bonus = np.zeros(n)
    if effort is not None:
        bonus = weight * np.asarray(effort, np.float64) / (np.max(effort) or 1.0)
    low = (nearest / scale - bonus).min()
    width = (farthest / scale - bonus).max() - low or 1.0
    offset = ((bonus + low) / width).astype(np.float32)
    for rows in _blocks(n, BLOCK):
        runtime.checkpoint()
        cost[rows] *= np.float32(1 / (scale * width))
        cost[rows] -= offset[rows, None]
        np.clip(cost[rows], 0, 1, out=cost[rows])
    return cost


def cover(cost: Float32, budget: int, priorities: UInt64, runtime: Runtime) -> Int64:
    """``budget`` rows found greedily so that Σ_j min over them of c_ij is small, int64, in the order of their finding.

    The row with the smallest sum comes first, then always the one that lowers Σ_j min c most (GORACS, Eq. 14). As in its
    released code, the search goes on until ``budget`` rows are nearest to some column, and the others are dropped. Where
    no row lowers the sum any more (more rows wanted than columns have nearest rows), a new covering starts among the rows
    left; the released code takes arbitrary ones. Ties go to the smaller row sum, then to the lower of ``priorities``.

    A row's gain never rises as others are chosen, so gains are bounds until they are looked at again (lazy greedy,
    Minoux 1978): the result is that of the full evaluation.
    """
    n = len(cost)
    sums, lowest = np.empty(n), np.empty(n, np.float32)
    for rows in _blocks(n, BLOCK):
        sums[rows], lowest[rows] = cost[rows].sum(axis=1), cost[rows].min(axis=1)
    place = np.empty(n, np.int64)
    place[np.lexsort((priorities, sums))] = np.arange(n)
    free = np.ones(n, bool)
    chosen: list[Int64] = []
    while (missing := budget - sum(map(len, chosen))) > 0:
        chosen.append(_covering(cost, np.flatnonzero(free), missing, place, lowest, runtime))
        free[chosen[-1]] = False
    return np.concatenate([np.empty(0, np.int64), *chosen])


def _covering(cost: Float32, free: Int64, wanted: int, place: Int64, lowest: Float32, runtime: Runtime) -> Int64:
    """One covering by at most ``wanted`` of the rows ``free``: those nearest to at least one column."""
    row = int(free[np.argmin(place[free])])
    nearest = cost[row].copy()
    holder = np.full(cost.shape[1], row)
    bounds = np.full(len(place), -1.0)
    bounds[free] = _ceilings(nearest, lowest[free])
    order = {row: 0}
    bounds[row] = -1
    holding = 1
    while holding < wanted:
        runtime.checkpoint()
        runtime.report(holding, wanted, "transport: greedy start")
        row = _most_lowering(cost, nearest, bounds, place)
        if bounds[row] <= 0:
            break
        closer = cost[row] < nearest
        nearest[closer], holder[closer] = cost[row][closer], row
        order[row] = len(order)
        bounds[row] = -1
        holding = len(np.unique(holder))
    return np.array(sorted(set(holder.tolist()), key=order.__getitem__), np.int64)


def _ceilings(nearest: Float32, lowest: Float32) -> Float64:
    """At least Σ_j max(nearest_j − c_ij, 0) for every row i, from the row's smallest cost alone; 0 only where it is 0."""
    ascending = np.sort(nearest.astype(np.float64))
    above = np.concatenate([np.cumsum(ascending[::-1])[::-1], [0.0]])
    first = np.searchsorted(ascending, lowest, side="right")
    ceilings = above[first] - (len(nearest) - first) * lowest.astype(np.float64)
    # Room for the rounding of float32 gains.
    return np.where(first < len(nearest), ceilings * (1 + 1e-5) + 1e-9, 0.0)


def _most_lowering(cost: Float32, nearest: Float32, bounds: Float64, place: Int64) -> int:
    """The row of the largest gain; ``bounds`` ≥ gains (negative: not to be chosen) are tightened on the way."""
    best, size = 0.0, 16
    fresh = bounds <= 0
    while True:
        stale = np.flatnonzero((bounds >= best) & ~fresh)
        if not len(stale):
            break
        if len(stale) > size:
            stale = stale[np.argpartition(-bounds[stale], size)[:size]]
        for block in np.split(stale, range(BLOCK, len(stale), BLOCK)):
            gains = np.take(cost, block, axis=0)
            np.maximum(np.subtract(nearest, gains, out=gains), 0, out=gains)
            bounds[block] = gains.sum(axis=1)
        fresh[stale] = True
        best = max(best, float(bounds[stale].max()))
        size *= 2
    # Every bound left at or above the best is exact.
    ties = np.flatnonzero(bounds == best) if best > 0 else np.array([int(np.argmax(bounds))])
    return int(ties[np.argmin(place[ties])])


def solve(table: Float64, start: tuple[Float64, Float64] | None = None) -> Plan:
    """The exact transport between uniform weights on the rows and on the columns of ``table`` [k, m].

    By network simplex (POT; Bonneel et al. 2011) on whole-numbered masses, from the prices ``start`` = (rows, columns)
    where given. The prices that come back are checked: a warm start that leaves a gap is thrown away. Raises MethodError
    where no optimum is proven.
    """
    k, m = table.shape
    shared = np.gcd(k, m)
    supply, demand = np.full(k, m // shared, np.float64), np.full(m, k // shared, np.float64)
    mass = float(k * m // shared)
    gap = np.inf
    for prices in (start, None) if start is not None else (None,):
        _, log = ot.emd(supply, demand, table, numItermax=PIVOTS, log=True, center_dual=False, potentials_init=prices)
        value, rows = float(log["cost"]) / mass, np.asarray(log["u"], np.float64)
        columns = (table - rows[:, None]).min(axis=0)
        gap = value - float(rows.mean() + columns.mean())
        if abs(gap) <= TOLERANCE:
            return Plan(value, rows, columns)
    raise MethodError(
        f"the optimal transport of {k} rows to {m} columns is not solved: a duality gap of {gap:.2g} is left"
    )


def refine(
    cost: Float32, chosen: Int64, exchanges: int, candidates: int, patience: int, priorities: UInt64, runtime: Runtime
) -> Refined:
    """Swap rows in and out while that lowers the exact transport's cost: stage 2 of GORACS' ITRA.

    With the other rows' prices kept, the dual problem in one row's price y is solved in closed form: y is the
    ⌈m / k⌉-th smallest of c_ij − f_j, f_j = min over the other rows of c_sj − price_s. That gives every row outside its
    estimated marginal improvement (Theorem 4.3), every row inside its own, and every pair of them a lower bound on the cost
    after their swap. Of the ``candidates`` best of either kind the pairs are solved exactly, the lowest bound first,
    those whose bound shows no improvement never; the first that improves is made and the prices are computed anew. It
    ends after ``exchanges`` swaps, or when all pairs or ``patience`` of them in a row have failed.
    """
    n = len(cost)
    chosen = np.sort(chosen)
    k = len(chosen)
    table = cost[chosen].astype(np.float64)
    plan = solve(table)
    values, solved = [plan.value], 1
    # With one row there is no other row whose prices could be kept, and the greedy start is the optimum.
    for _ in runtime.track(range(exchanges if 1 < k < n else 0), "transport: swaps"):
        outside = np.ones(n, bool)
        outside[chosen] = False
        others = np.flatnonzero(outside)
        gains = _improvements(cost, others, plan.columns, k, runtime)
        entering = others[np.lexsort((priorities[others], gains))[:candidates]]
        swaps = _swaps(table, plan, cost[entering].astype(np.float64), candidates, priorities[chosen], runtime)
        better = None
        for slot, row, price in swaps[:patience]:
            runtime.checkpoint()
            before = table[slot].copy()
            table[slot] = cost[entering[row]]
            rows = plan.rows.copy()
            rows[slot] = price
            trial, solved = solve(table, (rows, (table - rows[:, None]).min(axis=0))), solved + 1
            if trial.value < plan.value - TOLERANCE:
                better, chosen[slot] = trial, entering[row]
                break
            table[slot] = before
        if better is None:
            break
        plan = better
        values.append(plan.value)
    return Refined(np.sort(chosen), tuple(values), solved)


def _improvements(cost: Float32, rows: Int64, columns: Float64, k: int, runtime: Runtime) -> Float64:
    """What the dual gains from one more row of mass 1/k, the others' prices kept (lower is the better row), [rows]."""
    gains, prices = np.empty(len(rows)), columns.astype(np.float32)
    for block in _blocks(len(rows), BLOCK):
        runtime.checkpoint()
        gains[block] = _best_price(np.take(cost, rows[block], axis=0) - prices, k)[1]
    return gains


def _best_price(reduced: NDArray, k: int) -> tuple[NDArray, NDArray]:
    """For each row, the y that maximises y / k + mean_j min(reduced_j − y, 0), and the maximum. ``reduced`` is reordered."""
    m = reduced.shape[1]
    rank = -(-m // k)
    reduced.partition(rank - 1, axis=1)
    price = reduced[:, rank - 1].copy()
    return price, price / k + (reduced[:, :rank].sum(axis=1) - rank * price) / m


def _swaps(
    table: Float64, plan: Plan, entering: Float64, candidates: int, priorities: UInt64, runtime: Runtime
) -> list[tuple[int, int, float]]:
    """Pairs (slot that leaves, row of ``entering``, its price) that may improve the plan, the lowest bound first.

    The slots are the ``candidates`` that contribute least: their columns are taken over by the others at the lowest cost.
    """
    k, m = table.shape
    reduced = table - plan.rows[:, None]
    holder = reduced.argmin(axis=0)
    reduced[holder, np.arange(m)] = np.inf
    second = reduced.min(axis=0)
    del reduced
    # The dual without a slot: its price is lost, and its columns pay their second choice.
    without = plan.value + np.bincount(holder, second - plan.columns, minlength=k) / m - plan.rows / k
    leaving = np.lexsort((priorities, without))[:candidates]
    bounds, prices = np.empty((len(leaving), len(entering))), np.empty((len(leaving), len(entering)))
    for place, slot in enumerate(leaving):
        runtime.checkpoint()
        columns = np.where(holder == slot, second, plan.columns)
        prices[place], gained = _best_price(entering - columns, k)
        bounds[place] = without[slot] + gained
    promising = np.argsort(bounds, axis=None, kind="stable")
    promising = promising[bounds.ravel()[promising] < plan.value - TOLERANCE]
    places, rows = np.divmod(promising, len(entering))
    return [(int(leaving[a]), int(b), float(prices[a, b])) for a, b in zip(places, rows, strict=True)]


def _blocks(n: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, n)) for start in range(0, n, size))
