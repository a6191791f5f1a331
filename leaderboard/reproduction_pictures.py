"""The pictures of the paper's figures from what is recorded: bars, and lines over samples or λ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from prunebench.leaderboard import group_plots
from prunebench.leaderboard.charts import METHODS, BudgetChart, BudgetPoint, BudgetSeries, Level
from prunebench.leaderboard.pictures import BITMAP, DARK, LIGHT
from prunebench.leaderboard.plots_points import budget_plot
from prunebench.leaderboard.reproduction_layouts import by_variant, named, variant
from prunebench.leaderboard.reproduction_page import Line, Panel, Reproduction
from prunebench.leaderboard.reproductions import FULL
from prunebench.leaderboard.tables import figure
from prunebench.leaderboard.themes import HATCHES, THEMES, WIDTH, Sheet, Theme, plain, saved, sheet, style

Paper = Callable[[float], Sheet]
"""Paper with so many inches of room."""
ENDINGS = (LIGHT, DARK, BITMAP)
LAM = "method.lam"
_ROOM, _BETWEEN = 1.9, 0.45
"""Inches: a metric's height, and what is under it."""


@dataclass(frozen=True, eq=False)
class Drawing:
    """A picture by the name of its files without what they end in, and in words; ``draw(ending)`` gives a file's bytes."""

    name: str
    alt: str
    draw: Callable[[str], bytes]


def pictures_of(made: Reproduction) -> list[Drawing]:
    """A picture per data set and backbone of which there is anything to draw; none of tables."""
    if made.name == "fig6":
        return _groups(made)
    draws = {"fig4": _bars, "fig5": _budgets, "fig7": _weights}
    if made.name not in draws:
        return []
    parts = [
        (panel, backbone) for panel in made.panels for backbone in dict.fromkeys(one.backbone for one in panel.lines)
    ]
    drawn = []
    for panel, backbone in parts:
        lines = [line for line in panel.lines if line.backbone == backbone and _mean(line, panel) is not None]
        name = made.name if len(parts) == 1 else f"{made.name}-{panel.dataset}-{backbone}"
        llms = dict.fromkeys(line.llm for line in panel.lines if line.backbone == backbone and line.llm)
        title = " · ".join([made.title.partition(":")[0], named(panel.dataset), named(backbone), *llms])
        drawn += [picture for picture in [draws[made.name](name, title, panel, lines)] if picture is not None]
    return drawn


def _mean(line: Line, panel: Panel) -> float | None:
    return line.scores[panel.metrics[0]].ours


def _first(panel: Panel) -> list[str]:
    """Recall and NDCG at the first cut-off."""
    return [panel.metrics[0], panel.metrics[2]]


def _note(lines: Sequence[Line]) -> str:
    low, high = min(line.seeds for line in lines), max(line.seeds for line in lines)
    if high == 1:
        return "One seed."
    return (
        f"Mean over {low if low == high else f'{low} to {high}'} seeds; upright lines: ± one sample standard deviation."
    )


# -- figure 4: bars ----------------------------------------------------------------------------------------------------


def _bars(name: str, title: str, panel: Panel, lines: Sequence[Line]) -> Drawing | None:
    if not lines:
        return None
    lines, metrics = by_variant(lines), _first(panel)
    alt = "; ".join(f"{metric}: {', '.join(_reached(line, metric) for line in lines)}" for metric in metrics)

    def fill(theme: Theme, paper: Paper) -> Sheet:
        made = paper(len(metrics) * (_ROOM + _BETWEEN))
        for at, metric in enumerate(metrics):
            bottom = (len(metrics) - 1 - at) * (_ROOM + _BETWEEN) + _BETWEEN - 0.1
            _bar_axes(made.axes(0.72, bottom, WIDTH - 0.92, _ROOM), lines, metric, theme)
        return made

    return _drawing(name, "DEALRec without its parts", title, f"Bars. {alt}.", lines, fill)


def _reached(line: Line, metric: str) -> str:
    value = line.scores[metric].ours
    return f"{variant(line)} {'–' if value is None else figure(value)}"


def _bar_axes(axes: Axes, lines: Sequence[Line], metric: str, theme: Theme) -> None:
    seen: dict[str, int] = {}
    for at, line in enumerate(lines):
        colour = _colour(line.method, theme)
        hatch = HATCHES[seen.setdefault(line.method, 0) % len(HATCHES)]
        seen[line.method] += 1
        score = line.scores[metric]
        axes.bar([at], [score.ours or 0.0], 0.66, color=colour, hatch=hatch, edgecolor=theme.background, linewidth=0)
        if score.sd is not None:
            for colour, width in ((theme.background, 3.5), (theme.faint, 1.5)):
                axes.errorbar([at], [score.ours or 0.0], [score.sd], fmt="none", ecolor=colour, elinewidth=width)
    axes.grid(False, axis="x")
    axes.set_ylim(bottom=0)
    axes.set_xticks(np.arange(len(lines)), [plain(variant(line), 24) for line in lines])
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel(metric)
    axes.yaxis.set_major_formatter(FuncFormatter(_short))


# -- figure 5: samples -------------------------------------------------------------------------------------------------


