"""Who is better, by how much and how surely: mean and spread of each row, differences with intervals, and ranks.

A board's figure is a mean over test users of a mean over seeds, and both could have been others. Seeds are never pooled
with users into one n. Selection seeds are the units; fine-tuning seeds are drawn within them.

From ``BOOTSTRAP_SEEDS`` shared seeds on, the interval of a difference is that of a paired bootstrap over seeds and users
(``resampling``), studentised (Efron & Tibshirani 1993, §12.5) and symmetric (Hall 1988), so that it holds whichever of the
two matters. A percentile interval is too narrow where seeds do (at six, 14% false positives) and far too wide where only
their interplay with users does, whose variance redrawing both triples. With fewer seeds it is the paired t interval over
seeds, for these very users; what other users would change stands beside it as ``se_users``. P-values are adjusted within
a family: one data set × backbone × metric (Ihemelandu & Ekstrand, SIGIR 2023).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from prunebench.leaderboard import resampling
from prunebench.leaderboard.record import RecordError
from prunebench.leaderboard.resampling import LEVEL, ROUNDING, Float64, Int64, Pair

BOOTSTRAP_SEEDS = 6
"""Shared selection seeds from which on the bootstrap is used: three have only ten distinct redraws."""
RESAMPLES = 10_000


@dataclass(frozen=True, eq=False)
class RunValues:
    """One run of a row: the metric of each user, ``users`` int64 [u] and ``values`` float64 [u], in any order."""

    row: str
    selection: int
    finetune: int
    users: Int64
    values: Float64


@dataclass(frozen=True, eq=False)
class Cells:
    """The runs of one family, rows by name, cells and users ascending.

    ``seeds``: (selection seed, fine-tuning seed) of each of k cells; ``values`` float64 [rows, k, users], 0 where
    ``present`` bool [rows, k] says that a row has no such run.
    """

    rows: tuple[str, ...]
    seeds: tuple[tuple[int, int], ...]
    values: Float64
    present: NDArray[np.bool_]

    def selections(self, *rows: int) -> list[Int64]:
        """The cells of each selection seed for which all these rows have every fine-tuning seed that any row has."""
        selection = np.array([seeds[0] for seeds in self.seeds], np.int64)
        found = [np.flatnonzero(selection == one) for one in np.unique(selection)]
        return [cells for cells in found if self.present[list(rows)][:, cells].all()]

    def units(self, row: int) -> Float64:
        """Values [selections, users] of a row that has at least one selection, means over its fine-tuning seeds."""
        return resampling.unit_means(self.values[row], self.selections(row))


@dataclass(frozen=True)
class RowSummary:
    """One row's mean over its ``seeds`` selection seeds, each a mean over users and fine-tuning seeds.

    ``sd`` over selection seeds, ``sd_finetune`` over fine-tuning seeds within them, pooled. ``se_users``: standard error of
    the mean had these seeds met other users. ``rank``: the places (1 = highest mean) the row takes in 95% of the resamples
    of seeds and users, among the rows that lack no seed. Redrawn seeds are widened as a t interval is, but with few of them
    the redraws stay few: at three seeds read it as a rough guide (it misses a true place in about one of 20 cases, more
    often where rows are all but equal), never as a test. None is what cannot be known: with one seed its sd and rank.
    """

    row: str
    seeds: int
    mean: float | None = None
    sd: float | None = None
    sd_finetune: float | None = None
    se_users: float | None = None
    rank: tuple[int, int] | None = None


@dataclass(frozen=True)
class Comparison:
    """How much higher ``row`` is than ``against``, paired on the ``seeds`` selection seeds that both have.

    Without a shared seed all figures are missing; with one there is a difference, and no word on its spread. ``p`` is
    two-sided and below 0.05 exactly where the 95% ``interval`` leaves out 0; ``holm`` is adjusted for the family.
    """

    row: str
    against: str
    seeds: int
    difference: float | None = None
    se_users: float | None = None
    by: Literal["bootstrap", "t"] | None = None
    interval: tuple[float, float] | None = None
    p: float | None = None
    holm: float | None = None

    @property
    def certain(self) -> bool:
        """Whether to say so: the interval leaves out 0 and ``holm`` < 0.05, since among many rows some are lucky.

        A t interval holds for these users only; there 0 must lie outside ± 1.96 ``se_users`` as well.
        """
        if self.difference is None or self.interval is None or self.holm is None or self.se_users is None:
            return False
        apart = self.interval[0] > 0 or self.interval[1] < 0
        margin = float(stats.norm.ppf((1 + LEVEL) / 2)) * self.se_users if self.by == "t" else 0.0
        return apart and self.holm < 1 - LEVEL and abs(self.difference) > margin


@dataclass(frozen=True)
class Statistics:
    """A family's statistics. ``to_reference`` and ``to_best`` hold every other row, by name, as ``rows`` does."""

    users: int
    rows: tuple[RowSummary, ...]
    reference: str | None
    best: str | None
    to_reference: tuple[Comparison, ...]
    to_best: tuple[Comparison, ...]


