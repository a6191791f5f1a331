"""Tables of any layout: CSV, TSV, JSON lines and Parquet, read in a stream under the column names one gives.

A reader as :mod:`prunebench.datasets.interactions` asks for. What a file is, its name tells: .csv, .tsv, .jsonl (or
.ndjson, .json), .parquet (or .pq); the text ones also with .gz behind. Cells become ids, times and numbers alike,
whichever file they come from, so that the same rows give the same data set.
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as parquet

from prunebench.datasets import cells, delimited, json_lines, lines
from prunebench.datasets.schema import DataError

KINDS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}
ROWS = 1 << 18
"""Rows of a batch from Parquet."""
_REMEDY = "mend it, or leave such rows out with --drop-bad-rows"


@dataclass(frozen=True)
class Columns:
    """What the columns are called. ``rating`` None: ``rating`` where there is one; ``text``: joined to the title."""

    user: str = "user"
    item: str = "item"
    time: str = "timestamp"
    rating: str | None = None
    title: str = "title"
    text: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Wanted:
    """Columns to read: ``names`` by what they are here, ``optional`` ones may be missing; ``options`` names each.

    A file with all of ``others`` is probably the one of the other option, ``other``."""

    names: Mapping[str, str]
    options: Mapping[str, str]
    optional: frozenset[str] = frozenset()
    other: str = ""
    others: frozenset[str] = frozenset()

    def fits(self, present: Sequence[str]) -> bool:
        """Whether the columns that must be there are."""
        return all(name in present for what, name in self.names.items() if what not in self.optional)

    def found(self, path: Path, present: Sequence[str], text: bool = False) -> dict[str, str]:
        """Names of the columns that are there. Raises DataError where one is missing or occurs twice."""
        for what, name in self.names.items():
            if name not in present and what not in self.optional:
                raise DataError(self._missing(path, what, [*present], text))
            if list(present).count(name) > 1:
                raise DataError(f"{path} has {list(present).count(name)} columns called {name!r}; rename one of them")
        return {what: name for what, name in self.names.items() if name in present}

    def _missing(self, path: Path, what: str, present: list[str], text: bool) -> str:
        if text:
            if len(present) == 1:
                return f"{path}: its header is one column, {present[0]!r}; say with --delimiter which character is between the cells, or put a line with the columns' names above, if there is none"
            if any(cells.is_number(name) for name in present):
                header = ",".join(name for kind, name in self.names.items() if kind not in self.optional)
                return f"{path} has no header, it starts with {_listed(present)}; put a line with the columns' names above, e.g. {header}"
        name, option = self.names[what], self.options[what]
        lower = {other.lower(): other for other in present}
        near = [shlex.quote(lower[match]) for match in difflib.get_close_matches(name.lower(), list(lower), 2)]
        shared = " --item names it in both files: where they differ, rename it in one" if what == "item" else ""
        if self.other and self.others.issubset(present):
            hint = f"is it the file for {self.other}?"
        elif near:
            hint = f"did you mean {' or '.join(f'{option} {match}' for match in near)}?{shared}"
        elif shared and name != Columns.item:
            hint = shared.strip()
        else:
            hint = f"say which with {option} COLUMN, or put a line with the columns' names above, if there is none"
        return f"{path} has no column {name!r}, it has {_listed(present)}; {hint}"


def interactions(
    path: Path,
    columns: Columns = Columns(),
    delimiter: str | None = None,
    dropped: MutableMapping[str, int] | None = None,
    *,
    rated: bool = True,
) -> Iterator[pa.RecordBatch]:
    """Columns user and item (large_string), timestamp (int64, microseconds) and, if ``rated`` and there, rating (float64).

    Rows without a user, an item, a time or a rating that can be read are counted in ``dropped`` and left out; where it
    is None, the first one is a DataError. Raises DataError for files as described in :func:`checked`, too.
    """
    names = {"user": columns.user, "item": columns.item, "timestamp": columns.time}
    if rated:
        names["rating"] = columns.rating or "rating"
    optional = frozenset() if columns.rating else frozenset({"rating"})
    options = {"user": "--user", "item": "--item", "timestamp": "--time", "rating": "--rating"}
    times = cells.Times()
    readers: dict[str, cells.Reader] = {
        "user": cells.texts,
        "item": cells.texts,
        "timestamp": times.read,
        "rating": cells.numbers,
    }
    return _batches(path, _Wanted(names, options, optional), readers, times, delimiter, dropped)


def items(
    path: Path,
    columns: Columns = Columns(),
    delimiter: str | None = None,
    dropped: MutableMapping[str, int] | None = None,
) -> pa.Table:
    """Columns item and title (large_string), a row per row of the file; further text follows the title after " - ".

    Rows without an item, or with text that is not UTF-8, count as ``interactions``' do; a title that is missing is "".
    """
    text = {f"text {number}": name for number, name in enumerate(columns.text)}
    names = {"item": columns.item, "title": columns.title, **text}
    options = {"item": "--item", "title": "--title", **dict.fromkeys(text, "--text")}
    readers: dict[str, cells.Reader] = {"item": cells.texts, **dict.fromkeys(["title", *text], cells.labels)}
    wanted = _Wanted(names, options, other="--interactions", others=frozenset({columns.user, columns.time}))
    table = pa.Table.from_batches(_batches(path, wanted, readers, cells.Times(), delimiter, dropped))
    title, *parts = (table[name].fill_null("") for name in ("title", *text))
    for part in parts:
        both = pc.binary_join_element_wise(title, part, pa.scalar(" - ", pa.large_string()))
        title = pc.case_when(pc.make_struct(pc.equal(part, ""), pc.equal(title, "")), title, part, both)
    return pa.table({"item": table["item"], "title": title})


def checked(path: Path) -> str:
    """csv, jsonl or parquet. Raises DataError for a file that is absent, a folder, empty, or called otherwise."""
    if path.is_dir():
        raise DataError(f"{path} is a folder; give a file")
    if not path.exists():
        near = difflib.get_close_matches(path.name, [other.name for other in path.parent.glob("*")], 1)
        raise DataError(f"there is no file {path}" + (f"; did you mean {path.with_name(near[0])}?" if near else ""))
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = suffixes[-1:] == [".gz"]
    kind = KINDS.get((suffixes[:-1] if packed else suffixes)[-1:][0] if len(suffixes) > packed else "")
    if kind is None or (kind == "parquet" and packed):
        raise DataError(
            f"{path}: what is in it is told by its name, which must end in {', '.join(KINDS)} (text also .gz)"
        )
    if not path.stat().st_size:
        raise DataError(f"{path} is empty")
    return kind


def _delimiters(path: Path, asked: str | None) -> list[str]:
    """Which characters may be between the cells, the likeliest first."""
    delimiter = {None: "\t" if ".tsv" in map(str.lower, path.suffixes) else ",", "tab": "\t", "\\t": "\t"}.get(
        asked, asked
    )
    if not delimiter or len(delimiter) != 1 or not delimiter.isascii() or delimiter in '"\r\n':
        raise DataError(f"--delimiter takes one character, or tab, not {asked!r}")
    return list(dict.fromkeys([delimiter, ",", ";", "\t", "|"]))


def _batches(
    path: Path,
    wanted: _Wanted,
    readers: Mapping[str, cells.Reader],
    times: cells.Times,
    delimiter: str | None,
    dropped: MutableMapping[str, int] | None,
) -> Iterator[pa.RecordBatch]:
    """The file's rows as columns of one type each, by what they are here."""
    kind = checked(path)
    read = _Reading(path, readers, times, dropped)
    before = (dropped or {}).get(lines.DAMAGED, 0)
    if kind == "csv":
        yield from _from_csv(read, wanted, _delimiters(path, delimiter))
    elif kind == "parquet":
        yield from _from_parquet(read, wanted)
    else:
        yield from _from_json(read, wanted)
    lost = (dropped or {}).get(lines.DAMAGED, 0) - before
    if not read.kept and lost:
        raise DataError(f"{path}: none of its {lost:,} rows can be read; without --drop-bad-rows the reason is told")
    if not read.kept:
        raise DataError(f"{path} has no rows" + (" below its header" if kind == "csv" else ""))


