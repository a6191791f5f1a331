"""The pictures of a board by name, each with its title, what its marks are, and in words what one sees."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from itertools import combinations

from prunebench.leaderboard.board import Board, BoardTable
from prunebench.leaderboard.charts import (
    BudgetChart,
    CostChart,
    Mark,
    OverlapChart,
    ScoresChart,
    StagesChart,
    StagesRow,
    TableCharts,
    charts_of,
    family_of,
)
from prunebench.leaderboard.record import Part
from prunebench.leaderboard.tables import duration, figure, percent

FOLDER = "plots"
LIGHT, DARK, BITMAP = ".svg", "-dark.svg", ".png"
"""What a picture's name is followed by: drawings for light and dark pages, and one in pixels, for light ones."""
LONGEST = 90
"""Characters a file's name has at most, without what tells equal ones apart."""
FEW = 3
"""A table with fewer pruned rows has no pictures where one for another budget has more: the one over budgets shows it."""
MANY = 40
"""Rows that overlaps and scores are drawn of at most: of more, nobody could read them. The page has them all."""
NAMED = 12
"""Rows that a picture's description names at most."""
Chart = CostChart | ScoresChart | OverlapChart | StagesChart | BudgetChart


class Picture(Part):
    """``name``: of its files, without what they end in. ``place``: the table it belongs to.

    ``note``: what its marks are; ``alt``: what one sees, in words.
    """

    name: str
    title: str
    place: str
    note: str
    alt: str
    chart: Chart

    @property
    def files(self) -> list[str]:
        return [self.name + ending for ending in (LIGHT, DARK, BITMAP)]


class Pictures(Part):
    """``tables``: the pictures under each table of a board, in its order; one over budgets stands under the last of them.

    ``methods``: those whose place gives them their colour, see ``charts.Charts``.
    """

    methods: list[str]
    tables: list[list[Picture]]

    @property
    def every(self) -> list[Picture]:
        return [picture for pictures in self.tables for picture in pictures]


def pictures_of(board: Board) -> Pictures:
    """The pictures of a board; where there is a chart per metric, the first metric's. None where a board has none."""
    if not board.pictures:
        return Pictures(methods=[], tables=[[] for _ in board.tables])
    charts, names = charts_of(board), _Names()
    most: dict[tuple[str, str, str, str, str | None], int] = {}
    for table in board.tables:
        most[family_of(table)] = max(_pruned(table), most.get(family_of(table), 0))
    made = [
        list(_table_pictures(table, own, names)) if _pruned(table) >= min(FEW, most[family_of(table)]) else []
        for table, own in zip(board.tables, charts.tables, strict=True)
    ]
    last = {family_of(table): at for at, table in enumerate(board.tables)}
    for chart in charts.budgets:
        table = board.tables[last[family_of(chart)]]
        if chart.metric == table.metrics[0]:
            made[last[family_of(chart)]].append(_budgets(chart, names))
    return Pictures(methods=charts.methods, tables=made)


def _pruned(table: BoardTable) -> int:
    return sum(row.kind == "pruned" for row in table.rows)


class _Names:
    """File names that any system takes, none twice."""

    def __init__(self) -> None:
        self.taken: set[str] = set()

    def new(self, what: str, *words: str | None) -> str:
        """The words in ASCII, then what it shows; where that loses anything, or is taken, with some digits of a hash."""
        text = "-".join(word for word in words if word)
        plain = re.sub(r"[^a-z0-9_.]+", "-", text.lower()).strip("-.")[:LONGEST]
        name, number = f"{plain}-{what}", 0
        while name in self.taken or (plain != text and number == 0):
            name = f"{plain}-{hashlib.sha256(f'{text} {number}'.encode()).hexdigest()[:6]}-{what}"
            number += 1
        self.taken.add(name)
        return name


def _table_pictures(table: BoardTable, own: TableCharts, names: _Names) -> Iterable[Picture]:
    def name(what: str) -> str:
        return names.new(what, table.dataset, table.backbone, table.llm, str(table.budget))

    place = f"{table.title} ({percent(table.share)})"
    if own.cost:
        yield _cost(own.cost[0], name("cost"), place)
    if own.stages:
        yield _stages(own.stages, name("stages"), place)
    if own.overlap and len(own.overlap.ids) <= MANY:
        yield _overlap(own.overlap, name("overlap"), place, table.share)
    if own.scores and len(own.scores.rows) <= MANY:
        yield _scores(own.scores, name("scores"), place)


