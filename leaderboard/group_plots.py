"""The paper's Fig. 6 as a picture: bars of what each row reaches among easy, medium and hard users."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from prunebench.leaderboard.charts import in_colour_order
from prunebench.leaderboard.pictures import BITMAP, DARK
from prunebench.leaderboard.reproduction_layouts import NAMES
from prunebench.leaderboard.tables import figure
from prunebench.leaderboard.themes import HATCHES, THEMES, WIDTH, Theme, plain, saved, sheet, style
from prunebench.leaderboard.user_groups import GroupsRow, UserGroups

COLUMNS = 4
_PANEL, _BETWEEN, _LINE = 1.8, 0.42, 0.2
"""Inches: a metric's height, what is under it, a line of the legend."""


def draw(made: UserGroups, ending: str) -> bytes:
    """One file of the picture, for its name's ``ending`` as in ``pictures``; the same bytes from the same groups."""
    theme = THEMES["dark" if ending == DARK else "light"]
    first = [metric for metric in made.metrics if metric.endswith(f"@{made.metrics[0].partition('@')[2]}")]
    looks = _looks(made.rows, theme)
    legend = _LINE * (-(-len(made.rows) // COLUMNS)) + 0.1
    with style(theme), mpl.rc_context({"hatch.color": theme.background}):
        paper = sheet(
            theme, f"{made.title}: users by how hard they are", _note(made), legend + len(first) * (_PANEL + _BETWEEN)
        )
        for at, metric in enumerate(first):
            bottom = (len(first) - 1 - at) * (_PANEL + _BETWEEN) + _BETWEEN - 0.1
            _bars(paper.axes(0.72, bottom, WIDTH - 0.72 - 0.2, _PANEL), made, metric, looks, theme)
        paper.figure.legend(
            handles=[
                Patch(facecolor=colour, hatch=hatch, edgecolor=theme.background, label=plain(_label(row), 34))
                for row, (colour, hatch) in zip(made.rows, looks, strict=True)
            ],
            loc="upper left",
            bbox_to_anchor=(0.6 / WIDTH, (paper.base + paper.room + 0.05) / paper.height),
            ncols=COLUMNS,
            frameon=False,
            fontsize=9,
            handlelength=1.2,
            columnspacing=1.5,
        )
        return saved(
            paper.figure, f"{made.title}: users by how hard they are", alt(made), "png" if ending == BITMAP else "svg"
        )


def alt(made: UserGroups) -> str:
    """What one sees, in words."""
    metric = made.metrics[0]

    def reached(row: GroupsRow) -> str:
        means = [one[metric].mean if metric in one else None for one in row.figures]
        return ", ".join("none" if mean is None else figure(mean) for mean in means)

    names = ", ".join(group.name for group in made.groups)
    return f"{metric} among {names} users. " + "; ".join(f"{_label(row)}: {reached(row)}" for row in made.rows) + "."


def _label(row: GroupsRow) -> str:
    name, space, settings = (row.backbone_label if row.kind == "reference" else row.label).partition(" ")
    return NAMES.get(name, name) + space + settings


def _note(made: UserGroups) -> str:
    spread = any(
        one[made.metrics[0]].sd is not None for row in made.rows for one in row.figures if made.metrics[0] in one
    )
    return "Groups of equal size by the loss of models fine-tuned on random samples." + (
        " Bars: mean over seeds; lines: ± one sample standard deviation." if spread else " One seed."
    )


def _looks(rows: Sequence[GroupsRow], theme: Theme) -> list[tuple[str, str]]:
    """Colour and hatch of each row: rows of one method share a colour, as do all that no method pruned."""
    pruned = {row.method for row in rows if row.kind == "pruned"}
    methods = in_colour_order(pruned)
    seen: dict[str, int] = {}
    looks = []
    for row in rows:
        colour = theme.colour(methods.index(row.method) if row.kind == "pruned" else None)
        seen[colour] = seen.get(colour, -1) + 1
        looks.append((colour, HATCHES[seen[colour] % len(HATCHES)]))
    return looks


def _bars(axes: Axes, made: UserGroups, metric: str, looks: Sequence[tuple[str, str]], theme: Theme) -> None:
    places, width = np.arange(len(made.groups)), 0.84 / len(made.rows)
    for at, (row, (colour, hatch)) in enumerate(zip(made.rows, looks, strict=True)):
        x = places + (at - (len(made.rows) - 1) / 2) * width
        found = [one.get(metric) for one in row.figures]
        means = [one.mean if one and one.mean is not None else np.nan for one in found]
        spread = [one.sd if one and one.sd is not None else np.nan for one in found]
        axes.bar(x, means, 0.86 * width, color=colour, hatch=hatch, edgecolor=theme.background, linewidth=0)
        axes.errorbar(x, means, spread, fmt="none", ecolor=theme.faint, elinewidth=1.1)
    axes.grid(False, axis="x")
    axes.set_ylim(bottom=0)
    axes.set_xticks(places, [f"{group.name} ({group.users:,} users)" for group in made.groups])
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel(metric)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("0.", ".", 1)))
