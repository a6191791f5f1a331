"""Redrawing the users and the seeds of a table of runs: resampled means, and studentised deviations of differences.

A table holds values float64 [rows, cells, users], a cell being one (selection seed, fine-tuning seed). ``Selections``: for
each selection seed that counts, the cells of its fine-tuning seeds, int64. Users are *crossed* with seeds, so one resample
draws one set of users for all seeds and rows ("pigeonhole bootstrap": Owen, Annals of Applied Statistics 2007); drawing
users afresh within each seed would divide their variance by the number of seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
Selections = Sequence[Int64]

LEVEL = 0.95
ROUNDING = 1e-12
"""Spread below this share of the largest value is rounding: there is none."""
_CANCELLED = 1e-14
"""The same of a variance, left by sums of squares that cancel out."""
_BLOCK = 4_000_000
"""Users drawn at once, over all resamples of a block: bounds the memory, whatever the number of resamples."""


@dataclass(frozen=True, eq=False)
class Pair:
    """The difference ``row`` − ``against``, over the selection seeds that both have."""

    row: int
    against: int
    selections: Selections

    def units(self, values: Float64) -> Float64:
        """Differences [selections, users], each the mean over the selection's fine-tuning seeds."""
        return unit_means(values[self.row] - values[self.against], self.selections)


def unit_means(values: Float64, selections: Selections) -> Float64:
    """Means over the fine-tuning seeds of each selection, [selections, users], from values [cells, users]."""
    return np.stack([values[cells].mean(axis=0) for cells in selections])


def standard_error(units: Float64) -> float:
    """Of the mean of units [seeds, users], had both seeds and users been others; 0 where only rounding is left."""
    centred = units - units.mean()
    of_seeds, of_users = (np.square(centred.mean(axis=axis)).mean() for axis in (1, 0))
    variance = crossed_variance(np.zeros(()), of_seeds, of_users, np.square(centred).mean(), *units.shape)
    error = math.sqrt(max(float(variance), 0.0))
    return error if error > ROUNDING * np.abs(units).max() else 0.0


def crossed_variance(
    mean: Float64, of_seeds: Float64, of_users: Float64, of_cells: Float64, seeds: int, users: int
) -> Float64:
    """Variance of the mean of a table seeds × users whose rows and columns are both random, for arrays of any shape.

    ``of_seeds``, ``of_users``, ``of_cells``: means of the squared means per seed, per user, and of the squared entries.
    From the mean squares of the two-way layout, (MS_seeds + MS_users − MS_rest) / (seeds · users), with neither factor's
    component let below zero (Searle, Casella & McCulloch, Variance Components, 1992, ch. 4).
    """
    square = mean**2
    between_seeds = users * seeds * (of_seeds - square)
    between_users = users * seeds * (of_users - square)
    rest = users * seeds * (of_cells - square) - between_seeds - between_users
    free_seeds, free_users = max(seeds - 1, 1), max(users - 1, 1)
    noise = np.maximum(rest, 0.0) / (free_seeds * free_users)
    factors = np.maximum(between_seeds / free_seeds, noise) + np.maximum(between_users / free_users, noise)
    return (factors - noise) / (seeds * users)


def user_counts(generator: np.random.Generator, group: Int64, resamples: int) -> Float64:
    """How often each group of users is drawn when as many users as there are are drawn anew, [resamples, groups].

    ``group`` int64 [users]: users with the same values everywhere may share a group, which leaves fewer columns.
    """
    groups = int(group.max()) + 1
    drawn = group[generator.integers(len(group), size=(resamples, len(group)))]
    drawn += groups * np.arange(resamples, dtype=np.int64)[:, None]
    return np.bincount(drawn.ravel(), minlength=resamples * groups).reshape(resamples, groups).astype(np.float64)


def seed_weights(generator: np.random.Generator, sizes: Sequence[int], resamples: int) -> Float64:
    """Weights of the cells in each drawn selection seed, [resamples, n drawn, cells]; each sums to 1.

    ``sizes``: number of fine-tuning seeds of each of n selection seeds, whose cells follow one another. n selections are
    drawn with replacement, and for every one drawn its fine-tuning seeds afresh.
    """
    size = np.asarray(sizes, np.int64)
    n, most, cells = len(size), int(size.max()), int(size.sum())
    drawn = generator.integers(n, size=(resamples, n))
    here = size[drawn][..., None]
    within = (generator.random((resamples, n, most)) * here).astype(np.int64)
    share = np.where(np.arange(most) < here, 1 / here, 0.0)
    cell = (np.cumsum(size) - size)[drawn][..., None] + within
    place = np.arange(resamples * n, dtype=np.int64).reshape(resamples, n, 1) * cells + cell
    weights = np.bincount(place.ravel(), share.ravel(), resamples * n * cells).astype(np.float64)
    return weights.reshape(resamples, n, cells)


