"""Every figure of a board's rows: mean and spread, difference to random and to the best method, rank.

A family is a data set × split × backbone × metric: all tables that differ in budget or LLM only are adjusted together.
Comparisons are made under ``PROTOCOL`` alone, as the paper evaluates; figures of the other have mean and spread.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from prunebench.leaderboard.per_user import PerUser, metric_names
from prunebench.leaderboard.record import Part, Seeds
from prunebench.leaderboard.statistics import Comparison, RowSummary, RunValues, analyse, gather, holm

PROTOCOL = "unmasked"
REFERENCE = "random"
"""The method every other one is to beat."""
DIGITS = 8
"""Significant digits of a figure; platforms differ in the sixteenth."""
NOTHING = 1e-12
"""A figure nearer to 0 is 0: what is left of a difference of equals."""

Report = Callable[[int, int, str], None]


class Difference(Part):
    """How much higher a row is than the row of id ``against``; see ``statistics.Comparison``, whose fields these are."""

    against: str
    seeds: int
    difference: float | None
    se_users: float | None
    by: Literal["bootstrap", "t"] | None
    interval: tuple[float, float] | None
    p: float | None
    holm: float | None
    certain: bool


class Figure(Part):
    """One metric of a row. ``seeds`` selection seeds; without any that is whole, no mean; with one, no spread.

    ``sd`` over selection seeds, ``sd_finetune`` over fine-tuning seeds within them, ``se_users`` the standard error had
    these seeds met other users. ``rank``: 95% interval among the rows of the backbone that lack no seed. ``paper``: the
    published figure. ``to_random`` and ``to_best`` are None where there is none to compare with, or it is this row.
    """

    seeds: int
    mean: float | None
    sd: float | None
    sd_finetune: float | None
    se_users: float | None
    paper: float | None
    rank: tuple[int, int] | None
    to_random: Difference | None
    to_best: Difference | None


@dataclass(frozen=True, eq=False)
class Member:
    """A row as statistics see it: its name and its runs' seeds and users' metrics.

    ``own``: of the table's backbone and LLM, hence compared. ``candidate``: may be the best. ``setting``: what is trained on
    the samples, to find the random row that differs least; ``order`` breaks ties.
    """

    id: str
    own: bool
    random: bool
    candidate: bool
    setting: dict[str, Any]
    order: tuple[int, str]
    runs: Sequence[tuple[Seeds, PerUser]]
    paper: dict[str, float]


@dataclass(frozen=True, eq=False)
class Group:
    """One table: the ``family`` it is adjusted with, the cut-offs it shows, and its rows."""

    family: tuple[str, ...]
    cutoffs: Sequence[int]
    members: Sequence[Member]


@dataclass(frozen=True, eq=False)
class Figures:
    """A table's figures: row → protocol → metric → figure; and metric → the row taken for the best."""

    rows: dict[str, dict[str, dict[str, Figure]]]
    best: dict[str, str]


def rounded(value: float | None) -> float | None:
    """To ``DIGITS`` significant digits."""
    if value is None:
        return None
    return 0.0 if abs(value) < NOTHING else float(f"{value:.{DIGITS}g}")


def compare(groups: Sequence[Group], resamples: int, report: Report) -> list[Figures]:
    """The figures of all tables, in their order. Raises RecordError where runs of a table have different users."""
    made = [Figures({member.id: {} for member in group.members}, {}) for group in groups]
    families: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for at, group in enumerate(groups):
        families[group.family].append(at)
    steps = [
        (at, metric) for tables in families.values() for at in tables for metric in metric_names(groups[at].cutoffs)
    ]
    done = 0
    for tables in families.values():
        names = dict.fromkeys(metric for at in tables for metric in metric_names(groups[at].cutoffs))
        for metric in names:
            tested = []
            for at in tables:
                report(done, len(steps), f"{' '.join(groups[at].family)} {metric}")
                tested.append(_Tested.of(groups[at], metric, resamples))
                done += metric in metric_names(groups[at].cutoffs)
            to_random = _adjusted([one.to_random for one in tested], chosen=False)
            to_best = _adjusted([one.to_best for one in tested], chosen=True)
            for at, one, randoms, bests in zip(tables, tested, to_random, to_best, strict=True):
                if one.best is not None:
                    made[at].best[metric] = one.best
                for member in groups[at].members:
                    figures = _figures(member, metric, one.rank.get(member.id), randoms, bests)
                    for protocol, figure in figures.items():
                        made[at].rows[member.id].setdefault(protocol, {})[metric] = figure
    return made


