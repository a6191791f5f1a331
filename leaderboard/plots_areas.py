"""Pictures of parts of a whole: stages of the bill, samples in common, histograms of scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from prunebench.leaderboard.board import StageCost
from prunebench.leaderboard.charts import OverlapChart, ScoresChart, ScoresRow, StagesChart
from prunebench.leaderboard.record import COUNTED
from prunebench.leaderboard.tables import duration
from prunebench.leaderboard.themes import (
    MARGIN,
    NOTE_SIZE,
    WIDTH,
    Sheet,
    Theme,
    between,
    dark_on,
    folded,
    plain,
)

Stage = tuple[str, str]
"""Phase and stage; the stage is empty for all small ones of the phase together."""
LEGEND_SIZE = NOTE_SIZE - 0.5
SMALL = 0.01
"""A stage that takes less than this share of the longest bar in every row is not shown apart."""


def stages_plot(chart: StagesChart, theme: Theme, paper: Callable[[float], Sheet]) -> Sheet:
    """What each row's stages cost, as bars in parts."""
    ruler = paper(1.0)
    names = [ruler.fit(folded(row.label, 34), 2.9, NOTE_SIZE) for row in chart.rows]
    heights = [0.36 if "\n" in name else 0.25 for name in names]
    colours = _stage_colours(chart, theme)
    words = [_stage_words(*stage) for stage in colours]
    columns = _columns([ruler.wide(one, LEGEND_SIZE) + 0.42 for one in words])
    foot = 0.62 + 0.2 * math.ceil(len(words) / columns)
    made = paper(sum(heights) + foot + 0.05)
    left = MARGIN + max(ruler.wide(name, NOTE_SIZE) for name in names) + 0.1
    axes = made.axes(left, foot, WIDTH - left - 0.9, sum(heights))
    totals = [sum(stage.seconds for stage in row.stages) for row in chart.rows]
    longest = max(totals) or 1.0
    unit, name = next(
        ((unit, name) for unit, name in ((3600, "hours"), (60, "minutes")) if longest >= 2 * unit), (1, "seconds")
    )
    middle = np.cumsum(heights) - np.array(heights) / 2
    for row, at, total in zip(chart.rows, middle, totals, strict=True):
        end = 0.0
        for stage in _merged(row.stages, set(colours)):
            width = stage[2] / unit
            axes.barh(
                at, width, 0.17, left=end, facecolor=colours[stage[:2]], edgecolor=theme.background, linewidth=0.5
            )
            end += width
        axes.text(end + 0.01 * longest / unit, at, duration(total), size=NOTE_SIZE, va="center_baseline")
    axes.set_yticks(middle, names, linespacing=1.0)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(float(sum(heights)), 0)
    axes.set_xlim(0, longest / unit)
    axes.set_xlabel(f"{name} per run", loc="right")
    axes.grid(visible=False, axis="y")
    handles = [Patch(color=colour, label=one) for one, colour in zip(words, colours.values(), strict=True)]
    made.figure.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(MARGIN / WIDTH, made.base / made.height),
        ncols=columns,
        frameon=False,
        fontsize=LEGEND_SIZE,
        handlelength=1,
        handleheight=0.8,
        handletextpad=0.5,
        columnspacing=1.4,
        borderpad=0,
        labelspacing=0.35,
    )
    return made


def _columns(widths: Sequence[float]) -> int:
    """The most columns, of five at most, in which entries this wide fit, filled one column after the other."""
    for columns in range(5, 1, -1):
        lines = math.ceil(len(widths) / columns)
        if sum(max(widths[at : at + lines]) for at in range(0, len(widths), lines)) <= WIDTH - 2 * MARGIN:
            return columns
    return 1


def _merged(stages: Iterable[StageCost], known: set[Stage]) -> list[tuple[str, str, float]]:
    """Phase, stage and seconds of a row's stages, those not ``known`` together at the end of their phase."""
    found: dict[Stage, float] = {}
    for stage in sorted(stages, key=lambda one: (COUNTED.index(one.phase), (one.phase, one.stage) not in known)):
        at = (stage.phase, stage.stage if (stage.phase, stage.stage) in known else "")
        found[at] = found.get(at, 0.0) + stage.seconds
    return [(*at, seconds) for at, seconds in found.items()]


def _stage_colours(chart: StagesChart, theme: Theme) -> dict[Stage, str]:
    """Stages shown apart in the order they come in, then the small ones of their phase; a family of colours per phase."""
    longest = max(sum(stage.seconds for stage in row.stages) for row in chart.rows)
    every = [stage for row in chart.rows for stage in row.stages]
    large = dict.fromkeys((one.phase, one.stage) for one in every if one.seconds >= SMALL * longest)
    colours: dict[Stage, str] = {}
    for phase in COUNTED:
        own: list[Stage] = [at for at in large if at[0] == phase]
        own += [(phase, "")] * any(one.phase == phase and (phase, one.stage) not in large for one in every)
        for at, stage in enumerate(own):
            colours[stage] = between(theme.phases[phase], at / max(1, len(own) - 1))
    return colours