def widening(n: int) -> float:
    """What to multiply the spread of redraws of n seeds by, so that 95% of them cover as much as the t interval does.

    Redraws spread less than new seeds would, by √((n − 1) / n), and their number does not show in their shape ("expanded
    percentile interval": Hesterberg, American Statistician 2015). 1 where there is nothing to redraw.
    """
    if n < 2:
        return 1.0
    tail = (1 + LEVEL) / 2
    return math.sqrt(n / (n - 1)) * float(stats.t.ppf(tail, n - 1) / stats.norm.ppf(tail))


def redraw(
    values: Float64, rows: Sequence[int], selections: Selections, pairs: Sequence[Pair], resamples: int, seed: int
) -> tuple[Float64, list[Float64]]:
    """Resampled means of ``rows`` over ``selections``, [resamples, rows], and deviations of each pair, [resamples].

    In the means, what the redrawn seeds change is widened. A deviation is |resampled difference − difference| over the resample's own standard error. ``values`` has users in an
    order of the caller's; the draws depend on it, on the seeds and on ``seed``, and on no value.
    """
    if not len(rows) and not pairs:
        return np.empty((resamples, 0)), []
    n_rows, n_cells, n_users = values.shape
    profiles, group = np.unique(values.reshape(-1, n_users).T, axis=0, return_inverse=True)
    profiles, group = profiles.reshape(-1, n_rows, n_cells), group.ravel()

    def seeds(chosen: Selections) -> Float64:
        return seed_weights(np.random.default_rng([seed, 1]), [len(cells) for cells in chosen], resamples)

    differences = [_centred(values, profiles, pair) for pair in pairs]
    seeds_of_pair = [seeds(pair.selections) for pair in pairs]
    seeds_of_rows = seeds(selections)
    generator = np.random.default_rng([seed, 0])
    means, deviations = np.empty((resamples, len(rows))), [np.empty(resamples) for _ in pairs]
    block = max(1, _BLOCK // n_users)
    for start in range(0, resamples, block):
        part = slice(start, min(start + block, resamples))
        shares = user_counts(generator, group, part.stop - start)
        shares /= n_users
        for at, row in enumerate(rows):
            means[part, at] = _means(shares @ profiles[:, row], seeds_of_rows[part], selections)
        for result, difference, drawn in zip(deviations, differences, seeds_of_pair, strict=True):
            result[part] = _deviations(shares, difference, drawn[part], n_users)
    return means, deviations


def places(means: Float64) -> list[tuple[int, int]]:
    """95% interval of each column's place (1 = highest) in the rows of means [resamples, rows]; equals stand in any order."""
    slack = ROUNDING * np.abs(means).max(initial=0.0)
    tail = (1 - LEVEL) / 2
    intervals = []
    for own in means.T[..., None]:
        highest, lowest = 1 + (means > own + slack).sum(axis=1), (means >= own - slack).sum(axis=1)
        low, high = np.quantile(highest, tail, method="lower"), np.quantile(lowest, 1 - tail, method="higher")
        intervals.append((int(low), int(high)))
    return intervals


def _centred(values: Float64, profiles: Float64, pair: Pair) -> Float64:
    cells = np.concatenate(pair.selections)
    centred: Float64 = profiles[:, pair.row, cells] - profiles[:, pair.against, cells] - pair.units(values).mean()
    return centred


def _means(by_cell: Float64, drawn: Float64, selections: Selections) -> Float64:
    """Resampled means [b] from those per cell [b, cells] and the seeds drawn [b, n, k]."""
    by_cell = by_cell[:, np.concatenate(selections)]
    n = len(selections)
    as_run = by_cell @ np.concatenate([np.full(len(cells), 1 / (len(cells) * n)) for cells in selections])
    redrawn = np.einsum("bk,bk->b", by_cell, drawn.mean(axis=1))
    means: Float64 = as_run + widening(n) * (redrawn - as_run)
    return means


def _deviations(shares: Float64, x: Float64, drawn: Float64, n_users: int) -> Float64:
    """|mean| over standard error [b] of each resample of the centred differences x [groups, k].

    ``shares`` [b, groups] of users drawn, ``drawn`` [b, n, k] weights of the cells. Every sum of squares follows from the
    products of cells summed over the users drawn, so one matrix product serves, whatever the seeds drawn. Infinite where a
    resample has no spread.
    """
    first, second = np.triu_indices(x.shape[1])
    place = np.empty((x.shape[1], x.shape[1]), np.int64)
    place[first, second] = place[second, first] = np.arange(len(first))
    products = (shares @ (x[:, first] * x[:, second]))[:, place]
    by_seed = np.einsum("bnk,bk->bn", drawn, shares @ x)
    weight = drawn.mean(axis=1)
    mean = by_seed.mean(axis=1)
    of_users = np.einsum("bk,bk->b", np.einsum("bkl,bl->bk", products, weight), weight)
    of_cells = ((drawn @ products) * drawn).sum(axis=2).mean(axis=1)
    variance = crossed_variance(mean, np.square(by_seed).mean(axis=1), of_users, of_cells, drawn.shape[1], n_users)
    spread = variance > _CANCELLED * np.square(x).max()
    return np.divide(
        np.abs(mean), np.sqrt(np.where(spread, variance, 1.0)), out=np.full_like(mean, np.inf), where=spread
    )