@dataclass
class _Reading:
    """One pass over a file."""

    path: Path
    readers: Mapping[str, cells.Reader]
    times: cells.Times
    dropped: MutableMapping[str, int] | None
    kept: int = 0

    def clean(self, batch: Mapping[str, pa.Array], blame: Callable[[int, str], str]) -> pa.RecordBatch:
        """Typed columns without the rows that cannot be read. Raises DataError, ``blame(row, reason)``, for the first."""
        columns, bad = {}, {}
        for what, column in batch.items():
            try:
                columns[what], bad[what] = self.readers[what](column)
            except DataError as error:
                raise DataError(f"{self.path}: the column with the {what.split()[0]} {error}") from None
        broken = np.logical_or.reduce(list(bad.values()))
        if broken.any():
            if self.dropped is None:
                row = int(np.argmax(broken))
                what = next(what for what in batch if bad[what][row])
                raise DataError(blame(row, cells.why(what.split()[0], batch[what][row].as_py(), self.times)))
            self.dropped[lines.DAMAGED] = self.dropped.get(lines.DAMAGED, 0) + int(np.count_nonzero(broken))
        clean = pa.record_batch(columns)
        clean = clean.filter(pa.array(~broken)) if broken.any() else clean
        self.kept += len(clean)
        return clean

    def by_row(self, first: int) -> Callable[[int, str], str]:
        return lambda row, reason: f"{self.path}, row {first + row:,}: {reason}; {_REMEDY}"


