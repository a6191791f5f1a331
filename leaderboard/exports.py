"""A board as CSV, LaTeX and JSON, a line per row, and where the files of a board differ from what they should be."""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Callable
from itertools import zip_longest

from prunebench.leaderboard.board import COSTS, Board, BoardRow, BoardTable, figure_of
from prunebench.leaderboard.charts import label_of
from prunebench.leaderboard.comparisons import Difference, Figure
from prunebench.leaderboard.markdown import (
    board_markdown,
    difference_words,
    seeds_words,
)
from prunebench.leaderboard.page import board_page
from prunebench.leaderboard.record import Part
from prunebench.leaderboard.tables import MISSING, duration, percent, spread

Cell = str | int | float | None
_DIFFERENCE = ("seeds", "difference", "se_users", "by", "p", "holm", "certain")
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "*": "{*}",
    "[": "{[}",
    "]": "{]}",
    "–": "--",
    "−": "$-$",
    "±": r"$\pm$",
    "·": r"$\cdot$",
    "†": r"$\dagger$",
}


def flat(board: Board) -> list[dict[str, Cell]]:
    """Plain cells, one dictionary per table × row × protocol × metric, all with the same keys."""
    return [
        _place(table) | _facts(row) | {"protocol": protocol, "metric": metric} | _cells(one)
        for table in board.tables
        for row in table.rows
        for protocol, figures in row.metrics.items()
        for metric, one in figures.items()
    ]


def _place(table: BoardTable) -> dict[str, Cell]:
    return {
        "dataset": table.dataset,
        "fingerprint": table.fingerprint,
        "split": table.split,
        "table_backbone": table.backbone,
        "table_llm": table.llm,
        "table_budget": table.budget,
    }


def _facts(row: BoardRow) -> dict[str, Cell]:
    return {
        "id": row.id,
        "kind": row.kind,
        "method": row.method,
        "label": row.label,
        "backbone": row.backbone,
        "backbone_label": row.backbone_label,
        "llm": row.llm,
        "budget": row.budget,
        "share": row.share,
        "plugins": _truth(row.plugins),
        "chose_by_validation": _truth(row.chose_by_validation),
        "users": row.users,
        "noise_share": row.noise_share,
        "runs": " ".join(run.run for run in row.runs),
        "lacks": len(row.lacks),
        **{name: getattr(row.costs, name) for name in (*COSTS, "of_full", "peak_rss_mb", "peak_gpu_mb")},
        "hardware": " | ".join(row.hardware),
    }


def _cells(one: Figure) -> dict[str, Cell]:
    low, high = one.rank or (None, None)
    spread = {name: getattr(one, name) for name in ("seeds", "mean", "sd", "sd_finetune", "se_users", "paper")}
    return {
        **spread,
        "rank_low": low,
        "rank_high": high,
        **_compared("random", one.to_random),
        **_compared("best", one.to_best),
    }


def _compared(name: str, one: Difference | None) -> dict[str, Cell]:
    low, high = (one and one.interval) or (None, None)
    values = {key: None if one is None else getattr(one, key) for key in ("against", *_DIFFERENCE)}
    values["certain"] = None if one is None else _truth(one.certain)
    return {f"{name}_{key}": value for key, value in (values | {"low": low, "high": high}).items()}


def _truth(value: bool) -> str:
    return "true" if value else "false"


def board_csv(board: Board) -> str:
    """``flat`` as CSV: floats as Python writes them, which reads back exactly, and nothing for None."""
    lines = flat(board)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]) if lines else ["dataset"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def board_json(board: Board) -> str:
    """The model as JSON, each row on a line of its own; ``read_board`` gives it back."""
    tables = [
        _line(table, "rows")[:-1] + ', "rows": [\n' + ",\n".join(_line(row) for row in table.rows) + "\n]}"
        for table in board.tables
    ]
    return _line(board, "tables")[:-1] + ', "tables": [\n' + ",\n".join(tables) + "\n]}\n"


def _line(part: Part, *without: str) -> str:
    return json.dumps(json.loads(part.model_dump_json(exclude=set(without))))


def board_latex(board: Board) -> str:
    """A table per table, to be included where ``booktabs`` and ``graphicx`` are loaded; bold is what is certain.

    A table that is wider than the text is made smaller.
    """
    head = "% Needs \\usepackage{booktabs,graphicx}. Bold: the difference to random is certain (see leaderboard.md).\n"
    return head + "".join(map(_latex_table, board.tables))


def latex(text: str) -> str:
    """Plain text for LaTeX; what its fonts may lack is written as its code point."""
    printable = "".join(letter if letter.isprintable() else " " for letter in text)
    return "".join(
        _SPECIAL.get(letter, letter if ord(letter) < 128 else f"(U+{ord(letter):04X})")
        for letter in " ".join(printable.split())
    )


def _latex_table(table: BoardTable) -> str:
    metrics = table.metrics
    header = ["method", "seeds", *metrics, f"{metrics[0]} − random", "total"]
    lines = [
        r"\begin{table}",
        r"\centering\scriptsize\setlength{\tabcolsep}{3pt}",
        rf"\caption{{{latex(table.title)} ({latex(percent(table.share))}), {latex(table.split)} split, {table.users:,} users}}",
        r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
        r"\toprule",
        " & ".join(map(latex, header)) + r" \\",
        r"\midrule",
        *(_latex_row(row, table) for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _latex_row(row: BoardRow, table: BoardTable) -> str:
    lead = figure_of(row, table.metrics[0])
    to_random = lead.to_random if lead else None
    difference = latex(difference_words(to_random))
    cells = [latex(label_of(row, table)), seeds_words(row)]
    figures = [figure_of(row, metric) for metric in table.metrics]
    cells += [latex(spread(one.mean, one.sd) if one else MISSING) for one in figures]
    cells += [rf"\textbf{{{difference}}}" if to_random is not None and to_random.certain else difference]
    return " & ".join([*cells, latex(duration(row.costs.total_s))]) + r" \\"


BOARD = "board.json"
FILES: dict[str, Callable[[Board], str]] = {
    BOARD: board_json,
    "leaderboard.csv": board_csv,
    "leaderboard.md": board_markdown,
    "leaderboard.tex": board_latex,
    "index.html": board_page,
}
"""What a board is published as, by file name."""


def first_difference(name: str, expected: str, found: str) -> tuple[int, str] | None:
    """Line number, from 1, and row in words of the first line of a file that is not as expected; None if all are."""
    lines = zip_longest(expected.split("\n"), found.split("\n"))
    for number, (should, there) in enumerate(lines, 1):
        if should != there:
            line = should or there or ""
            return number, _row_in_words(name, expected, line) if name in FILES else _beginning(line)
    return None


def _row_in_words(name: str, expected: str, line: str) -> str:
    """The row of a board that a line is about, or how the line begins."""
    try:
        if name.endswith((".json", ".html")):
            row = json.loads(line.removesuffix(","))
            return f"{row['label']} on {row['backbone_label']}"
        if name.endswith(".csv"):
            cells = dict(zip(*csv.reader([expected.partition("\n")[0], line]), strict=True))
            return f"{cells['label']} on {cells['backbone_label']}, {cells['protocol']} {cells['metric']}"
        if name.endswith(".tex"):
            return line[: line.index(" & ")]
        method, backbone = (html.unescape(cell).strip() for cell in line.strip("|").split("|")[:2])
        return f"{method} on {backbone}"
    except (ValueError, KeyError, TypeError):
        return _beginning(line)


def _beginning(line: str) -> str:
    return line if len(line) <= 60 else line[:60] + "…"
