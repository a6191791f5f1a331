"""What a board's pictures show, as plain figures: the one source of those on paper and those on the page."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import groupby

from prunebench.leaderboard.board import Board, BoardRow, BoardTable, Kind, StageCost, figure_of
from prunebench.leaderboard.record import Part
from prunebench.leaderboard.score_summary import ScoreSummary
from prunebench.leaderboard.tables import MISSING

METHODS = (
    "dealrec",
    "ccs",
    "random",
    "el2n",
    "grand",
    "tf_dcon",
    "recranker",
    "goracs",
    "less",
    "forgetting",
    "herding",
    "k_center",
    "moderate",
)
"""Methods whose place, hence colour, is the same on all boards."""


class Mark(Part):
    """One row in a plane: ``x`` seconds, ``y`` mean, ``low`` and ``high`` one sample standard deviation from it.

    The last two are None with one seed. ``label`` is unique among the rows of a table. ``rival``: may stand on the front.
    """

    id: str
    label: str
    method: str
    kind: Kind
    x: float
    y: float
    low: float | None
    high: float | None
    seeds: int
    rival: bool


class CostChart(Part):
    """Accuracy against total cost per run. ``left_out``: rows without a total, as on mixed hardware, or without a mean.

    ``front``: ids of the marks that no other one beats, cheapest first; see ``front_of`` and ``_rivals``.
    """

    metric: str
    marks: list[Mark]
    front: list[str]
    left_out: int


class ScoresRow(Part):
    id: str
    label: str
    method: str
    summary: ScoreSummary


class ScoresChart(Part):
    """How the scores of all samples and of those kept are spread, for each row that has any."""

    rows: list[ScoresRow]


class OverlapChart(Part):
    """``shared[i][j]``: share of the kept samples that rows i and j have in common, see ``overlaps.Overlaps``."""

    ids: list[str]
    labels: list[str]
    shared: list[list[float | None]]


class StagesRow(Part):
    id: str
    label: str
    stages: list[StageCost]


class StagesChart(Part):
    """What each row's stages cost. ``left_out``: rows whose seconds are of different hardware, or that were not billed."""

    rows: list[StagesRow]
    left_out: int


class TableCharts(Part):
    """One table's pictures, None where there is nothing to draw. ``cost`` has one per metric that any row has."""

    cost: list[CostChart]
    scores: ScoresChart | None
    overlap: OverlapChart | None
    stages: StagesChart | None


class BudgetPoint(Part):
    budget: int
    share: float
    mean: float
    sd: float | None
    seeds: int


class BudgetSeries(Part):
    """One method with one setting, by budget, smallest first; ``ids`` are those of its rows in that order."""

    label: str
    method: str
    ids: list[str]
    points: list[BudgetPoint]


class Level(Part):
    """A figure that no budget changes."""

    label: str
    id: str
    kind: Kind
    value: float


class BudgetChart(Part):
    """Accuracy against budget on one data set × split × backbone × LLM, which has two budgets at least.

    ``levels``: all the data, none of them, and the references.
    """

    dataset: str
    fingerprint: str
    split: str
    backbone: str
    llm: str | None
    metric: str
    series: list[BudgetSeries]
    levels: list[Level]


class Charts(Part):
    """All pictures of a board; ``tables`` in the order of its tables.

    ``methods``: see ``in_colour_order``. A method's place in this list is its colour in every picture.
    """

    methods: list[str]
    tables: list[TableCharts]
    budgets: list[BudgetChart]


def charts_of(board: Board) -> Charts:
    """The pictures of a board."""
    choosing = {row.method for table in board.tables for row in table.rows if row.kind == "pruned"}
    return Charts(
        methods=in_colour_order(choosing),
        tables=[_table_charts(table) for table in board.tables],
        budgets=[chart for _, tables in groupby(board.tables, key=family_of) for chart in _budget_charts(list(tables))],
    )


def in_colour_order(methods: Iterable[str]) -> list[str]:
    """``METHODS``, then all others by name."""
    return [*METHODS, *sorted({*methods} - {*METHODS})]


def front_of(points: Sequence[tuple[float, float]]) -> list[int]:
    """Places of the (cost, mean) that no other one beats, cheapest first, equals in the order given.

    One beats another that costs no less and is no better, unless both figures are equal. Higher means are better.
    """
    front: list[int] = []
    for at in sorted(range(len(points)), key=lambda at: (points[at][0], -points[at][1])):
        if not front or points[at][1] > points[front[-1]][1] or points[at] == points[front[-1]]:
            front.append(at)
    return front


def label_of(row: BoardRow, table: BoardTable) -> str:
    """A row in few words: ``dealrec (lam=1)``, ``dealrec, beams=4``, ``popular``, ``full on sasrec``."""
    if row.label == MISSING:
        return row.backbone_label
    if row.kind == "reference":
        return f"{row.label} on {row.backbone_label}"
    changes = row.backbone_label.removeprefix(row.backbone).removeprefix(" (").removesuffix(")")
    return f"{row.label}, {changes}" if changes else row.label


def _labels(table: BoardTable) -> dict[str, str]:
    """Label by id; rows that share one get the first digits of their ids."""
    labels = {row.id: label_of(row, table) for row in table.rows}
    times = Counter(labels.values())
    return {row: label if times[label] == 1 else f"{label} [{row[:6]}]" for row, label in labels.items()}