def _from_csv(read: _Reading, wanted: _Wanted, delimiters: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Between the cells is the character that makes the header the columns that are wanted: no other can be meant."""
    headers = delimited.headers(read.path, delimiters)
    bare = {delimiter: [name.strip() for name in header] for delimiter, header in headers.items()}
    delimiter = max(delimiters, key=lambda delimiter: (wanted.fits(bare[delimiter]), len(bare[delimiter])))
    spelled = dict(zip(bare[delimiter], headers[delimiter], strict=True))
    names = {what: spelled[name] for what, name in wanted.found(read.path, bare[delimiter], text=True).items()}
    for first, batch in delimited.rows(read.path, [*names.values()], delimiter, read.dropped):
        yield read.clean({what: batch[name] for what, name in names.items()}, read.by_row(first))


def _from_parquet(read: _Reading, wanted: _Wanted) -> Iterator[pa.RecordBatch]:
    try:
        with parquet.ParquetFile(read.path, buffer_size=1 << 20) as file:
            names = wanted.found(read.path, file.schema_arrow.names)
            first = 1
            for batch in file.iter_batches(ROWS, columns=list(dict.fromkeys(names.values()))):
                yield read.clean({what: batch[name] for what, name in names.items()}, read.by_row(first))
                first += len(batch)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise DataError(
            f"{read.path} is cut short, damaged, or no Parquet file ({_line(error)}); get or write it again"
        ) from None


def _from_json(read: _Reading, wanted: _Wanted) -> Iterator[pa.RecordBatch]:
    with lines.opened(read.path) as file:
        samples = json_lines.objects(read.path, delimited.first_bytes(read.path, file))
        names = wanted.found(read.path, list(dict.fromkeys(key for sample in samples for key in sample)))
        late = {what: name for what, name in wanted.names.items() if what not in names}
        types = {**json_lines.types(names, samples), **json_lines.types(late, samples)}
        found: list[str] = []

        def parse(block: bytes) -> pa.Table:
            table = json_lines.table(block, {**names, **late}, types)
            found.extend(name for name in late.values() if table[name].null_count < len(table))
            batch = {what: _whole(table[name]) for what, name in names.items()}
            return pa.Table.from_batches([read.clean(batch, lambda row, reason: reason)])

        for table in lines.tables(file, str(read.path), parse, read.dropped):
            if found:
                raise DataError(
                    f"{read.path} has no {found[0]!r} in its first lines, but further below; give every line one, or keep all with --min-rating none"
                )
            yield from table.to_batches()


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:8])
    return f"{shown} …" if len(names) > 8 else shown


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:120]
