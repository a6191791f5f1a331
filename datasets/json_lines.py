"""JSON lines as columns: fast where a column is of one type, through Python's json where it is not."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.json as arrow

from prunebench.datasets.schema import DataError

_SNIFFED = 100
"""Lines whose values tell the types of the columns."""


def objects(path: Path, start: bytes) -> list[dict[str, Any]]:
    """The objects on the first lines of a file that begins so. Raises DataError where there are none."""
    if start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
        raise DataError(f"{path} is one JSON array; write one object per line, e.g. jq -c '.[]' OLD > NEW")
    found = []
    for line in start.removeprefix(b"\xef\xbb\xbf").split(b"\n")[:_SNIFFED]:
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            found.append(value)
    if not found:
        raise DataError(
            f'{path}: none of its first lines is a JSON object such as {{"user": "a", …}}; write one per line, e.g. jq -c . OLD > NEW, or in pandas to_json(NEW, orient="records", lines=True)'
        )
    return found


def types(names: Mapping[str, str], samples: Sequence[Mapping[str, Any]]) -> dict[str, pa.DataType]:
    """The type of each column by its name, ``names`` saying which is what: ratings are never whole, ids always are."""
    return {name: _type(what, name, samples) for what, name in names.items()}


def _type(what: str, name: str, samples: Sequence[Mapping[str, Any]]) -> pa.DataType:
    value = next((sample[name] for sample in samples if sample.get(name) is not None), 0.0 if what == "rating" else "")
    if isinstance(value, str):
        return pa.string()
    whole = what in ("user", "item") or (what != "rating" and type(value) is int)
    return pa.int64() if whole else pa.float64()


def table(block: bytes, names: Mapping[str, str], types: Mapping[str, pa.DataType]) -> pa.Table:
    """The columns ``names`` of whole lines. Those of ``types`` where all cells are, times as float64 where some are not
    whole; else through Python: ids and text as text, whatever they are written as, whole ids of any size.

    Raises ValueError for what is no such line.
    """
    time = names.get("timestamp", "")
    try:
        return _fast(block, types)
    except pa.ArrowInvalid as error:
        refused = error
    if types.get(time) == pa.int64():
        try:
            return _fast(block, {**types, time: pa.float64()})
        except pa.ArrowInvalid as error:
            refused = error
    return _slow(block, names, refused)


def _fast(block: bytes, types: Mapping[str, pa.DataType]) -> pa.Table:
    read = arrow.read_json(
        pa.BufferReader(block),
        read_options=arrow.ReadOptions(block_size=len(block) + 1),
        parse_options=arrow.ParseOptions(
            explicit_schema=pa.schema(list(types.items())), unexpected_field_behavior="ignore"
        ),
    )
    read.validate(full=True)
    return read


def _slow(block: bytes, names: Mapping[str, str], refused: pa.ArrowInvalid) -> pa.Table:
    try:
        rows = [json.loads(line, object_pairs_hook=_once) for line in block.split(b"\n") if line.strip()]
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        raise refused from None
    if not all(isinstance(row, dict) for row in rows):
        raise refused
    return pa.table({name: _column(what, [row.get(name) for row in rows]) for what, name in names.items()})


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key in found if sum(key == other for other, _ in pairs) > 1)
        raise ValueError(f"{twice!r} was specified twice")
    return found


def _column(what: str, values: list[Any]) -> pa.Array:
    """Numbers where all are, else text."""
    numbers = what in ("timestamp", "rating")
    fractions = () if what in ("user", "item") else (float,)
    for value in values:
        if value is not None and type(value) not in (str, int, *fractions):
            takes = "numbers" if what == "rating" else "text or whole numbers" if not fractions else "text or numbers"
            raise ValueError(f"{what.split()[0]} {str(json.dumps(value))[:40]} is wrong: it takes {takes}")
    if numbers and not any(isinstance(value, str) for value in values):
        whole = not any(isinstance(value, float) for value in values)
        if what == "timestamp" and whole and all(value is None or abs(value) < 1 << 63 for value in values):
            return pa.array(values, pa.int64())
        return pa.array([None if value is None else float(value) for value in values], pa.float64())
    return pa.array([None if value is None else str(value) for value in values], pa.large_string())
