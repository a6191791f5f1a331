"""Which data sets are installed, which are merely known and how to get those; needs neither NumPy nor the data."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from prunebench.datasets.sources import SOURCES

META = "meta.json"
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
"""What a data set may be called: it names a folder, on every file system."""
NAMING = "use a-z, 0-9, '.', '_' and '-', a letter or digit first, at most 64 of them"

_COUNTED: tuple[dict[str, Any], ...] = (
    {"name": "games", "users": 49156, "items": 17332, "interactions": 342329, "density_percent": 0.04},
    {"name": "microlens-50k", "users": 49887, "items": 19217, "interactions": 359048, "density_percent": 0.04},
    {"name": "book", "users": 88263, "items": 86272, "interactions": 5303707, "density_percent": 0.07},
)
"""The paper's public data sets, as its Table 1 counts them."""
KNOWN: tuple[dict[str, Any], ...] = (
    *_COUNTED,
    *(
        {"name": name, "summary": source.summary}
        for name, source in SOURCES.items()
        if name not in {entry["name"] for entry in _COUNTED}
    ),
)
"""The paper's public data sets and all that can be downloaded, one JSON-able entry each."""


def folder_of(home: Path) -> Path:
    """Where the data sets of a home are installed."""
    return home / "datasets"


def installed(home: Path) -> list[dict[str, Any]]:
    """One JSON-able entry per installed data set, by name: what its ``meta.json`` says, arrays unread.

    A folder whose entry cannot be read is listed with ``damaged`` true, not hidden.
    """
    folder = folder_of(home)
    if not folder.is_dir():
        return []
    return [_entry(path) for path in sorted(folder.iterdir()) if path.is_dir() and NAME.fullmatch(path.name)]


def _entry(folder: Path) -> dict[str, Any]:
    try:
        entry = json.loads((folder / META).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        entry = None
    whole = (
        isinstance(entry, dict)
        and entry.get("name") == folder.name
        and {type(entry.get(count)) for count in ("users", "items", "interactions")} == {int}
    )
    return entry if whole else {"name": folder.name, "damaged": True}


def known(home: Path) -> list[dict[str, Any]]:
    """The known data sets that are not installed."""
    present = {entry["name"] for entry in installed(home)}
    return [dict(entry) for entry in KNOWN if entry["name"] not in present]


def how_to_install(name: str) -> str:
    """What to do about a known data set that is not installed."""
    if name in SOURCES:
        return f"`bench datasets download {name}` installs it"
    return f"`bench datasets import FOLDER --format dealrec --name {name}` installs the released folder"
