"""Pictures of points in a plane: accuracy against total cost, and against budget."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import NDArray

from prunebench.leaderboard import labels
from prunebench.leaderboard.charts import BudgetChart, CostChart, Mark
from prunebench.leaderboard.tables import duration, percent
from prunebench.leaderboard.themes import NOTE_SIZE, WIDTH, Sheet, Theme, folded, plain

_TIMES = [
    *(unit * step for unit in (0.001, 0.01, 0.1) for step in (1, 2, 5)),
    *(unit * step for unit in (1, 60) for step in (1, 2, 5, 10, 20, 30)),
    *(3600 * step for step in (1, 2, 5, 10, 24, 48, 120, 240, 720)),
]
"""Seconds that an axis of times may be marked at."""
_FAR_CHEAPER = 3.0
"""What is this many times cheaper than any row that was fine-tuned stands at the edge, not to press those together."""
_NAMED = 40
"""Marks that can all have their names beside them; of more, only those have that others are read against."""


def cost_plot(chart: CostChart, theme: Theme, places: dict[str, int], paper: Callable[[float], Sheet]) -> Sheet:
    """Accuracy against total cost, every row with its name, the Pareto front as steps."""
    made = paper(4.8)
    axes = made.axes(0.72, 0.55, WIDTH - 0.72 - 0.25, made.room - 0.6)
    tuned = [mark.x for mark in chart.marks if mark.kind in ("pruned", "full") and mark.x > 0]
    every = [mark.x for mark in chart.marks if mark.x > 0] or [1.0]
    edge = min(tuned, default=min(every))
    least = min([x for x in every if x * _FAR_CHEAPER >= edge], default=edge)
    low, high = least / (1.5 if least == min(every) else 2), max(every) * 1.6
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    ends = [y for mark in chart.marks for y in (mark.low, mark.high, mark.y) if y is not None]
    span = (max(ends) - min(ends)) or max(abs(max(ends)), 1e-3)
    axes.set_ylim(min(ends) - 0.07 * span, max(ends) + 0.07 * span)
    _time_axis(axes, low, high)
    _share_axis(axes)
    axes.set_xlabel("total cost per run, log scale", loc="right")
    axes.set_ylabel(chart.metric)
    front = _front(chart, low, high)
    axes.plot(*front.T, color=theme.faint, linewidth=1.2, zorder=2)
    where = {mark.id: (low if mark.x < low else mark.x, mark.y) for mark in chart.marks}
    for mark in chart.marks:
        x, y = where[mark.id]
        place = places.get(mark.method) if mark.kind == "pruned" else None
        colour = theme.colour(place)
        if mark.low is not None and mark.high is not None:
            axes.plot([x, x], [mark.low, mark.high], color=colour, linewidth=1.2, zorder=3, clip_on=False)
        axes.plot(
            [x],
            [y],
            marker="<" if mark.x < low else "D" if mark.kind == "reference" else theme.marker(place),
            markersize=6.5,
            markerfacecolor=colour if mark.rival else theme.background,
            markeredgecolor=colour,
            markeredgewidth=1.3,
            linestyle="none",
            zorder=4,
            clip_on=False,
        )
    _name_marks(made, axes, chart, theme, where, front, low)
    return made


def _front(chart: CostChart, low: float, high: float) -> NDArray[np.float64]:
    """The corners [n, 2] of the steps that the front makes, from one end of the axis to the other at most."""
    marks = {mark.id: mark for mark in chart.marks}
    front = [marks[row] for row in chart.front]
    corners = []
    for mark, following in zip(front, [*front[1:], None], strict=True):
        corners += [(mark.x, mark.y), (high if following is None else following.x, mark.y)]
    return np.maximum(np.array(corners).reshape(-1, 2), (low, -np.inf))


def _is_measure(mark: Mark, chart: CostChart) -> bool:
    return mark.id in chart.front or mark.kind != "pruned" or mark.method == "random"


def _name_marks(
    made: Sheet,
    axes: Axes,
    chart: CostChart,
    theme: Theme,
    where: dict[str, tuple[float, float]],
    front: NDArray[np.float64],
    low: float,
) -> None:
    """Each mark's name beside it, none on another one, on a mark or on a bar; those at the edge one under the other."""
    texts, points, obstacles = [], [], []
    named = [mark for mark in chart.marks if len(chart.marks) <= _NAMED or _is_measure(mark, chart)]
    for mark in named:
        weight = "bold" if mark.id in chart.front else "normal"
        words = made.fit(folded(mark.label, 26), 2.2, NOTE_SIZE, weight)
        words += f" ({duration(mark.x)})" if mark.x < low else ""
        colour = theme.faint if mark.kind == "reference" else theme.ink
        look: dict[str, Any] = {"size": NOTE_SIZE, "weight": weight, "color": colour, "zorder": 5, "linespacing": 1.05}
        texts.append(axes.text(0, 0, words, ha="center", va="center", **look))
        x, y = axes.transData.transform(where[mark.id])
        points.append((x, y))
    for mark in chart.marks:
        x, y = axes.transData.transform(where[mark.id])
        obstacles.append((x - 6, y - 6, x + 6, y + 6))
        if mark.low is not None and mark.high is not None:
            ends = axes.transData.transform([(where[mark.id][0], mark.low), (where[mark.id][0], mark.high)])
            obstacles.append((x - 2, ends[0][1], x + 2, ends[1][1]))
    for one, other in pairwise(axes.transData.transform(front) if len(front) else ()):
        obstacles.append((*(np.minimum(one, other) - 2), *(np.maximum(one, other) + 2)))
    sizes = np.array([(box.width + 4, box.height + 2) for box in (text.get_window_extent() for text in texts)])
    boxes = _boxes(axes, np.array(points), sizes, np.array(obstacles), np.array([mark.x < low for mark in named]))
    inverse = axes.transData.inverted()
    for text, box, point in zip(texts, boxes, points, strict=True):
        x, y = inverse.transform(((box[0] + box[2]) / 2, (box[1] + box[3]) / 2))
        text.set_x(x)
        text.set_y(y)
        tip = labels.leader(np.array(point), box)
        if math.dist(tip, point) > 13:
            line = inverse.transform(np.array([point, tip]))
            axes.plot(line[:, 0], line[:, 1], color=theme.faint, linewidth=0.6, zorder=2.5, clip_on=False)


