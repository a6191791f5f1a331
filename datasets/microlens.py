"""MicroLens-50K as published: who watched which micro-video, and the videos' titles, as two CSV files."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from pathlib import Path

import pyarrow as pa

from prunebench.datasets import tables
from prunebench.datasets.schema import DataError

PAIRS, TITLES = "MicroLens-50k_pairs.csv", "MicroLens-50k_titles.csv"


def read(folder: Path, dropped: MutableMapping[str, int] | None = None) -> tuple[Iterator[pa.RecordBatch], pa.Table]:
    """``(interactions, items)`` of the folder with the two files, which are tables under the usual names.

    ``MicroLens-50k_pairs.csv``: user, item, timestamp (milliseconds); there are no ratings. ``MicroLens-50k_titles.csv``:
    item, title, where a quoted title may hold commas and line breaks. Rows that cannot be read are counted in
    ``dropped`` and left out.

    Raises DataError for a file that is missing or damaged, and, where ``dropped`` is None, for a row that is.
    """
    for name in (PAIRS, TITLES):
        if not (folder / name).is_file():
            raise DataError(f"{folder} has no {name}; give the folder that holds {PAIRS} and {TITLES}")
    return (
        tables.interactions(folder / PAIRS, dropped=dropped, rated=False),
        tables.items(folder / TITLES, dropped=dropped),
    )
