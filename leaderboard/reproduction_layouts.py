"""Tables and figures of the paper as markdown, in its own layout: ours, theirs, and the difference."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from typing import Protocol

from prunebench.leaderboard.markdown import shown
from prunebench.leaderboard.reproduction_page import Line, Panel, Reproduction, Score
from prunebench.leaderboard.reproductions import FULL
from prunebench.leaderboard.statistics import BOOTSTRAP_SEEDS
from prunebench.leaderboard.tables import MISSING, duration, escape, figure, percent, signed, spread

Section = Callable[[Panel], list[str]]
Column = tuple[str, Callable[[Line], str]]
NAMES = {
    "bigrec": "BIGRec",
    "tiger": "TIGER",
    "tf_dcon": "TF-DCon",
    "recranker": "RecRanker",
    "ccs": "CCS",
    "grand": "GraNd",
    "el2n": "EL2N",
    "random": "Random",
    "dealrec": "DEALRec",
    "full": "Full",
    "bert4rec": "BERT4Rec",
    "sasrec": "SASRec",
    "dcrec": "DCRec",
    "games": "Games",
    "microlens-50k": "MicroLens-50K",
    "book": "Book",
}
"""Names as the paper prints them."""
PARTS = {
    "method.use_influence": "w/o influence",
    "method.use_effort": "w/o effort",
    "method.selection": "greedy",
}
"""What the paper calls DEALRec with this setting not its default."""
IMPROVEMENT = "% improvement"


class Shown(Protocol):
    """A picture: the name of its files without what they end in, and in words what one sees."""

    @property
    def name(self) -> str: ...
    @property
    def alt(self) -> str: ...


def markdown(made: Reproduction, section: Section, pictures: Sequence[Shown] = ()) -> str:
    """The whole page, with what is missing said first."""
    lines = [
        f"# {made.title}\n",
        f"Made by `{made.command}`. {progress(made)}\n",
        *(shown(one.name, one.alt) for one in pictures),
    ]
    for panel in made.panels:
        lines += [f"## {_heading(panel)}\n", *section(panel)]
    return "\n".join([*lines, _legend(made)])


def progress(made: Reproduction) -> str:
    """``12 of 48 runs are there.``"""
    if made.there == made.wanted:
        return f"All {made.wanted} runs are there."
    return f"{made.there} of {made.wanted} runs are there; a dash stands for what is missing."


def named(name: str) -> str:
    """As the paper prints it, or plain text."""
    return NAMES.get(name) or escape(name)


def grid(head: Sequence[str], rows: Sequence[Sequence[str]], words: int) -> str:
    """A table whose first columns hold words and the others figures."""
    rule = ["---"] * words + ["--:"] * (len(head) - words)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (head, rule, *rows))


# -- one function per table or figure ----------------------------------------------------------------------------------


def table2(panel: Panel) -> list[str]:
    """Methods by backbone; figures, then how much higher than random."""
    first: list[Column] = [("backbone", _backbone), ("method", lambda line: named(line.method))]
    return [_figures(panel, panel.lines, first), *_gains(panel, panel.lines, first)]


def table3(panel: Panel) -> list[str]:
    """All the data and DEALRec's samples, ours above theirs, and what DEALRec gains in each."""
    rows = []
    for full, other in _pairs(panel.lines):
        name = [_backbone(full)] if len({line.backbone for line in panel.lines}) > 1 else []
        same = full.hardware == other.hardware
        for whose, score, gain, times in (
            ("ours", ours, lambda one: relative(one.gain) + star(one), (full.total_s, other.total_s)),
            ("paper", theirs, lambda one: relative(one.their_gain), (full.their_hours, other.their_hours)),
        ):
            spent = [duration(time) if whose == "ours" else _hours(time) for time in times]
            both = None not in times and (same or whose == "paper")
            saved = relative(times[1] / times[0] - 1) if both and times[0] and times[1] is not None else MISSING
            for line, time in zip((full, other), spent, strict=True):
                counted = seeds(line) if whose == "ours" else MISSING
                cells = [score(line.scores[metric]) for metric in panel.metrics]
                rows.append([*name, whose, named(line.method), counted, *cells, time])
            gains = [gain(other.scores[metric]) for metric in panel.metrics]
            rows.append([*name, whose, IMPROVEMENT, "", *gains, saved])
        if panel.same:
            for line in (full, other):
                apart = [signed(line.scores[metric].difference) for metric in panel.metrics]
                rows.append([*name, "difference", named(line.method), "", *apart, ""])
    head = ["", "method", "seeds", *panel.metrics, "time"]
    head = ["backbone", *head] if rows and len(rows[0]) > len(head) else head
    return [grid(head, rows, len(head) - len(panel.metrics) - 2)]