def _cost(chart: CostChart, name: str, place: str) -> Picture:
    labels = {mark.id: mark for mark in chart.marks}
    front = [labels[row] for row in chart.front]
    note = [f"{chart.metric}, mean over {_seeds([mark.seeds for mark in chart.marks])}", *_bars(chart.marks)]
    note += ["line and bold names: the Pareto front, which no row beats at its cost or less"] if front else []
    note += ["hollow: not in the running for it (references, plugins, other hardware)"] if _others(chart) else []
    note += [_left_out(chart.left_out, "hardware that differs, or no figure")] if chart.left_out else []
    named = _listed([f"{mark.label} ({figure(mark.y)}, {duration(mark.x)})" for mark in front])
    return Picture(
        name=name,
        title="Accuracy against total cost",
        place=place,
        note=_sentence(note),
        alt=f"{chart.metric} against total seconds of {len(chart.marks)} rows. "
        + (f"On the Pareto front, cheapest first: {named}." if front else "None may stand on the Pareto front."),
        chart=chart,
    )


def _others(chart: CostChart) -> list[Mark]:
    return [mark for mark in chart.marks if not mark.rival]


def _bars(marks: Sequence[Mark]) -> list[str]:
    return ["bars: ± one sample standard deviation over seeds"] if any(mark.low is not None for mark in marks) else []


def _stages(chart: StagesChart, name: str, place: str) -> Picture:
    def total(row: StagesRow) -> float:
        return sum(stage.seconds for stage in row.stages)

    note = ["bars: mean wall-clock time per run, stage by stage, without the LLM's pre-training"]
    note += [_left_out(chart.left_out, "hardware that differs, or no bill")] if chart.left_out else []
    ranked = sorted(chart.rows, key=total, reverse=True)
    named = _listed([f"{row.label} {duration(total(row))}" for row in ranked])
    return Picture(
        name=name,
        title="Where the time goes",
        place=place,
        note=_sentence(note),
        alt=f"Stacked bars of the stages' times. Longest first: {named}.",
        chart=chart,
    )


def _overlap(chart: OverlapChart, name: str, place: str, share: float) -> Picture:
    pairs = [
        (shared, f"{chart.labels[one]} and {chart.labels[other]} {percent(shared)}")
        for one, other in combinations(range(len(chart.ids)), 2)
        if (shared := chart.shared[one][other]) is not None
    ]
    named = _listed([words for _, words in sorted(pairs, key=lambda pair: -pair[0])[:5]])
    return Picture(
        name=name,
        title="Samples kept in common",
        place=place,
        note=f"Numbers: percent of the kept samples that two rows share, mean over the seeds both have. Two random draws share {percent(share)}.",
        alt=f"Table of the shares of kept samples that {len(chart.ids)} rows have in common. Most: {named}."
        if pairs
        else "No two rows have a seed in common.",
        chart=chart,
    )


def _scores(chart: ScoresChart, name: str, place: str) -> Picture:
    summaries = [row.summary for row in chart.rows]
    note = [
        "area: all samples with a score",
        "line: those kept, each in percent of their number, on a square-root scale",
    ]
    note += ["ticks: bounds of the strata drawn from"] if any(one.strata for one in summaries) else []
    note += ["hatched: dropped before the draw"] if any(one.dropped_from is not None for one in summaries) else []
    note += ["first seed only"]
    named = _listed([f"{row.label} ({row.summary.name})" for row in chart.rows])
    return Picture(
        name=name,
        title="Scores of all samples and of those kept",
        place=place,
        note=_sentence(note),
        alt=f"Histograms of the scores of {named}, over all samples and over those kept.",
        chart=chart,
    )


def _budgets(chart: BudgetChart, names: _Names) -> Picture:
    budgets = sorted({point.budget for series in chart.series for point in series.points})
    points = [point for series in chart.series for point in series.points]
    note = [f"{chart.metric}, mean over {_seeds([point.seeds for point in points])}"]
    note += ["bars: ± one sample standard deviation over seeds"] if any(one.sd is not None for one in points) else []
    note += ["dashed: what no budget changes"] if chart.levels else []
    ends = _listed(
        [f"{one.label} {figure(one.points[-1].mean)} at {one.points[-1].budget:,}" for one in chart.series]
        + [f"{level.label} {figure(level.value)}" for level in chart.levels]
    )
    words = [chart.dataset, chart.backbone, *([chart.llm] if chart.llm else [])]
    return Picture(
        name=names.new("budgets", chart.dataset, chart.backbone, chart.llm),
        title="Accuracy against budget",
        place=" · ".join(words),
        note=_sentence(note),
        alt=f"{chart.metric} at {_listed([f'{budget:,}' for budget in budgets])} samples: {ends}.",
        chart=chart,
    )


def _seeds(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low} seed{'s' * (low != 1)}" if low == high else f"{low} to {high} seeds"


def _left_out(rows: int, why: str) -> str:
    return f"{rows} row{'s' * (rows != 1)} left out: {why}"


def _listed(words: Sequence[str]) -> str:
    more = len(words) - NAMED
    return "; ".join([*words[:NAMED], *([f"and {more} more"] if more > 0 else [])])


def _sentence(parts: Sequence[str]) -> str:
    text = "; ".join(parts)
    return f"{text[:1].upper()}{text[1:]}."
