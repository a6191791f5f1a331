"""MovieLens 1M as published: ratings.dat and movies.dat, in a folder or in ml-1m.zip."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, MutableMapping
from pathlib import Path

import pyarrow as pa
from pyarrow import csv

from prunebench.datasets import lines
from prunebench.datasets.schema import DataError

RATINGS, MOVIES, ARCHIVE = "ratings.dat", "movies.dat", "ml-1m.zip"
ENCODING = "latin-1"
_FIELD = b"\x1f"
"""In place of the two colons, because Arrow wants a delimiter of one byte; no file of text has it."""


def read(path: Path, dropped: MutableMapping[str, int] | None = None) -> tuple[Iterator[pa.RecordBatch], pa.Table]:
    """``(interactions, items)`` of ml-1m.zip or of a folder with it, with its two files, or with ml-1m/ and these.

    ``ratings.dat`` has lines UserID::MovieID::Rating::Timestamp (seconds), ``movies.dat`` lines MovieID::Title::Genres
    in Latin-1; users.dat is not read: people are labels here. A zip file is read in place. Lines that cannot be read
    are counted in ``dropped`` and left out.

    Raises DataError for a file that is missing or damaged, and, where ``dropped`` is None, for a line that is.
    """
    return interactions(*_find(path, RATINGS), dropped), items(*_find(path, MOVIES), dropped)


def interactions(
    path: Path, member: str | None = None, dropped: MutableMapping[str, int] | None = None
) -> Iterator[pa.RecordBatch]:
    """Columns user, item (string), rating (float32), timestamp (int64, seconds)."""
    columns = {"user": pa.string(), "item": pa.string(), "rating": pa.float32(), "timestamp": pa.int64()}
    with lines.opened(path, member) as file:
        for table in lines.tables(file, member or str(path), lambda block: _columns(block, columns), dropped):
            yield from table.to_batches()


def items(path: Path, member: str | None = None, dropped: MutableMapping[str, int] | None = None) -> pa.Table:
    """Columns item and title, with its year and its article behind, as MovieLens has it."""
    columns = {"item": pa.string(), "title": pa.string(), "genres": pa.string()}
    with lines.opened(path, member) as file:
        read = list(lines.tables(file, member or str(path), lambda block: _columns(block, columns), dropped))
    if not read:
        raise DataError(f"{path} has no movies; is it cut short?")
    return pa.concat_tables(read).drop_columns("genres")


def _columns(block: bytes, columns: dict[str, pa.DataType]) -> pa.Table:
    table = csv.read_csv(
        io.BytesIO(block.replace(b"::", _FIELD)),
        read_options=csv.ReadOptions(column_names=list(columns), encoding=ENCODING, block_size=len(block) + 1),
        parse_options=csv.ParseOptions(delimiter=_FIELD.decode(), quote_char=False),
        convert_options=csv.ConvertOptions(column_types=columns, null_values=[], strings_can_be_null=False),
    )
    return lines.filled(table, columns.keys() & {"user", "item"})


def _find(path: Path, name: str) -> tuple[Path, str | None]:
    """The file of that name, and its member where that file is a zip."""
    if not path.exists():
        raise DataError(f"{path} does not exist; give {ARCHIVE}, or the folder that holds {RATINGS}")
    if path.is_dir():
        for plain in (path / name, path / "ml-1m" / name):
            if plain.is_file():
                return plain, None
        if not (path / ARCHIVE).is_file():
            raise DataError(f"{path} has neither {name} nor {ARCHIVE}")
        path = path / ARCHIVE
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.namelist() if member.rsplit("/", 1)[-1] == name]
    except zipfile.BadZipFile:
        raise DataError(f"{path} is no zip file, or is cut short; fetch it again") from None
    if not members:
        raise DataError(f"{path} has no {name}; it is not MovieLens 1M")
    return path, members[0]
