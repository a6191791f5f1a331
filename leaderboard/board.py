"""A board as data: tables, their rows, every figure with what is known of its spread, made from records.

Markdown, CSV, LaTeX, plots and the page are all written from it (``outputs``). Equal records make an equal board, byte for
byte: figures are rounded to ``DIGITS`` significant digits, so that the last bits, in which platforms differ, are left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from prunebench.leaderboard import paper_figures, tables
from prunebench.leaderboard.comparisons import (
    PROTOCOL,
    REFERENCE,
    Figure,
    Figures,
    Group,
    Member,
    Report,
    compare,
    rounded,
)
from prunebench.leaderboard.overlaps import Overlaps, Selections, overlaps
from prunebench.leaderboard.per_user import PerUser, metric_names
from prunebench.leaderboard.record import COUNTED, Part, Phase, Record, RecordError, Seeds, differences
from prunebench.leaderboard.score_summary import ScoreSummary
from prunebench.leaderboard.statistics import RESAMPLES

FORMAT = 2
"""Version 2 added what pictures are drawn from: stages, scores and overlaps."""
COSTS = ("pretraining_s", "pruning_s", "fine_tuning_s", "inference_s", "total_s")
Kind = Literal["pruned", "zero-shot", "full", "reference"]


@dataclass(frozen=True, eq=False)
class Run:
    """What a board is made from: a record, the sha256 of its file, and its users' metrics.

    Also, where it has them, the ids of the samples it kept, unique, in any order, and the scores they were chosen by.
    """

    record: Record
    sha256: str
    per_user: PerUser
    selection: NDArray[np.int64] | None = None
    scores: ScoreSummary | None = None


class RunFacts(Part):
    """One run of a row. ``record_sha256`` is that of its ``record.json``, ``hardware`` where its stages ran."""

    run: str
    seeds: Seeds
    command: str
    finished: str
    hardware: list[str]
    git_commit: str | None
    record_sha256: str


class Costs(Part):
    """Mean seconds per run and phase, None where stages or seeds ran on different hardware; peaks in MB of 2^20 bytes.

    ``of_full``: total over that of the run on all samples whose settings differ least.
    """

    pretraining_s: float | None
    pruning_s: float | None
    fine_tuning_s: float | None
    inference_s: float | None
    total_s: float | None
    of_full: float | None
    peak_rss_mb: float
    peak_gpu_mb: float


class StageCost(Part):
    """Mean seconds per run of one stage; a run without it counts as 0."""

    stage: str
    phase: Phase
    seconds: float


class BoardRow(Part):
    """One configuration. ``id`` is unique within a table and stays what it is whatever else is on the board.

    ``kind``: ``reference`` for the backbones every table is read against, else by the budget. ``plugins`` made it with code
    that is not prunebench's, ``foreign`` chose its samples with such code, which may see what it likes. ``lacks``: seeds that other rows of the table's backbone have and this one has not.
    ``metrics``: protocol → metric (``R@10``, ``N@10``) → figure, at the table's cut-offs. ``stages``: those a method is
    charged for, by phase and then as they were billed; empty where they ran on different hardware, else they add up to
    ``costs.total_s``. ``scores``: of the first seed that has any.
    """

    id: str
    kind: Kind
    method: str
    label: str
    backbone: str
    backbone_label: str
    llm: str | None
    budget: int
    share: float
    changes: dict[str, Any]
    plugins: bool
    foreign: bool
    chose_by_validation: bool
    users: int
    noise_share: float | None
    lacks: list[Seeds]
    metrics: dict[str, dict[str, Figure]]
    costs: Costs
    stages: list[StageCost]
    scores: ScoreSummary | None
    hardware: list[str]
    runs: list[RunFacts]


class BoardTable(Part):
    """The rows of one data set × split × backbone × LLM × budget: those of the backbone, then the references.

    ``seeds``: all seeds that rows of the backbone have. ``best``: metric → ``id`` of the best method, see ``comparisons``.
    ``overlaps``: of the backbone's rows that kept as many samples as the table is about.
    """

    dataset: str
    fingerprint: str
    split: str
    backbone: str
    llm: str | None
    budget: int
    share: float
    users: int
    cutoffs: list[int]
    seeds: list[Seeds]
    best: dict[str, str]
    overlaps: Overlaps | None
    rows: list[BoardRow]

    @property
    def title(self) -> str:
        """``games · bigrec · catalogue · 1,024 samples``, plain text."""
        return " · ".join([self.dataset, self.backbone, *([self.llm] if self.llm else []), f"{self.budget:,} samples"])

    @property
    def metrics(self) -> list[str]:
        """``R@10``, ``R@20``, ``N@10``, ``N@20``."""
        return metric_names(self.cutoffs)


class Board(Part):
    """A board; ``dataset`` (None: all) and ``split`` say which runs were asked for, ``pictures`` whether it has any."""

    format: int = FORMAT
    dataset: str | None
    split: str
    resamples: int
    pictures: bool
    tables: list[BoardTable]

    @property
    def rows(self) -> int:
        return sum(len(table.rows) for table in self.tables)


def figure_of(row: BoardRow, metric: str) -> Figure | None:
    """The figure that rows are compared by."""
    return row.metrics.get(PROTOCOL, {}).get(metric)


def make_board(
    runs: Iterable[Run],
    dataset: str | None = None,
    split: str = "test",
    resamples: int = RESAMPLES,
    report: Report = lambda done, total, what: None,
    pictures: bool = True,
) -> Board:
    """The board of all runs on a data set (None: on any) and split; their order does not matter.

    ``report(done, total, what)`` is called as statistics get done. Raises RecordError where two runs have one name, or
    runs on one data set were evaluated on different users.
    """
    by_name: dict[str, Run] = {}
    for run in sorted(runs, key=lambda run: (run.record.run, run.sha256)):
        if run.record.protocol.split != split or dataset not in (None, run.record.dataset.name):
            continue
        if run.record.run in by_name:
            raise RecordError(f"there are two records of run {run.record.run}; keep one")
        by_name[run.record.run] = run
    _check_users(by_name.values())
    found = tables.tables_of(tables.rows(run.record for run in by_name.values()))
    groups = [group_of(key, members, by_name) for key, members in found]
    figures = compare(groups, resamples, report)
    made = [_table(*table, by_name, own) for table, own in zip(found, figures, strict=True)]
    return Board(dataset=dataset, split=split, resamples=resamples, pictures=pictures, tables=made)


def _check_users(runs: Iterable[Run]) -> None:
    """Runs on equal data and splits have equal test users; else a file is another run's."""
    first: dict[tuple[str, str], Run] = {}
    for run in runs:
        data = run.record.dataset
        other = first.setdefault((data.name, data.fingerprint), run)
        if not np.array_equal(np.sort(run.per_user.users), np.sort(other.per_user.users)):
            raise RecordError(
                f"run {run.record.run} was evaluated on other users of {data.name} than run {other.record.run}; run it again"
            )


