"""CSV and TSV in a stream: a header is required, cells come as bytes, and what is broken is told by its row."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
from pyarrow import csv as arrow

from prunebench.datasets.lines import BLOCK, DAMAGED, opened
from prunebench.datasets.schema import DataError

_SNIFFED = 1 << 16
_MAGIC = {
    b"PAR1": "is Parquet; call it .parquet",
    b"PK\x03\x04": "is a zip archive or a spreadsheet; unpack it, or save it as CSV",
    b"\xff\xfe": "is UTF-16; convert it, e.g. iconv -f utf-16 -t utf-8 OLD > NEW",
    b"\xfe\xff": "is UTF-16; convert it, e.g. iconv -f utf-16 -t utf-8 OLD > NEW",
}


def first_bytes(path: Path, file: IO[bytes]) -> bytes:
    """How a text file begins. Raises DataError where it is empty or no text."""
    start = file.read(_SNIFFED)
    file.seek(0)
    if not start.strip():
        raise DataError(f"{path} is empty")
    for magic, what in _MAGIC.items():
        if start.startswith(magic):
            raise DataError(f"{path} {what}")
    if b"\0" in start:
        raise DataError(f"{path} is binary, not text (byte {start.index(0) + 1:,} is zero)")
    return start


def headers(path: Path, delimiters: Sequence[str]) -> dict[str, list[str]]:
    """The cells of the first row, were they divided by each of ``delimiters``. Raises DataError as :func:`rows` does."""
    with opened(path) as file:
        line, _ = _first_line(first_bytes(path, file))
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: the header is not UTF-8 at byte {error.start + 1}; convert it, e.g. iconv -f latin1 -t utf-8 OLD > NEW"
        ) from None
    return {delimiter: next(csv.reader([text], delimiter=delimiter)) for delimiter in delimiters}


def _first_line(start: bytes) -> tuple[bytes, bytes]:
    """The first line that is not blank, and what follows."""
    line, *rest = start.removeprefix(b"\xef\xbb\xbf").lstrip(b"\r\n").splitlines(keepends=True)
    return line, b"".join(rest)


def rows(
    path: Path,
    columns: Sequence[str],
    delimiter: str,
    dropped: MutableMapping[str, int] | None,
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The ``columns`` of the header as binary ones, in batches with the number of their first row.

    The header is row 1. Rows with a wrong number of cells are counted in ``dropped``; the numbers leave them out then.
    Raises DataError for the first of them where ``dropped`` is None, for what is no such file or is cut short, and for a
    quote that takes in the rows below: one that is never closed, or that is closed on another line within a cell.
    """
    with opened(path) as file:
        start = first_bytes(path, file)
        if len(start) < _SNIFFED and not _first_line(start)[1].strip():
            return
        watched = _Watched(file)

        ragged = 0

        def leave_out(row: arrow.InvalidRow) -> str:
            nonlocal ragged
            ragged += 1
            if dropped is None:
                return "error"
            dropped[DAMAGED] = dropped.get(DAMAGED, 0) + 1
            return "skip"

        number = 2
        try:
            for batch in _stream(watched, list(dict.fromkeys(columns)), delimiter, leave_out):
                yield number, batch
                number += len(batch)
        except pa.ArrowInvalid as error:
            raise _told(path, delimiter, str(error)) from None
        if watched.quotes % 2 or (watched.quotes and watched.lines >= number + ragged):
            _check_quotes(path, delimiter)


class _Watched(io.RawIOBase):
    """A file in passing: how many quotes and lines it has."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.quotes = 0
        self.ends = 0
        self.last = b"\n"

    @property
    def lines(self) -> int:
        return self.ends + (self.last != b"\n")

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        block = self.file.read(size)
        self.quotes += block.count(b'"')
        self.ends += int(np.count_nonzero(np.frombuffer(block, np.uint8) == ord("\n")))
        self.last = block[-1:] or self.last
        return block


def _stream(
    file: IO[bytes] | io.RawIOBase,
    wanted: list[str],
    delimiter: str,
    on_bad_row: Callable[[arrow.InvalidRow], str],
    serial: bool = False,
) -> arrow.CSVStreamingReader:
    return arrow.open_csv(
        file,
        read_options=arrow.ReadOptions(block_size=BLOCK, use_threads=not serial),
        parse_options=arrow.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=on_bad_row),
        convert_options=arrow.ConvertOptions(
            include_columns=wanted, column_types=dict.fromkeys(wanted, pa.binary()), strings_can_be_null=False
        ),
    )


def _told(path: Path, delimiter: str, said: str) -> DataError:
    """Arrow's complaint as ours; the row is looked for only now, reading once more without threads."""
    _check_quotes(path, delimiter)
    found: list[arrow.InvalidRow] = []

    def keep(row: arrow.InvalidRow) -> str:
        found.append(row)
        return "error"

    with opened(path) as file:
        try:
            for _ in _stream(file, [], delimiter, keep, serial=True):
                pass
        except pa.ArrowInvalid as error:
            said = str(error)
    if not found:
        return DataError(f"{path} cannot be read as CSV: {said}")
    row = found[0]
    return DataError(
        f"{path}, row {row.number:,} has {row.actual_columns} cells, the header has {row.expected_columns}: {row.text[:60]!r}; mend it (is the file cut short?), or leave such rows out with --drop-bad-rows"
    )


def _check_quotes(path: Path, delimiter: str) -> None:
    """Raises DataError naming the row with the quote that takes in the rows below, if there is one."""
    with opened(path) as file:
        reader = csv.reader(io.TextIOWrapper(file, "latin-1", newline=""), delimiter=delimiter, strict=True)
        number, line = 1, 0
        try:
            for _ in reader:
                number, line = number + 1, reader.line_num
        except csv.Error as error:
            if "unexpected end" in str(error) or "field limit" in str(error):
                raise DataError(f'{path}, row {number:,} opens a quote (") that is never closed; mend it') from None
            if reader.line_num > line + 1:
                raise DataError(
                    f'{path}, row {number:,} opens a quote (") that is closed in the middle of line {reader.line_num:,}, so the rows between are lost; take it out, or double the quotes in that cell and put quotes around it'
                ) from None
