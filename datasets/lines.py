"""Text files by whole lines: plain, gzip or in a zip, in blocks for Arrow, with the line to blame when one is damaged."""

from __future__ import annotations

import gzip
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

import pyarrow as pa
import pyarrow.compute as pc

from prunebench.datasets.schema import DataError

BLOCK = 1 << 24
DAMAGED = "lines that cannot be read"
"""Why lines are left out, as the key under which they are counted."""
Parse = Callable[[bytes], pa.Table]
"""A block of whole lines as a table. Raises ValueError (as Arrow does) where a line of it cannot be read."""


@contextmanager
def opened(path: Path, member: str | None = None) -> Iterator[IO[bytes]]:
    """A file, unpacked where it is gzip (by content, not by name), or a member of a zip file; nothing is written.

    Raises DataError where it is missing, cut short or damaged, also while it is read.
    """
    try:
        if member is not None:
            with zipfile.ZipFile(path) as archive, archive.open(member) as file:
                yield file
        else:
            with path.open("rb") as file:
                packed = file.read(2) == b"\x1f\x8b"
            with gzip.open(path) if packed else path.open("rb") as file:
                yield cast("IO[bytes]", file)
    except (FileNotFoundError, IsADirectoryError):
        raise DataError(f"there is no file {path}") from None
    except (EOFError, gzip.BadGzipFile, zlib.error, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is cut short or damaged ({error}); fetch it again") from None


def tables(file: IO[bytes], name: str, parse: Parse, dropped: MutableMapping[str, int] | None) -> Iterator[pa.Table]:
    """The file as tables of whole lines, about ``BLOCK`` bytes each.

    Lines that cannot be read are counted in ``dropped`` and left out. Raises DataError naming the first of them where
    ``dropped`` is None.
    """
    for line, block in _blocks(file):
        yield from _parsed(block, line, name, parse, dropped)


def filled(table: pa.Table, columns: Iterable[str]) -> pa.Table:
    """The table. Raises ValueError where a cell of one of the columns is null or an empty text."""
    for name in columns:
        column = table[name]
        if column.null_count or (pa.types.is_string(column.type) and pc.any(pc.equal(column, "")).as_py()):
            raise ValueError(f"it has no {name}")
    return table


def _blocks(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Whole lines with the number of the first one, from 1."""
    line, rest = 1, b""
    while block := file.read(BLOCK):
        cut = block.rfind(b"\n") + 1
        if cut:
            whole = rest + block[:cut]
            yield line, whole
            line += whole.count(b"\n")
            rest = b""
        rest += block[cut:]
    if rest:
        yield line, rest


def _parsed(
    block: bytes, line: int, name: str, parse: Parse, dropped: MutableMapping[str, int] | None
) -> Iterator[pa.Table]:
    """Halved where it cannot be read as a whole, down to the lines that are to blame."""
    if not block.strip():
        return
    try:
        yield parse(block)
        return
    except ValueError as error:
        why = " ".join(str(error).removesuffix(" in row 0").split())
    cut = block.find(b"\n", len(block) // 2, len(block) - 1) + 1 or block.rfind(b"\n", 0, len(block) // 2) + 1
    if cut:
        yield from _parsed(block[:cut], line, name, parse, dropped)
        yield from _parsed(block[cut:], line + block.count(b"\n", 0, cut), name, parse, dropped)
    elif dropped is None:
        raise DataError(
            f"{name}, line {line:,} cannot be read ({why[:120]}); mend it, or leave such lines out with --drop-bad-rows"
        )
    else:
        dropped[DAMAGED] = dropped.get(DAMAGED, 0) + 1
