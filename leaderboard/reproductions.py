"""The rows that a study of the paper's tables and figures asks for, and what of them a folder of runs has."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prunebench.leaderboard import paper_figures, tables
from prunebench.leaderboard.board import Run
from prunebench.leaderboard.comparisons import PROTOCOL, REFERENCE, Figure, Group, Member, Report, compare
from prunebench.leaderboard.record import Part, Record
from prunebench.leaderboard.statistics import RESAMPLES

FULL = "full"
Pair = tuple[int, int]
Place = tuple[str, str, str | None, int]


class Wanted(Part):
    """A row of a study. ``config``: its settings by section, as a record has them; ``asked``: those the study names.

    ``usual``: the budget is the data set's own, where the paper's tables stand. ``seeds``: pairs for selection and
    fine-tuning; the signals' seed is the selection's.
    """

    method: str
    backbone: str
    dataset: str
    split: str
    llm: str | None
    surrogate: str
    budget: int
    share: float
    usual: bool
    config: dict[str, dict[str, Any]]
    asked: dict[str, Any]
    seeds: list[Pair]


@dataclass(frozen=True, eq=False)
class Row:
    """A wanted row and its runs by seeds, with their figures by metric; ``cost`` and ``hardware`` as in ``tables.rows``.

    ``figures`` have the difference to the study's reference as ``to_random``. ``place``: data set, backbone, LLM and budget
    of the rows it is compared with; all the data stand beside the usual budget.
    """

    wanted: Wanted
    place: Place
    runs: Mapping[Pair, Run]
    figures: Mapping[str, Figure]
    cost: Mapping[str, float | None]
    hardware: Sequence[str]

    @property
    def whole(self) -> bool:
        return len(self.runs) == len(self.wanted.seeds)

    def mean(self, metric: str, seeds: Iterable[Pair]) -> float | None:
        """Over these seeds; None where there are none, or a run lacks the metric."""
        values = [_metric(self.runs[pair].record, metric) for pair in seeds]
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known and len(known) == len(values) else None


@dataclass(frozen=True, eq=False)
class Found:
    """What is there of a study: its rows in their order, and the method they are read against."""

    rows: Sequence[Row]
    against: str
    resamples: int

    @property
    def wanted(self) -> int:
        return sum(len(row.wanted.seeds) for row in self.rows)

    @property
    def there(self) -> int:
        return sum(len(row.runs) for row in self.rows)

    def reference(self, row: Row) -> Row | None:
        """The row that another is read against; itself, if it is that."""
        return next((one for one in self.beside(row) if one.wanted.method == self.against), None)

    def beside(self, row: Row) -> list[Row]:
        """The rows of the same backbone and budget, and all the data."""
        return [one for one in self.rows if one.place == row.place]


def find(
    wanted: Sequence[Wanted],
    runs: Iterable[Run],
    against: str = REFERENCE,
    resamples: int = RESAMPLES,
    report: Report = lambda done, total, what: None,
) -> Found:
    """The runs of each wanted row, whatever others there are, and their statistics among each other.

    Of runs with equal seeds the last finished counts. Where records of several configurations fit, as those of an older
    prunebench that lacks a setting do, it is the one with most of the seeds, of these the last finished; likewise where
    a data set's content has changed.
    """
    by_dataset: dict[str, dict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
    ordered = sorted(runs, key=lambda run: (run.record.finished, run.record.run))
    for run in ordered:
        if any(fits(one, run.record) for one in wanted):
            by_dataset[run.record.dataset.name][run.record.dataset.fingerprint].append(run)
    same = {name: _most(list(found.values())) for name, found in by_dataset.items()}
    chosen = [_chosen(one, same.get(one.dataset, [])) for one in wanted]
    places = _places(wanted)
    figures = _figures(wanted, places, chosen, against, resamples, report)
    found = {row["config_digest"]: row for row in tables.rows(run.record for one in chosen for run in one.values())}
    billed = [found[_digest(group)] if group else {"cost": {}, "hardware": []} for group in chosen]
    rows = [
        Row(one, place, group, own, bill["cost"], bill["hardware"])
        for one, place, group, own, bill in zip(wanted, places, chosen, figures, billed, strict=True)
    ]
    return Found(rows, against, resamples)


def fits(wanted: Wanted, record: Record) -> bool:
    """Whether a record is a run of this row: no setting that both name differs, nor does any other fact, nor the code."""
    return (
        all(getattr(record, name) == getattr(wanted, name) for name in ("method", "backbone", "llm", "budget"))
        and (record.dataset.name, record.protocol.split) == (wanted.dataset, wanted.split)
        and _pair(record) in wanted.seeds
        and record.seeds.signal == record.seeds.selection
        and record.config.get("plugins", {}) == wanted.config.get("plugins", {})
        and all(_agree(settings, wanted.config.get(name, {})) for name, settings in record.config.items())
    )


def _agree(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        return all(_agree(value, theirs[key]) for key, value in ours.items() if key in theirs)
    return bool(ours == theirs)


def _chosen(wanted: Wanted, runs: Sequence[Run]) -> dict[Pair, Run]:
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        if fits(wanted, run.record):
            groups[run.record.digest].append(run)
    found = {_pair(run.record): run for run in _most(list(groups.values()))}
    return {pair: found[pair] for pair in sorted(found)}


def _most(groups: Sequence[list[Run]]) -> list[Run]:
    """The group with most different runs, of these the one that was added to last; runs are by when they finished."""

    def size(group: list[Run]) -> tuple[int, str, str]:
        different = {(run.record.digest, _pair(run.record)) for run in group}
        return len(different), group[-1].record.finished, group[-1].record.run

    return max(groups, key=size, default=[])


def _places(wanted: Sequence[Wanted]) -> list[Place]:
    usual = {_trained(one): one.budget for one in wanted if one.usual and one.method != FULL}
    return [
        (*_trained(one), usual.get(_trained(one), one.budget) if one.method == FULL else one.budget) for one in wanted
    ]


def _trained(wanted: Wanted) -> tuple[str, str, str | None]:
    return wanted.dataset, wanted.backbone, wanted.llm


def _figures(
    wanted: Sequence[Wanted],
    places: Sequence[Place],
    chosen: Sequence[Mapping[Pair, Run]],
    against: str,
    resamples: int,
    report: Report,
) -> list[dict[str, Figure]]:
    """Each row's figures by metric."""
    groups: dict[Place, list[Member]] = defaultdict(list)
    for at, (one, place, runs) in enumerate(zip(wanted, places, chosen, strict=True)):
        if runs:
            groups[place].append(_member(str(at), one, runs, against))
    families = [
        Group((dataset, backbone, str(llm)), paper_figures.cutoffs(dataset), members)
        for (dataset, backbone, llm, _), members in groups.items()
    ]
    made: list[dict[str, Figure]] = [{} for _ in wanted]
    for figures in compare(families, resamples, report):
        for name, own in figures.rows.items():
            made[int(name)] = own.get(PROTOCOL, {})
    return made


def _member(name: str, wanted: Wanted, runs: Mapping[Pair, Run], against: str) -> Member:
    return Member(
        id=name,
        own=True,
        random=wanted.method == against,
        candidate=False,
        setting={},
        order=(0, name),
        runs=[(run.record.seeds, run.per_user) for run in runs.values()],
        paper={},
    )


def _digest(runs: Mapping[Pair, Run]) -> str:
    return next(iter(runs.values())).record.digest


def _pair(record: Record) -> Pair:
    return record.seeds.selection, record.seeds.finetune


def _metric(record: Record, metric: str) -> float | None:
    letter, _, cutoff = metric.partition("@")
    means = record.metrics[PROTOCOL]
    return (means.recall if letter == "R" else means.ndcg).get(cutoff)