def _boxes(
    axes: Axes,
    points: NDArray[np.float64],
    sizes: NDArray[np.float64],
    obstacles: NDArray[np.float64],
    edge: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Where the names of points [n, 2] go, in pixels [n, 4]: first those at the edge, then all others around them."""
    frame = axes.get_window_extent()
    boxes = np.empty((len(points), 4))
    if edge.any():
        high = float(sizes[edge, 1].max())
        heights = np.array(labels.spread(points[edge, 1].tolist(), high, frame.y0 + high, frame.y1))
        left = np.full(len(heights), frame.x0 + 11)
        stack = np.stack([left, heights - high / 2, left + sizes[edge, 0], heights + high / 2], axis=1)
        boxes[edge] = labels.shifted(stack, obstacles, 60, frame.y0 + 4, frame.y1)
    within = (frame.x0 + 2, frame.y0 + 2, frame.x1 + 10, frame.y1 + 6)
    boxes[~edge] = labels.place(points[~edge], sizes[~edge], np.concatenate([obstacles, boxes[edge]]), within)
    return boxes


def _time_axis(axes: Axes, low: float, high: float) -> None:
    ticks = [time for time in _TIMES if low <= time <= high]
    while len(ticks) > 9:
        ticks = ticks[::2]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))


def _short(seconds: float) -> str:
    """``20 s``, ``5 min``, ``2 h``."""
    for unit, name in ((3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds / unit:g} {name}"
    return f"{seconds:g} s"


def _share_axis(axes: Axes) -> None:
    """Figures up the side, all with as many decimals as any needs, without the leading 0."""
    places = max(len(f"{tick:.5f}".rstrip("0").partition(".")[2]) for tick in axes.get_yticks())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.{places}f}".replace("0.", ".", 1)))


def budget_plot(chart: BudgetChart, theme: Theme, places: dict[str, int], paper: Callable[[float], Sheet]) -> Sheet:
    """Accuracy against budget, a line per method; levels that no budget changes are dashed."""
    count = len(chart.series) + len(chart.levels)
    made = paper(max(4.4, 0.21 * count + 0.8))
    axes = made.axes(0.72, 0.75, WIDTH - 0.72 - 2.3, made.room - 0.8)
    budgets = sorted({point.budget for series in chart.series for point in series.points})
    low, high = budgets[0] / 1.15, budgets[-1] * 1.15
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    shares = {point.budget: point.share for series in chart.series for point in series.points}
    axes.xaxis.set_major_locator(FixedLocator(budgets))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}\n{percent(shares.get(round(value)))}"))
    axes.set_xlabel("samples kept, log scale", loc="right")
    axes.set_ylabel(chart.metric)
    ends: list[tuple[float, float, str, str]] = []
    for number, series in enumerate(chart.series):
        place = places.get(series.method)
        colour = theme.colour(place)
        x = [point.budget * _beside(number, len(chart.series)) for point in series.points]
        y = [point.mean for point in series.points]
        bars = [(at, point) for at, point in zip(x, series.points, strict=True) if point.sd is not None]
        for at, point in bars:
            sd = point.sd or 0.0
            axes.plot([at, at], [point.mean - sd, point.mean + sd], color=colour, linewidth=1.1, zorder=3)
        axes.plot(x, y, color=colour, marker=theme.marker(place), markersize=5.5, linewidth=1.6, zorder=4)
        ends.append((x[-1], y[-1], series.label, colour))
    for level in chart.levels:
        axes.axhline(level.value, color=theme.faint, linewidth=1.1, linestyle=(0, (4, 3)), zorder=2)
        ends.append((high, level.value, level.label, theme.faint))
    _share_axis(axes)
    _name_ends(made, axes, ends, theme)
    return made


def _beside(number: int, count: int) -> float:
    """A little to the side, so that the bars of different lines do not hide each other."""
    return 1.012 ** (number - (count - 1) / 2)


def _name_ends(made: Sheet, axes: Axes, ends: list[tuple[float, float, str, str]], theme: Theme) -> None:
    """Names in the right margin, each at the height of its line or as near as there is room.

    ``ends``: where a line ends, what it is called, and its colour.
    """
    low, high = axes.get_ylim()
    inches = axes.get_position().height * made.height
    wanted = [(value - low) / (high - low) * inches for _, value, _, _ in ends]
    for (x, y, name, colour), at in zip(ends, labels.spread(wanted, 0.17, 0.0, inches), strict=True):
        axes.annotate(
            made.fit(plain(name), 1.8, NOTE_SIZE - 0.5),
            xy=(x, y),
            xytext=(1.06, at / inches),
            textcoords="axes fraction",
            size=NOTE_SIZE - 0.5,
            color=theme.ink,
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linewidth": 0.8,
                "relpos": (0, 0.5),
                "shrinkA": 1,
                "shrinkB": 0,
            },
        )