def table4(panel: Panel) -> list[str]:
    """DEALRec by surrogate, in the paper's order, after all the data."""
    order = ["", "bert4rec", "sasrec", "dcrec"]

    def surrogate(line: Line) -> str:
        return "" if line.method == FULL else line.surrogate

    lines = sorted(panel.lines, key=lambda line: (_at(order, surrogate(line)), line.backbone))
    first: list[Column] = [
        *_backbones(lines),
        ("surrogate", lambda line: named(surrogate(line)) if surrogate(line) else "none: full fine-tuning"),
    ]
    last: list[Column] = [
        ("surrogate trained in", lambda line: duration(line.surrogate_s) if surrogate(line) else MISSING),
        ("paper", lambda line: _hours(line.their_surrogate_hours)),
    ]
    return [_figures(panel, lines, first, last), *_gains(panel, lines, first)]


def fig4(panel: Panel) -> list[str]:
    """DEALRec, what is left without its parts, then random and all the data."""
    first: list[Column] = [*_backbones(panel.lines), ("method", variant)]
    lines = by_variant(panel.lines)
    return [_figures(panel, lines, first, _COST), *_gains(panel, lines, first)]


def fig5(panel: Panel) -> list[str]:
    """Methods by number of samples."""
    lines = sorted(panel.lines, key=lambda line: (line.backbone, line.budget))
    first: list[Column] = [*_backbones(lines), ("samples", _samples), ("method", variant)]
    return [_figures(panel, lines, first, _COST), *_gains(panel, lines, first)]


def fig7(panel: Panel) -> list[str]:
    """DEALRec by λ."""

    def weight(line: Line) -> str:
        return f"{line.asked['method.lam']:g}" if "method.lam" in line.asked else named(line.method)

    first: list[Column] = [*_backbones(panel.lines), ("λ", weight)]
    return [_figures(panel, panel.lines, first), *_gains(panel, panel.lines, first)]


def plain(panel: Panel) -> list[str]:
    """Every row with its samples."""
    first: list[Column] = [("backbone", _backbone), ("method", variant), ("samples", _samples)]
    return [_figures(panel, panel.lines, first, _COST)]


def by_variant(lines: Sequence[Line]) -> list[Line]:
    """In the paper's order: DEALRec, without each of its parts, the others, all the data."""

    def place(line: Line) -> tuple[str, bool, bool, int]:
        parts = [1 + at for at, key in enumerate(PARTS) if key in line.asked]
        return line.backbone, line.method == FULL, line.reference, sum(parts)

    return sorted(lines, key=place)


def variant(line: Line) -> str:
    """``w/o influence``, or the method with what the study asks of it."""
    parts = [PARTS[key] for key in line.asked if key in PARTS]
    name, _, asked = line.label.partition(" ")
    return ", ".join(parts) if parts else f"{named(name)} {escape(asked)}".strip()


# -- columns and cells -------------------------------------------------------------------------------------------------


def _figures(panel: Panel, lines: Sequence[Line], first: Sequence[Column], last: Sequence[Column] = ()) -> str:
    """Ours, theirs where the paper has any of the rows, and the difference where the data are the same."""
    beside = any(line.scores[metric].theirs is not None for line in lines for metric in panel.metrics)
    own = beside and panel.same
    columns = [*first, ("seeds", seeds)]
    for metric in panel.metrics:
        columns += [(metric, _of(metric, ours))]
        columns += [("paper", _of(metric, theirs))] if beside else []
        columns += [("difference", _of(metric, lambda score: signed(score.difference)))] if own else []
    return _table([*columns, *last], lines, len(first))


def _gains(panel: Panel, lines: Sequence[Line], first: Sequence[Column]) -> list[str]:
    """How much higher than the reference each row is, ours and theirs, in percent of it."""
    lines = [line for line in lines if not line.reference]
    against = next((named(line.method) for line in panel.lines if line.reference), None)
    if against is None or not lines:
        return []
    beside = any(line.scores[metric].their_gain is not None for line in lines for metric in panel.metrics)
    columns = [*first]
    for metric in panel.metrics:
        columns += [(metric, _of(metric, lambda score: relative(score.gain) + star(score)))]
        columns += [("paper", _of(metric, lambda score: relative(score.their_gain)))] if beside else []
    return [f"Higher than {against} by, in percent of it:\n", _table(columns, lines, len(first))]