def _stage_words(phase: str, stage: str) -> str:
    return f"{phase}: {plain(stage, 24) or 'the rest'}"


def overlap_plot(chart: OverlapChart, theme: Theme, paper: Callable[[float], Sheet]) -> Sheet:
    """What share of their samples each two rows have in common; each row's name stands where its column begins."""
    count = len(chart.ids)
    cell = min(0.42, (WIDTH - 2 * MARGIN - 2.2) / count)
    made = paper(cell * count + 0.05)
    ends = [WIDTH - 2 * MARGIN - (at + 0.12) * cell for at in range(count)]
    names = [made.fit(plain(label), end, NOTE_SIZE) for label, end in zip(chart.labels, ends, strict=True)]
    axes = made.axes(MARGIN, 0.05, WIDTH - 2 * MARGIN, cell * count)
    axes.set_axis_off()
    axes.set_xlim(0, (WIDTH - 2 * MARGIN) / cell)
    axes.set_ylim(count, 0)
    size = min(NOTE_SIZE - 0.5, 72 * cell / 2.6)
    for at in range(count):
        for other in range(at):
            shared = chart.shared[at][other]
            colour = theme.background if shared is None else between(theme.shares, shared)
            axes.add_patch(Rectangle((other + 0.02, at + 0.02), 0.96, 0.96, facecolor=colour, linewidth=0))
            words = "–" if shared is None else f"{100 * shared:.0f}"
            ink = theme.faint if shared is None else "#000000" if dark_on(colour) else "#ffffff"
            axes.text(other + 0.5, at + 0.5, words, size=size, color=ink, ha="center", va="center")
        axes.text(at + 0.12, at + 0.5, names[at], size=NOTE_SIZE, va="center")
    return made


def scores_plot(chart: ScoresChart, theme: Theme, places: dict[str, int], paper: Callable[[float], Sheet]) -> Sheet:
    """For each row with scores a small histogram of all samples and of those kept."""
    columns = min(3, len(chart.rows))
    lines = math.ceil(len(chart.rows) / columns)
    tall, gap = 1.25, 0.8
    made = paper(lines * (tall + gap) - 0.1)
    wide = (WIDTH - MARGIN - 0.2) / columns
    for at, row in enumerate(chart.rows):
        bottom = made.room - (at // columns + 1) * (tall + gap) + 0.6
        axes = made.axes(MARGIN + 0.42 + (at % columns) * wide, bottom, wide - 0.55, tall)
        _histogram(axes, row, theme, theme.colour(places.get(row.method)))
        title = made.fit(folded(row.label, 30), wide - 0.55, NOTE_SIZE, "bold")
        axes.set_title(title, loc="left", size=NOTE_SIZE, weight="bold", pad=4)
        axes.set_xlabel(made.fit(plain(row.summary.name), wide - 0.55, NOTE_SIZE - 1), size=NOTE_SIZE - 1, labelpad=2)
    return made


def _histogram(axes: Axes, row: ScoresRow, theme: Theme, colour: str) -> None:
    summary = row.summary
    edges = np.asarray(summary.edges)
    every, kept = (_percent(counts) for counts in (summary.samples, summary.kept))
    axes.stairs(every, edges, fill=True, color=theme.grid, zorder=2)
    axes.stairs(every, edges, color=theme.faint, linewidth=0.8, zorder=2.5)
    axes.stairs(kept, edges, color=colour, linewidth=1.5, zorder=3)
    axes.set_yscale("function", functions=(lambda y: np.sqrt(np.maximum(y, 0)), np.square))
    axes.set_ylim(0, max(float(every.max()), float(kept.max()), 1e-6) * 1.05)
    axes.set_xlim(edges[0], edges[-1])
    if summary.dropped_from is not None and summary.dropped_from < edges[-1]:
        axes.axvspan(
            max(summary.dropped_from, edges[0]),
            edges[-1],
            facecolor="none",
            edgecolor=theme.grid,
            hatch="////",
            linewidth=0,
            zorder=1,
        )
    inside = [bound for bound in summary.strata if edges[0] <= bound <= edges[-1]]
    axes.plot(
        inside, [0] * len(inside), "|", color=theme.ink, markersize=7, markeredgewidth=0.7, zorder=5, clip_on=False
    )
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}%"))
    axes.yaxis.set_major_locator(MaxNLocator(3))
    axes.tick_params(labelsize=NOTE_SIZE - 1.5)


def _percent(counts: Sequence[int]) -> np.ndarray:
    values = np.asarray(counts, float)
    return 100 * values / max(1.0, float(values.sum()))