def _rivals(table: BoardTable) -> set[str]:
    """Ids of the rows that may stand on the front: those of the table's backbone, whose samples no foreign code chose, timed
    on the hardware that most of them were timed on (among equals, the first rows').

    References answer another question, how good a model can be that is no LLM; code from elsewhere may have seen what
    nobody else does; and seconds of different hardware are not compared.
    """
    rows = [row for row in table.rows if row.kind != "reference" and not row.foreign]
    most = Counter(tuple(row.hardware) for row in rows if row.costs.total_s is not None).most_common(1)
    return {row.id for row in rows if most and tuple(row.hardware) == most[0][0]}


def _table_charts(table: BoardTable) -> TableCharts:
    labels = _labels(table)
    costs = [_cost_chart(table, labels, metric) for metric in table.metrics]
    return TableCharts(
        cost=[chart for chart in costs if chart.marks],
        scores=_scores_chart(table, labels),
        overlap=_overlap_chart(table, labels),
        stages=_stages_chart(table, labels),
    )


def _cost_chart(table: BoardTable, labels: dict[str, str], metric: str) -> CostChart:
    marks, rivals = [], _rivals(table)
    for row in table.rows:
        one, total = figure_of(row, metric), row.costs.total_s
        if one is None or one.mean is None or total is None:
            continue
        low, high = (None, None) if one.sd is None else (one.mean - one.sd, one.mean + one.sd)
        mark = Mark(
            id=row.id,
            label=labels[row.id],
            method=row.method,
            kind=row.kind,
            x=total,
            y=one.mean,
            low=low,
            high=high,
            seeds=one.seeds,
            rival=row.id in rivals,
        )
        marks.append(mark)
    running = [mark for mark in marks if mark.rival]
    front = [running[at].id for at in front_of([(mark.x, mark.y) for mark in running])]
    return CostChart(metric=metric, marks=marks, front=front, left_out=len(table.rows) - len(marks))


def _scores_chart(table: BoardTable, labels: dict[str, str]) -> ScoresChart | None:
    rows = [
        ScoresRow(id=row.id, label=labels[row.id], method=row.method, summary=row.scores)
        for row in table.rows
        if row.scores is not None and row.kind == "pruned"
    ]
    return ScoresChart(rows=rows) if rows else None


def _overlap_chart(table: BoardTable, labels: dict[str, str]) -> OverlapChart | None:
    found = table.overlaps
    if found is None:
        return None
    return OverlapChart(ids=found.ids, labels=[labels[row] for row in found.ids], shared=found.shared)


def _stages_chart(table: BoardTable, labels: dict[str, str]) -> StagesChart | None:
    rows = [StagesRow(id=row.id, label=labels[row.id], stages=row.stages) for row in table.rows if row.stages]
    return StagesChart(rows=rows, left_out=len(table.rows) - len(rows)) if rows else None


def family_of(one: BoardTable | BudgetChart) -> tuple[str, str, str, str, str | None]:
    """What tables that differ in budget alone have in common."""
    return one.dataset, one.fingerprint, one.split, one.backbone, one.llm


def _budget_charts(tables: list[BoardTable]) -> Iterable[BudgetChart]:
    """A chart per metric, where these tables of one data set and backbone have several budgets."""
    pruned = [(table, row) for table in tables for row in table.rows if row.kind == "pruned"]
    if len({row.budget for _, row in pruned}) < 2:
        return
    others = {row.id: (table, row) for table in tables for row in table.rows if row.kind != "pruned"}
    table = tables[0]
    for metric in table.metrics:
        series = _series(pruned, metric)
        if series:
            yield BudgetChart(
                dataset=table.dataset,
                fingerprint=table.fingerprint,
                split=table.split,
                backbone=table.backbone,
                llm=table.llm,
                metric=metric,
                series=series,
                levels=_levels(list(others.values()), metric),
            )


def _series(pruned: list[tuple[BoardTable, BoardRow]], metric: str) -> list[BudgetSeries]:
    """Rows, by budget, with equal labels belong together; where a budget has two of them, their place tells them apart."""
    groups: dict[tuple[str, int], list[tuple[str, str, BudgetPoint]]] = defaultdict(list)
    times: Counter[tuple[str, int]] = Counter()
    for table, row in pruned:
        label, one = label_of(row, table), figure_of(row, metric)
        times[label, row.budget] += 1
        if one is None or one.mean is None:
            continue
        point = BudgetPoint(budget=row.budget, share=row.share, mean=one.mean, sd=one.sd, seeds=one.seeds)
        groups[label, times[label, row.budget]].append((row.id, row.method, point))
    made = [
        BudgetSeries(
            label=label if place == 1 else f"{label} [{place}]",
            method=found[0][1],
            ids=[row for row, _, _ in found],
            points=[point for _, _, point in found],
        )
        for (label, place), found in groups.items()
    ]
    return sorted(made, key=lambda one: one.label)


def _levels(rows: list[tuple[BoardTable, BoardRow]], metric: str) -> list[Level]:
    levels = []
    for table, row in rows:
        one = figure_of(row, metric)
        if one is not None and one.mean is not None:
            levels.append(Level(label=label_of(row, table), id=row.id, kind=row.kind, value=one.mean))
    return levels