def _budgets(name: str, title: str, panel: Panel, lines: Sequence[Line]) -> Drawing | None:
    metric = panel.metrics[0]
    pruned = [line for line in lines if line.method != FULL]
    if len({line.budget for line in pruned}) < 2:
        return None
    series = [
        _series([line for line in pruned if line.label == label], metric)
        for label in dict.fromkeys(line.label for line in pruned)
    ]
    levels = [
        Level(label=named(line.method), id=line.label, kind="full", value=line.scores[metric].ours or 0.0)
        for line in lines
        if line.method == FULL
    ]
    chart = BudgetChart(
        dataset=panel.dataset,
        fingerprint="",
        split="test",
        backbone=lines[0].backbone,
        llm=lines[0].llm,
        metric=metric,
        series=series,
        levels=levels,
    )
    alt = f"{metric}. " + "; ".join(
        f"{one.label}: {', '.join(f'{figure(point.mean)} with {point.budget:,}' for point in one.points)}"
        for one in series
    )
    alt += "".join(f"; {level.label}: {figure(level.value)}" for level in levels) + "."
    places = {method: at for at, method in enumerate(METHODS)}
    words = "Accuracy against the samples kept"
    return _drawing(name, words, title, alt, lines, lambda theme, paper: budget_plot(chart, theme, places, paper))


def _series(lines: Sequence[Line], metric: str) -> BudgetSeries:
    points = [
        BudgetPoint(
            budget=line.budget,
            share=line.share,
            mean=line.scores[metric].ours or 0.0,
            sd=line.scores[metric].sd,
            seeds=line.seeds,
        )
        for line in sorted(lines, key=lambda line: line.budget)
    ]
    return BudgetSeries(
        label=variant(lines[0]), method=lines[0].method, ids=[line.label for line in lines], points=points
    )


# -- figure 6: groups of users -----------------------------------------------------------------------------------------


def _groups(made: Reproduction) -> list[Drawing]:
    parts = [part for panel in made.panels for part in panel.groups]
    return [
        Drawing(
            made.name if len(parts) == 1 else f"{made.name}-{part.dataset}-{part.backbone}",
            group_plots.alt(part),
            partial(group_plots.draw, part),
        )
        for part in parts
    ]


# -- figure 7: λ -------------------------------------------------------------------------------------------------------


def _weights(name: str, title: str, panel: Panel, lines: Sequence[Line]) -> Drawing | None:
    varied = sorted((line for line in lines if LAM in line.asked), key=lambda line: line.asked[LAM])
    levels = [line for line in lines if LAM not in line.asked]
    if len(varied) < 2:
        return None
    metrics = _first(panel)
    alt = "; ".join(
        f"{metric}: {', '.join(f'{figure(line.scores[metric].ours or 0.0)} at λ = {line.asked[LAM]:g}' for line in varied)}"
        for metric in metrics
    )

    def fill(theme: Theme, paper: Paper) -> Sheet:
        made = paper(len(metrics) * (_ROOM + 0.55))
        for at, metric in enumerate(metrics):
            axes = made.axes(0.72, (len(metrics) - 1 - at) * (_ROOM + 0.55) + 0.5, WIDTH - 1.8, _ROOM)
            _weight_axes(axes, varied, levels, metric, theme)
        return made

    return _drawing(name, "λ, the weight of the effort score", title, f"{alt}.", lines, fill)


def _weight_axes(axes: Axes, varied: Sequence[Line], levels: Sequence[Line], metric: str, theme: Theme) -> None:
    x = [float(line.asked[LAM]) for line in varied]
    scores = [line.scores[metric] for line in varied]
    colour = _colour(varied[0].method, theme)
    axes.set_xscale("log")
    axes.errorbar(
        x,
        [score.ours or 0.0 for score in scores],
        [score.sd or 0.0 for score in scores],
        color=colour,
        marker="o",
        markersize=5.5,
        linewidth=1.6,
        elinewidth=1.1,
    )
    for line in levels:
        value = line.scores[metric].ours or 0.0
        axes.axhline(value, color=theme.faint, linewidth=1.1, linestyle=(0, (4, 3)))
        axes.annotate(
            variant(line), (1.01, value), xycoords=("axes fraction", "data"), va="center", size=9, color=theme.ink
        )
    axes.xaxis.set_major_locator(FixedLocator(x))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("λ, log scale", loc="right")
    axes.set_ylabel(metric)
    axes.yaxis.set_major_formatter(FuncFormatter(_short))


# -- looks -------------------------------------------------------------------------------------------------------------


def _drawing(
    name: str, words: str, title: str, alt: str, lines: Sequence[Line], fill: Callable[[Theme, Paper], Sheet]
) -> Drawing:
    """A picture that ``fill`` draws on the paper it asks for; the same bytes from the same lines."""

    def draw(ending: str) -> bytes:
        theme = THEMES["dark" if ending == DARK else "light"]
        with style(theme), mpl.rc_context({"hatch.color": theme.background}):
            made = fill(theme, lambda room: sheet(theme, words, _note(lines), room, title))
            return saved(made.figure, f"{words}: {title}", alt, "png" if ending == BITMAP else "svg")

    return Drawing(name, alt, draw)


def _colour(method: str, theme: Theme) -> str:
    return theme.colour(METHODS.index(method) if method in METHODS else None)


def _short(value: float, _: object) -> str:
    return f"{value:g}".replace("0.", ".", 1)