@dataclass(frozen=True, eq=False)
class _Tested:
    """One table and metric, before Holm: comparisons and ranks by row."""

    to_random: dict[str, Comparison]
    to_best: dict[str, Comparison]
    rank: dict[str, tuple[int, int] | None]
    best: str | None

    @staticmethod
    def of(group: Group, metric: str, resamples: int) -> _Tested:
        own = [member for member in group.members if member.own and _has(member, PROTOCOL, metric)]
        if not own:
            return _Tested({}, {}, {}, None)
        numbers = _numbers(own)
        cells = gather(value for member in own for value in _values(member, PROTOCOL, metric, numbers))
        against = {member.id: _random_of(member, own) for member in own}
        candidates = [member.id for member in own if member.candidate]
        found = {
            reference: analyse(cells, reference, candidates, resamples) for reference in dict.fromkeys(against.values())
        }
        first = next(iter(found.values()))
        return _Tested(
            to_random={
                one.row: one
                for reference, analysed in found.items()
                for one in analysed.to_reference
                if against[one.row] == reference
            },
            to_best={one.row: one for one in first.to_best},
            rank={row.row: row.rank for row in first.rows},
            best=first.best,
        )


def _has(member: Member, protocol: str, metric: str) -> bool:
    return all(metric in per_user.values.get(protocol, {}) for _, per_user in member.runs)


def _numbers(members: Sequence[Member]) -> dict[tuple[int, int], int]:
    """A number for each (selection, signal) seed: samples chosen under another signal are another selection."""
    pairs = {(seeds.selection, seeds.signal) for member in members for seeds, _ in member.runs}
    return {pair: at for at, pair in enumerate(sorted(pairs))}


def _values(member: Member, protocol: str, metric: str, numbers: dict[tuple[int, int], int]) -> list[RunValues]:
    return [
        RunValues(
            member.id,
            numbers[seeds.selection, seeds.signal],
            seeds.finetune,
            per_user.users,
            per_user.values[protocol][metric],
        )
        for seeds, per_user in member.runs
    ]


def _random_of(member: Member, own: Sequence[Member]) -> str | None:
    """The random row whose settings differ least from the member's: itself, where it is one."""
    randoms = [other for other in own if other.random]

    def distance(other: Member) -> tuple[Any, ...]:
        keys = {*member.setting, *other.setting}
        apart = sum(member.setting.get(key) != other.setting.get(key) for key in keys)
        return other.id != member.id, apart, other.order

    return min((distance(other), other.id) for other in randoms)[1] if randoms else None


def _adjusted(tables: Sequence[dict[str, Comparison]], chosen: bool) -> list[dict[str, Comparison]]:
    """Holm's p-values over all tables of a family; those to a row ``chosen`` by the same data as if all pairs were tested."""
    tested = [[one.p for one in table.values() if one.p is not None] for table in tables]
    size = sum(len(p) * (len(p) + 1) // 2 if chosen else len(p) for p in tested)
    adjusted = iter(holm([p for table in tested for p in table], size))
    return [
        {row: one if one.p is None else replace(one, holm=next(adjusted)) for row, one in table.items()}
        for table in tables
    ]


def _figures(
    member: Member,
    metric: str,
    rank: tuple[int, int] | None,
    to_random: dict[str, Comparison],
    to_best: dict[str, Comparison],
) -> dict[str, Figure]:
    """The member's figure under each protocol that all its runs have."""
    protocols = dict.fromkeys(protocol for _, per_user in member.runs for protocol in per_user.values)
    made = {}
    for protocol in (protocol for protocol in protocols if _has(member, protocol, metric)):
        summary = _summary(_values(member, protocol, metric, _numbers([member])))
        compared = protocol == PROTOCOL
        made[protocol] = Figure(
            seeds=summary.seeds,
            mean=rounded(summary.mean),
            sd=rounded(summary.sd),
            sd_finetune=rounded(summary.sd_finetune),
            se_users=rounded(summary.se_users),
            paper=member.paper.get(metric) if compared else None,
            rank=rank if compared else None,
            to_random=_difference(to_random.get(member.id)) if compared else None,
            to_best=_difference(to_best.get(member.id)) if compared else None,
        )
    return made


def _summary(runs: Sequence[RunValues]) -> RowSummary:
    """What a row's own runs say, whatever seeds others have."""
    return analyse(gather(runs), reference=None, candidates=()).rows[0]


def _difference(one: Comparison | None) -> Difference | None:
    if one is None:
        return None
    low, high = (None, None) if one.interval is None else map(rounded, one.interval)
    return Difference(
        against=one.against,
        seeds=one.seeds,
        difference=rounded(one.difference),
        se_users=rounded(one.se_users),
        by=one.by,
        interval=None if low is None or high is None else (low, high),
        p=rounded(one.p),
        holm=rounded(one.holm),
        certain=one.certain,
    )
