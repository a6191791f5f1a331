"""A board as one HTML file: a table to sort and filter, what is behind each row, charts; works without network.

Style, script and data stand in the file itself. A policy in its head lets only that style and that script work, by their
hashes, and forbids every request. Whatever a record says is data: the script writes it as text and never as markup.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from functools import cache
from importlib.resources import files
from typing import Any

from prunebench.leaderboard.board import Board, BoardTable
from prunebench.leaderboard.charts import TableCharts, charts_of
from prunebench.leaderboard.record import Part
from prunebench.leaderboard.themes import THEMES

SCRIPTS = (
    "basics.js",
    "state.js",
    "columns.js",
    "table.js",
    "details.js",
    "controls.js",
    "drawing.js",
    "planes.js",
    "lists.js",
    "panel.js",
    "main.js",
)
"""In the order in which they are joined to one script: a page opened from a file may not load modules."""
_SLOT = re.compile(r"\{\{(\w+)\}\}")
_ESCAPED = {letter: f"\\u{ord(letter):04x}" for letter in "<>&"}


def board_page(board: Board) -> str:
    """The whole document. Equal boards make equal bytes; all but the frame is ASCII."""
    style, script = _assets()
    policy = {
        "default-src": "'none'",
        "style-src": _hash(style),
        "script-src": _hash(script),
        "base-uri": "'none'",
        "form-action": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    parts = {
        "policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "style": style,
        "script": script,
        "data": _data(board),
    }
    return _SLOT.sub(lambda slot: parts[slot[1]], _read("index.html"))


def records_digest(board: Board) -> str:
    """sha256 over the sorted sha256 of all records: names a set of records."""
    records = {run.record_sha256 for table in board.tables for row in table.rows for run in row.runs}
    return hashlib.sha256("\n".join(sorted(records)).encode()).hexdigest()


@cache
def _assets() -> tuple[str, str]:
    """Style and script as they stand between their tags."""
    script = "\n".join(map(_read, SCRIPTS))
    return f"\n{_read('style.css')}{_colours()}", f'\n"use strict";\n(() => {{\n{script}}})();\n'


def _colours() -> str:
    """Those of the pictures, as style: ``.c0`` for the first method, ``--pruning-0`` for a phase's first stages."""
    light, dark = THEMES["light"], THEMES["dark"]
    methods = enumerate(zip(light.methods, dark.methods, strict=True))
    rules = [f".c{place} {{ --mark: light-dark({', '.join(pair)}); }}" for place, pair in methods]
    for phase, colours in light.phases.items():
        for place, pair in enumerate(zip(colours, dark.phases[phase], strict=True)):
            rules.append(f":root {{ --{phase}-{place}: light-dark({', '.join(pair)}); }}")
    return "\n".join(rules) + "\n"


def _read(name: str) -> str:
    return (files(__package__) / "page_files" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _data(board: Board) -> str:
    """What the script reads, as JSON with each row on a line of its own, so that a new record changes few lines."""
    charts, light = charts_of(board), THEMES["light"]
    facts = {
        "records": records_digest(board),
        "split": board.split,
        "colours": len(light.methods),
        "phases": {phase: len(colours) for phase, colours in light.phases.items()},
        "methods": charts.methods,
    }
    tables = [_table(*pair) for pair in zip(board.tables, charts.tables, strict=True)]
    return _lines(facts, "tables", tables, "budgets", [_plain(chart) for chart in charts.budgets])


def _table(table: BoardTable, charts: TableCharts) -> str:
    facts = _plain(table, {"overlaps": True, "rows": {"__all__": {"scores", "stages"}}}) | {"key": _key(table)}
    rows = [_json(row) for row in facts.pop("rows")]
    return _lines(facts, "rows", rows, "charts", _plain(charts))


def _lines(facts: dict[str, Any], name: str, lines: list[str], last: str, values: Any) -> str:
    """An object with a list in it, an entry a line, and one more value at its end."""
    listed = ",\n".join(lines)
    return f'{_json(facts)[:-1]},"{name}":[\n{listed}\n],\n"{last}":{_json(values)}}}'


def _plain(part: Part, without: Any = None) -> dict[str, Any]:
    return _known(part.model_dump(mode="json", exclude=without))


def _json(values: Any) -> str:
    """Short JSON that cannot end the element it stands in, whatever its strings say."""
    text = json.dumps(values, separators=(",", ":"), allow_nan=False)
    return "".join(_ESCAPED.get(letter, letter) for letter in text)


def _key(table: BoardTable) -> str:
    """A table's name in links: it stays what it is whatever else is on the board."""
    place = (table.dataset, table.fingerprint, table.split, table.backbone, table.llm, table.budget)
    return hashlib.sha256(json.dumps(place).encode()).hexdigest()[:8]


def _known(value: Any) -> Any:
    """Without what is None, which to the script is the same; settings may be None and mean it."""
    if isinstance(value, dict):
        return {name: one if name == "changes" else _known(one) for name, one in value.items() if one is not None}
    return [_known(one) for one in value] if isinstance(value, list) else value
