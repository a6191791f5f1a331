"""Public layouts by name: from a folder, or from a file of reviews and one of products, to a data set."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from prunebench.datasets import amazon, microlens, movielens
from prunebench.datasets.interactions import gather
from prunebench.datasets.protocol import Protocol, build
from prunebench.datasets.released import read_dealrec
from prunebench.datasets.schema import DataError, RecDataset
from prunebench.datasets.sources import Layout

NOUNS: dict[Layout, str] = {"amazon": "product", "movielens-1m": "movie", "microlens-50k": "video"}
"""What a prompt calls an item where nothing better is known."""
Files = tuple[Path, Path]


def read(
    layout: Layout,
    where: Path | Files,
    name: str,
    protocol: Protocol,
    noun: str | None = None,
    drop_bad_rows: bool = False,
) -> RecDataset:
    """The data set ``name`` in ``layout`` from ``where``: a folder, or Amazon's two files, reviews and products.

    ``noun`` goes before the layout's, which goes before ``protocol``'s. With ``drop_bad_rows`` lines that cannot be read
    are left out and counted.

    Raises DataError for what cannot be read, and where a data set that comes already split is to be made otherwise.
    """
    check(layout, name, protocol, drop_bad_rows)
    if layout == "dealrec":
        return _released(where, name, noun)
    dropped: dict[str, int] | None = {} if drop_bad_rows else None
    batches, items = _parts(layout, where, dropped)
    interactions = gather(batches, protocol.min_rating, dropped)
    place = where.name if isinstance(where, Path) else where[0].name
    named = protocol.model_copy(update={"noun": noun or NOUNS[layout]})
    return build(name, interactions, items, named, f"{layout}, {place}")


def _parts(
    layout: Layout, where: Path | Files, dropped: MutableMapping[str, int] | None
) -> tuple[Iterator[pa.RecordBatch], pa.Table]:
    if layout == "amazon":
        return amazon.read(*(amazon.find(where) if isinstance(where, Path) else where), dropped)
    folder = _folder(layout, where)
    return movielens.read(folder, dropped) if layout == "movielens-1m" else microlens.read(folder, dropped)


def check(layout: Layout, name: str, protocol: Protocol, drop_bad_rows: bool) -> None:
    """Raise DataError where a data set that comes already split is to be made otherwise."""
    made = {"noun"}
    if layout == "dealrec" and (
        drop_bad_rows or protocol.model_dump(exclude=made) != Protocol().model_dump(exclude=made)
    ):
        raise DataError(
            f"{name} was filtered and split by its authors; leave --min-rating, --split, --k-core and --drop-bad-rows out"
        )


def _released(where: Path | Files, name: str, noun: str | None) -> RecDataset:
    dataset = read_dealrec(_folder("dealrec", where), name)
    return replace(dataset, meta={**dataset.meta, "item_noun": noun}) if noun else dataset


def _folder(layout: Layout, where: Path | Files) -> Path:
    if not isinstance(where, Path):
        raise DataError(f"--format {layout} reads a folder, without --interactions and --items")
    return where