def _table(columns: Sequence[Column], lines: Sequence[Line], words: int) -> str:
    return grid([name for name, _ in columns], [[cell(line) for _, cell in columns] for line in lines], words)


def _of(metric: str, cell: Callable[[Score], str]) -> Callable[[Line], str]:
    return lambda line: cell(line.scores[metric])


def _backbone(line: Line) -> str:
    return named(line.backbone)


def _backbones(lines: Sequence[Line]) -> list[Column]:
    return [("backbone", _backbone)] if len({line.backbone for line in lines}) > 1 else []


def _samples(line: Line) -> str:
    return f"{line.budget:,} ({percent(line.share)})"


_COST: list[Column] = [("total", lambda line: duration(line.total_s))]


def ours(score: Score) -> str:
    """``.0181 ± .0002``; the best in bold if it is certainly above the reference, in italics if not; ``*`` for certain."""
    if score.ours is None:
        return MISSING
    text = spread(score.ours, score.sd)
    if score.best:
        text = f"**{text}**" if star(score) and (score.gain or 0) > 0 else f"_{text}_"
    return text + star(score)


def star(score: Score) -> str:
    """A mark where the difference to the reference is certain."""
    return "\\*" if score.to_reference is not None and score.to_reference.certain else ""


def theirs(score: Score) -> str:
    """The paper's figure, its best in bold."""
    if score.theirs is None:
        return MISSING
    return f"**{figure(score.theirs)}**" if score.their_best else figure(score.theirs)


def relative(share: float | None) -> str:
    """``+12.3%``; a dash for None."""
    if share is None:
        return MISSING
    text = f"{abs(100 * share):.1f}%"
    return text if text == "0.0%" else ("+" if share > 0 else "−") + text


def seeds(line: Line) -> str:
    """``6``, or ``2 of 6``."""
    return str(line.seeds) if line.seeds == line.wanted_seeds else f"{line.seeds} of {line.wanted_seeds}"


def _hours(hours: float | None) -> str:
    return MISSING if hours is None else f"{hours:.2f} h"


def _at(order: Sequence[str], name: str) -> int:
    return order.index(name) if name in order else len(order)


def _pairs(lines: Sequence[Line]) -> list[tuple[Line, Line]]:
    """All the data and each other row of its backbone."""
    fulls = [line for line in lines if line.method == FULL]
    return [(full, line) for full in fulls for line in lines if line.backbone == full.backbone and line.method != FULL]


# -- around the tables -------------------------------------------------------------------------------------------------


def _heading(panel: Panel) -> str:
    """``Games · catalogue · 1,024 samples``."""
    budgets = sorted({line.budget for line in panel.lines if line.share < 1})
    return " · ".join(
        [named(panel.dataset), *map(escape, panel.llms), f"{', '.join(f'{one:,}' for one in budgets)} samples"]
    )


def _legend(made: Reproduction) -> str:
    against = named(made.against)
    lines = [
        "R = recall, N = NDCG, over all items: mean ± sample standard deviation over seeds; times are wall clock per run.",
        "Paper: the figures of tables 2 to 4 (LLaMA-7B for BIGRec); its figures 4 to 7 are pictures without numbers.",
    ]
    lines += [
        f"{escape(panel.dataset)} is not the paper's: beside it stand its figures for {named(panel.theirs)}. Figures for different data"
        f" cannot be compared; what can be is how much higher than {against} a row is, in percent of {against}."
        for panel in made.panels
        if not panel.same
    ]
    lines.append(
        f"\\* a certain difference to {against}: the 95% interval leaves out 0 (from {BOOTSTRAP_SEEDS} seeds on a bootstrap over seeds"
        f" and users, {made.resamples:,} redraws; with fewer the t interval over seeds), and p is below .05 after Holm's correction"
        " for the rows of a data set, backbone and metric on this page. The best of ours with as many samples is in bold"
        f" where it is certainly above {against}, else in italics, and nowhere while a run is missing; the paper's best is in bold."
    )
    return (
        "\n".join(textwrap.fill(f"- {line}", 118, subsequent_indent="  ", break_on_hyphens=False) for line in lines)
        + "\n"
    )
