"""Cells of a table as ids, times and numbers; what cannot be read is marked row by row, never guessed.

A column of text, numbers or Arrow's dates comes in; what comes out is a column of one type and a mask of the rows that
cannot be read. A batch without such rows takes the fast way; the others are gone through cell by cell.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from prunebench.datasets.schema import DataError, Int64

Mask = NDArray[np.bool_]
Reader = Callable[[pa.Array], tuple[pa.Array, Mask]]
UNITS = ("seconds", "milliseconds", "microseconds", "nanoseconds")
LATEST = 4_102_444_800
"""Seconds from 1970 to 2100: what is later is no time at which anybody took anything."""
_NEXT_UNIT = 1e11
"""From this number on, a timestamp is not in seconds but in a smaller unit; a thousand times more, in the next."""


def texts(column: pa.Array) -> tuple[pa.Array, Mask]:
    """A column of text, bytes or integers as large_string; marked are null, empty, and bytes that are not UTF-8.

    Raises DataError for a column of any other type.
    """
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (_is_text(kind) or _is_binary(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind)):
        raise DataError(f"holds {kind}; it takes text or whole numbers")
    try:
        read = column.cast(pa.large_string())
    except pa.ArrowInvalid:
        read = pa.array([_decoded(cell) for cell in column.to_pylist()], pa.large_string())
    return read, _true(pc.equal(pc.fill_null(pc.binary_length(read), 0), 0))


def numbers(column: pa.Array) -> tuple[pa.Array, Mask]:
    """A column of text or numbers as float64; marked are null, NaN, infinite, and text that is no number."""
    try:
        read = _plain(column).cast(pa.float64(), safe=False)
    except pa.ArrowInvalid:
        read = pa.array([_number(cell) for cell in _plain(column).to_pylist()], pa.float64())
    except pa.ArrowNotImplementedError:
        raise DataError(f"holds {column.type}; it takes numbers") from None
    return read, ~_true(pc.fill_null(pc.is_finite(read), False))


def labels(column: pa.Array) -> tuple[pa.Array, Mask]:
    """A column of anything that can be written down as large_string; marked are bytes that are not UTF-8.

    Raises DataError for a column of lists or records.
    """
    if not _is_binary(column.type):
        try:
            return column.cast(pa.large_string()), np.zeros(len(column), bool)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            raise DataError(f"holds {str(column.type).replace('element: ', '')}; it takes text") from None
    read, _ = texts(column)
    return read, _true(read.is_null()) & ~_true(column.is_null())


class Times:
    """Timestamps of one file. Its numbers all count in the unit that the size of the first one tells."""

    def __init__(self) -> None:
        self.unit: int | None = None

    def read(self, column: pa.Array) -> tuple[pa.Array, Mask]:
        """Microseconds since 1970 as int64, of numbers, ISO 8601 dates (UTC where they name no zone), text with either,
        or Arrow's dates; marked are null, NaN, what lies before 1970 or after 2100, and numbers in another unit.

        Raises DataError for a column of any other type.
        """
        micros, bad = self._read(column)
        return pa.array(micros), bad

    def _read(self, column: pa.Array) -> tuple[Int64, Mask]:
        kind = column.type
        if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
            return _dates(column.cast(pa.timestamp("us", getattr(kind, "tz", None)), safe=False))
        column = _plain(column)
        for target in (pa.int64(), pa.float64()):
            try:
                return self._numbers(column.cast(target))
            except pa.ArrowNotImplementedError:
                raise DataError(f"holds {kind}; it takes numbers, dates, or text with these") from None
            except pa.ArrowInvalid:
                continue
        for zone in (None, "UTC"):
            try:
                return _dates(column.cast(pa.timestamp("us", zone)))
            except pa.ArrowInvalid:
                continue
        return self._mixed(column.to_pylist())

    def _numbers(self, column: pa.Array) -> tuple[Int64, Mask]:
        values = pc.fill_null(column, -1).to_numpy(zero_copy_only=False)
        units = np.searchsorted(_NEXT_UNIT * 1000.0 ** np.arange(3), values, "right")
        bad = ~((values >= 0) & (values <= LATEST * 1000.0**units))
        if self.unit is None and not bad.all():
            self.unit = int(units[np.argmin(bad)])
        unit = self.unit or 0
        bad |= units != unit
        values = np.where(bad, 0, values)
        micros = values // 1000 if unit == 3 else np.rint(values * 10 ** (6 - 3 * unit))
        return micros.astype(np.int64), bad

    def _mixed(self, cells: list[str | None]) -> tuple[Int64, Mask]:
        counted = [_number(cell) for cell in cells]
        micros, bad = self._numbers(pa.array(counted, pa.float64()))
        dates, no_date = _dates(pa.array([_micros(cell) for cell in cells], pa.timestamp("us")))
        is_date = np.array([number is None for number in counted])
        return np.where(is_date, dates, micros), np.where(is_date, no_date, bad)

    def why(self, cell: Any) -> str:
        """What is wrong with a timestamp that is marked."""
        number = _number(cell)
        if isinstance(cell, str) and number is None and _micros(cell) is None:
            return f"timestamp {_short(cell)} is no number and no ISO 8601 date such as 2014-07-23T08:15:00Z"
        if number is not None and math.isnan(number):
            return "timestamp NaN is no time"
        if number is not None and self.unit is not None:
            unit = int(np.searchsorted(_NEXT_UNIT * 1000.0 ** np.arange(3), number, "right"))
            if unit != self.unit and 0 <= number <= LATEST * 1000.0**unit:
                return f"timestamp {cell} counts {UNITS[unit]} by its size, the rows before it count {UNITS[self.unit]}"
        return f"timestamp {cell} lies before 1970 or after 2100"


def why(what: str, cell: Any, times: Times) -> str:
    """What is wrong with a cell that is marked; ``what`` is user, item, timestamp, rating or title."""
    if cell is None or cell in ("", b""):
        return f"it has no {what}"
    if isinstance(cell, bytes):
        if _decoded(cell) is None:
            return f"{what} {_short(cell)} is not UTF-8; convert the file, e.g. iconv -f latin1 -t utf-8 OLD > NEW"
        cell = cell.decode()
    return times.why(cell) if what == "timestamp" else f"{what} {_short(cell)} is no number"


def _dates(column: pa.Array) -> tuple[Int64, Mask]:
    micros = pc.fill_null(column.cast(pa.int64()), -1).to_numpy(zero_copy_only=False)
    return micros, (micros < 0) | (micros > LATEST * 10**6)


def _plain(column: pa.Array) -> pa.Array:
    """Without dictionary, and bytes as text; what is not UTF-8 as null, for the reason is looked up by ``why``."""
    column = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    return texts(column)[0] if _is_text(column.type) or _is_binary(column.type) else column


def _true(mask: pa.Array) -> Mask:
    return mask.to_numpy(zero_copy_only=False)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def _decoded(cell: str | bytes | None) -> str | None:
    try:
        return cell.decode() if isinstance(cell, bytes) else cell
    except UnicodeDecodeError:
        return None


def is_number(text: str) -> bool:
    """Whether text is one number."""
    return _number(text) is not None


def _number(cell: Any) -> float | None:
    try:
        return None if cell is None or "_" in str(cell) else float(cell)
    except ValueError:
        return None


def _micros(cell: str | None) -> int | None:
    try:
        moment = datetime.fromisoformat((cell or "").strip())
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 10**6)


def _short(cell: Any) -> str:
    text = repr(cell)
    return text if len(text) <= 60 else f"{text[:57]}…"