def gather(runs: Iterable[RunValues]) -> Cells:
    """Line up runs by row, seeds and user id, so that nothing hangs on the order they came in.

    Raises RecordError where there are no runs or no users, a run's users differ from the others' or repeat, a value is
    NaN or infinite, or two runs of a row have the same seeds.
    """
    runs = sorted(runs, key=lambda run: (run.row, run.selection, run.finetune))
    if not runs:
        raise RecordError("there are no runs to compare")
    users = np.unique(runs[0].users)
    names = sorted({run.row for run in runs})
    seeds = sorted({(run.selection, run.finetune) for run in runs})
    values = np.zeros((len(names), len(seeds), len(users)))
    present = np.zeros((len(names), len(seeds)), bool)
    for run in runs:
        at = names.index(run.row), seeds.index((run.selection, run.finetune))
        if present[at]:
            raise RecordError(f"{_named(run)} is there twice; keep one")
        values[at], present[at] = _in_order(run, users), True
    return Cells(tuple(names), tuple(seeds), values, present)


def _named(run: RunValues) -> str:
    return f"the run of {run.row} with selection seed {run.selection} and fine-tuning seed {run.finetune}"


def _in_order(run: RunValues, users: Int64) -> Float64:
    """The run's values, checked, in the order of ``users``."""
    if not len(users) or run.values.shape != run.users.shape:
        raise RecordError(f"{_named(run)} has {len(run.values)} values for {len(run.users)} users; run it again")
    order = np.argsort(run.users)
    if not np.array_equal(run.users[order], users):
        raise RecordError(f"{_named(run)} has other users than the first run has; compare runs on the same test users")
    if not np.isfinite(run.values).all():
        user = run.users[~np.isfinite(run.values)][0]
        raise RecordError(f"{_named(run)} has no finite value for user {user}; run it again")
    return run.values[order]