def read_board(text: str, source: str) -> Board:
    """A board from its JSON. Raises RecordError in one line where it is none, or a newer prunebench's."""
    try:
        values = json.loads(text)
        version = values.get("format") if isinstance(values, dict) else None
        if isinstance(version, int) and version > FORMAT:
            raise RecordError(
                f"{source} has board format {version}, newer than the {FORMAT} read here: update prunebench"
            )
        if isinstance(version, int) and version < FORMAT:
            raise RecordError(
                f"{source} has board format {version}, older than the {FORMAT} of today; write it anew: bench leaderboard build"
            )
        return Board.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise RecordError(f"{source} is no board: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, RecordError):
            raise
        raise RecordError(f"{source} is no JSON: {error}") from None


def _own(row: tables.Row, key: tuple[Any, ...]) -> bool:
    return (row["backbone"], row["llm"]) == key[3:5]


def kind_of(row: tables.Row, key: tuple[Any, ...]) -> Kind:
    """What a row is in the table of this key."""
    if not _own(row, key):
        return "reference"
    return "zero-shot" if row["budget"] == 0 else "full" if row["share"] == 1 else "pruned"


def group_of(key: tuple[Any, ...], members: list[tables.Row], runs: dict[str, Run]) -> Group:
    """A table as statistics see it.

    Only prunebench's own methods may be the best: code from a plugin may see what it likes, as oracles do. A plugin's rows
    are compared like any other.
    """
    return Group(
        family=key[:4],
        cutoffs=paper_figures.cutoffs(key[0]),
        members=[
            Member(
                id=row["config_digest"],
                own=_own(row, key),
                random=kind_of(row, key) == "pruned" and row["method"] == REFERENCE and "method" not in row["plugins"],
                candidate=kind_of(row, key) == "pruned" and "method" not in row["plugins"],
                setting=_flat(row["setting"]),
                order=(len(row["changes"]), row["config_digest"]),
                runs=[(runs[name].record.seeds, runs[name].per_user) for name in row["runs"]],
                paper=row["paper"],
            )
            for row in members
        ],
    )


def _flat(setting: Mapping[str, Any]) -> dict[str, Any]:
    return differences(setting, {part: {} for part, value in setting.items() if isinstance(value, Mapping)})


def _table(key: tuple[Any, ...], members: list[tables.Row], runs: dict[str, Run], figures: Figures) -> BoardTable:
    dataset, fingerprint, split, backbone, llm, budget = key
    own = [row for row in members if _own(row, key)]
    seeds = {Seeds(**one) for row in own for one in row["seeds"]}
    return BoardTable(
        dataset=dataset,
        fingerprint=fingerprint,
        split=split,
        backbone=backbone,
        llm=llm,
        budget=budget,
        share=next(row["share"] for row in own if row["budget"] == budget),
        users=own[0]["users"],
        cutoffs=list(paper_figures.cutoffs(dataset)),
        seeds=sorted(seeds, key=_in_order),
        best=figures.best,
        overlaps=_overlaps([row for row in own if kind_of(row, key) == "pruned"], runs),
        rows=[_row(row, kind_of(row, key), seeds, runs, figures.rows[row["config_digest"]]) for row in members],
    )


def _overlaps(rows: list[tables.Row], runs: dict[str, Run]) -> Overlaps | None:
    found: dict[str, Selections] = {}
    for row in rows:
        selections = {
            (run.record.seeds.signal, run.record.seeds.selection): run.selection
            for run in map(runs.__getitem__, row["runs"])
            if run.selection is not None and len(run.selection)
        }
        if selections:
            found[row["config_digest"]] = selections
    return overlaps(found)


def _in_order(seeds: Seeds) -> tuple[int, int, int]:
    return seeds.selection, seeds.finetune, seeds.signal


def _row(
    row: tables.Row, kind: Kind, seeds: set[Seeds], runs: dict[str, Run], metrics: dict[str, dict[str, Figure]]
) -> BoardRow:
    lacks = set() if kind == "reference" else seeds - {Seeds(**one) for one in row["seeds"]}
    return BoardRow(
        id=row["config_digest"],
        kind=kind,
        **{name: row[name] for name in ("method", "label", "backbone", "backbone_label", "llm", "budget", "share")},
        changes=row["changes"],
        plugins=bool(row["plugins"]),
        foreign="method" in row["plugins"],
        chose_by_validation=row["chose_by_validation"],
        users=row["users"],
        noise_share=rounded(row["noise_share"]),
        lacks=sorted(lacks, key=_in_order),
        metrics=metrics,
        costs=Costs(
            **{name: rounded(row["cost"][name]) for name in COSTS},
            of_full=rounded(row["of_full"]),
            peak_rss_mb=row["peak_rss_mb"],
            peak_gpu_mb=row["peak_gpu_mb"],
        ),
        stages=_stages([runs[name].record for name in row["runs"]]) if len(row["hardware"]) <= 1 else [],
        scores=next((run.scores for run in map(runs.__getitem__, row["runs"]) if run.scores is not None), None),
        hardware=row["hardware"],
        runs=[_facts(runs[name]) for name in row["runs"]],
    )


def _stages(records: list[Record]) -> list[StageCost]:
    seconds: dict[tuple[Phase, str], float] = {}
    for record in records:
        for entry in {(entry.stage, entry.hash): entry for entry in record.bill}.values():
            at = entry.phase, entry.stage
            seconds[at] = seconds.get(at, 0.0) + entry.wall_s / len(records)
    return [
        StageCost(stage=stage, phase=phase, seconds=rounded(spent) or 0.0)
        for charged in COUNTED
        for (phase, stage), spent in seconds.items()
        if phase == charged
    ]


def _facts(run: Run) -> RunFacts:
    record = run.record
    return RunFacts(
        run=record.run,
        seeds=record.seeds,
        command=record.command,
        finished=record.finished,
        hardware=record.hardware,
        git_commit=record.environment.git_commit,
        record_sha256=run.sha256,
    )
