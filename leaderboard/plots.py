"""The pictures of a board drawn with matplotlib: the same bytes from the same board, without any global state."""

from __future__ import annotations

from collections.abc import Sequence

from prunebench.leaderboard.charts import BudgetChart, CostChart, OverlapChart, ScoresChart, StagesChart
from prunebench.leaderboard.pictures import BITMAP, DARK, Picture
from prunebench.leaderboard.plots_areas import overlap_plot, scores_plot, stages_plot
from prunebench.leaderboard.plots_points import budget_plot, cost_plot
from prunebench.leaderboard.themes import THEMES, Sheet, Theme, saved, sheet, style


def draw(picture: Picture, methods: Sequence[str], ending: str) -> bytes:
    """One file of a picture: ``LIGHT``, ``DARK`` or ``BITMAP``. ``methods``: a method's place there is its colour."""
    theme = THEMES["dark" if ending == DARK else "light"]
    places = {method: at for at, method in enumerate(methods)}
    with style(theme):
        made = _drawn(picture, theme, places)
        return saved(
            made.figure, f"{picture.title}: {picture.place}", picture.alt, "png" if ending == BITMAP else "svg"
        )


def _drawn(picture: Picture, theme: Theme, places: dict[str, int]) -> Sheet:
    chart = picture.chart

    def paper(room: float) -> Sheet:
        return sheet(theme, picture.title, picture.note, room, picture.place)

    match chart:
        case CostChart():
            return cost_plot(chart, theme, places, paper)
        case BudgetChart():
            return budget_plot(chart, theme, places, paper)
        case ScoresChart():
            return scores_plot(chart, theme, places, paper)
        case OverlapChart():
            return overlap_plot(chart, theme, paper)
        case StagesChart():
            return stages_plot(chart, theme, paper)