def analyse(
    cells: Cells,
    reference: str | None = "random",
    candidates: Sequence[str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Statistics:
    """All statistics of one family.

    ``best`` has the highest mean of the ``candidates`` (default: all rows) that lack no seed; of equals, the first by name.
    The family of ``to_reference`` is its comparisons; as the best row is chosen by the same data, those to it are adjusted
    as if every pair of their rows had been tested. Equal ``seed``, seeds and users give equal draws, whatever the rows.

    Raises RecordError for an unknown reference or candidate, or fewer than 100 resamples.
    """
    unknown = sorted({*([] if reference is None else [reference]), *(candidates or [])} - set(cells.rows))
    if unknown:
        raise RecordError(f"there is no run of {unknown[0]} to compare with, only of {', '.join(cells.rows)}")
    if resamples < 100:
        raise RecordError(f"{resamples} resamples are too few for a 95% interval: use at least 100")
    every = cells.selections()
    whole = [at for at in range(len(cells.rows)) if len(cells.selections(at)) == len(every)]
    running = [at for at in whole if candidates is None or cells.rows[at] in candidates]
    best = max(running, key=lambda at: (float(cells.units(at).mean()), -at), default=None)
    base = None if reference is None else cells.rows.index(reference)

    pairs = {
        (row, against): Pair(row, against, cells.selections(row, against))
        for against in (base, best)
        for row in range(len(cells.rows))
        if against is not None and row != against
    }
    redrawn = {key: pair for key, pair in pairs.items() if len(pair.selections) >= BOOTSTRAP_SEEDS}
    ranked = whole if len(whole) > 1 and len(every) > 1 else []
    means, deviations = resampling.redraw(cells.values, ranked, every, list(redrawn.values()), resamples, seed)
    deviations_of = dict(zip(redrawn, deviations, strict=True))
    rank_of = dict(zip(ranked, resampling.places(means), strict=True))

    def compared(against: int | None, chosen: bool) -> tuple[Comparison, ...]:
        made = [_compare(cells, pair, deviations_of.get(key)) for key, pair in pairs.items() if key[1] == against]
        tested = [one.p for one in made if one.p is not None]
        adjusted = iter(holm(tested, len(tested) * (len(tested) + 1) // 2 if chosen else None))
        return tuple(one if one.p is None else replace(one, holm=next(adjusted)) for one in made)

    return Statistics(
        users=cells.values.shape[2],
        rows=tuple(_summary(cells, at, rank_of.get(at)) for at in range(len(cells.rows))),
        reference=reference,
        best=None if best is None else cells.rows[best],
        to_reference=compared(base, chosen=False),
        to_best=compared(best, chosen=True),
    )


def _summary(cells: Cells, at: int, rank: tuple[int, int] | None) -> RowSummary:
    selections = cells.selections(at)
    if not selections:
        return RowSummary(cells.rows[at], 0)
    units = cells.units(at)
    means = units.mean(axis=1)
    within = [cells.values[at, chosen].mean(axis=1) for chosen in selections]
    free = sum(len(one) - 1 for one in within)
    squares = sum(float(np.square(one - one.mean()).sum()) for one in within)
    return RowSummary(
        row=cells.rows[at],
        seeds=len(means),
        mean=float(means.mean()),
        sd=float(means.std(ddof=1)) if len(means) > 1 else None,
        sd_finetune=math.sqrt(squares / free) if free else None,
        se_users=_se_users(units),
        rank=rank,
    )


def _compare(cells: Cells, pair: Pair, deviations: Float64 | None) -> Comparison:
    """One comparison, not yet adjusted for its family; ``deviations`` where it was resampled."""
    names = cells.rows[pair.row], cells.rows[pair.against]
    if not pair.selections:
        return Comparison(*names, 0)
    units = pair.units(cells.values)
    difference, se_users = float(units.mean()), _se_users(units)
    if len(units) == 1:
        return Comparison(*names, 1, difference, se_users)
    if deviations is None:
        interval, p = paired_t(units.mean(axis=1))
        return Comparison(*names, len(units), difference, se_users, "t", interval, p)
    bounds, p = studentised(difference, resampling.standard_error(units), deviations)
    return Comparison(*names, len(units), difference, se_users, "bootstrap", bounds, p)


def _se_users(units: Float64) -> float | None:
    users = units.shape[1]
    return float(units.mean(axis=0).std(ddof=1)) / math.sqrt(users) if users > 1 else None


def paired_t(differences: Float64) -> tuple[tuple[float, float], float]:
    """95% interval and two-sided p of the mean of n ≥ 2 differences, one per seed, float64 [n]."""
    n = len(differences)
    mean, error = float(differences.mean()), float(differences.std(ddof=1)) / math.sqrt(n)
    if error <= ROUNDING * np.abs(differences).max():
        return (mean, mean), float(mean == 0)
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * error
    return (mean - half, mean + half), float(2 * stats.t.sf(abs(mean) / error, n - 1))


def studentised(difference: float, error: float, deviations: Float64) -> tuple[tuple[float, float] | None, float]:
    """95% interval and two-sided p of a difference with a standard error, from its resampled deviations [resamples].

    The p-value is at least 1 / (resamples + 1); without any error it is that, or 1 where the difference is 0. No interval
    where one resample in twenty has no spread, because hardly any user differs.
    """
    n = len(deviations)
    if not error:
        return (difference, difference), 1.0 if difference == 0 else 1 / (n + 1)
    rank = math.ceil(LEVEL * (n + 1)) - 1
    half = float(np.partition(deviations, rank)[rank]) * error
    interval = (difference - half, difference + half) if math.isfinite(half) else None
    return interval, (1 + int((deviations >= abs(difference) / error).sum())) / (n + 1)


def holm(p: Sequence[float], family: int | None = None) -> list[float]:
    """Holm's step-down p-values (Scandinavian Journal of Statistics 1979), in the order given.

    ``family`` also counts hypotheses whose p-values are not given; the result then errs on the safe side.
    """
    size = len(p) if family is None else family
    adjusted = [0.0] * len(p)
    highest = 0.0
    for step, at in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        highest = max(highest, min(1.0, (size - step) * p[at]))
        adjusted[at] = highest
    return adjusted
