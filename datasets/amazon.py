"""Amazon reviews of 2014 and 2018: who reviewed what, and the products' titles, as JSON lines or Python literals."""

from __future__ import annotations

import ast
import html
import io
from collections.abc import Iterator, MutableMapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import json

from prunebench.datasets import lines
from prunebench.datasets.schema import DataError

REVIEW = {"reviewerID": "user", "asin": "item", "overall": "rating", "unixReviewTime": "timestamp"}
"""What a review's keys are called here."""
_REVIEW_TYPES = pa.schema(
    [("reviewerID", pa.string()), ("asin", pa.string()), ("overall", pa.float32()), ("unixReviewTime", pa.int64())]
)
_PRODUCT = pa.schema([("asin", pa.string()), ("title", pa.string())])
_ENDINGS = (".json.gz", ".json", ".jsonl.gz", ".jsonl")
_SCRIPT = "getTime"
"""What titles have that are a web page's script; their publisher says to leave such out."""


def find(folder: Path) -> tuple[Path, Path]:
    """The files of reviews and of products in ``folder``: of 2014 reviews_X_5.json.gz or reviews_X.json.gz, of 2018
    X_5.json.gz or X.json.gz, and of both meta_X.json.gz; also unpacked.

    Raises DataError where there is not just one of each.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; give one that holds reviews and meta_*.json.gz")
    files = sorted(path for path in folder.iterdir() if path.name.endswith(_ENDINGS) and path.name[0] != ".")
    products = [path for path in files if path.name.startswith("meta_")]
    reviews = [path for path in files if path not in products]
    for what, found in (("reviews", reviews), ("products (meta_*.json.gz)", products)):
        if len(found) != 1:
            held = ", ".join(path.name for path in found) or "none"
            raise DataError(
                f"{folder} must hold one file of {what}, there is {held}; name them with --interactions and --items"
            )
    return reviews[0], products[0]


def read(
    reviews: Path, products: Path, dropped: MutableMapping[str, int] | None = None
) -> tuple[Iterator[pa.RecordBatch], pa.Table]:
    """``(interactions, items)`` of two files, as :func:`find` finds them. ``dropped`` as in the two functions below.

    Raises DataError for a file that is missing or damaged, and, where ``dropped`` is None, for a line that is.
    """
    return interactions(reviews, dropped), items(products, dropped)


def interactions(path: Path, dropped: MutableMapping[str, int] | None = None) -> Iterator[pa.RecordBatch]:
    """Columns user, item (string), rating (float32), timestamp (int64, seconds), a row per review.

    Each line is JSON with reviewerID, asin, overall and unixReviewTime, alike in 2014 and 2018. Lines that cannot be
    read are counted in ``dropped`` and left out; where it is None, the first one is a DataError.
    """
    with lines.opened(path) as file:
        for table in lines.tables(file, str(path), _reviews, dropped):
            yield from table.to_batches()


def items(path: Path, dropped: MutableMapping[str, int] | None = None) -> pa.Table:
    """Columns item and title, a row per product; a product listed again keeps the first title it has.

    Each line is a product with asin and perhaps title: a Python literal in 2014, which is parsed, never run; JSON in
    2018. Titles lose their HTML tags, then have &amp; and the like resolved and white space made single. A title
    that was nothing but markup, or a script, is null, as one that is missing.
    """
    with lines.opened(path) as file:
        read = list(lines.tables(file, str(path), _products, dropped))
    if not read:
        raise DataError(f"{path} has no products; is it cut short?")
    table = pa.concat_tables(read)
    table = pa.table({"item": table["asin"], "title": titles(table["title"].combine_chunks())})
    return table.group_by("item", use_threads=False).aggregate([("title", "first")]).rename_columns(["item", "title"])


def titles(column: pa.Array) -> pa.Array:
    """Text as people read it, from text as web pages hold it; null where nothing is left. String [n]."""
    text = pc.if_else(pc.match_substring(column, _SCRIPT), pa.scalar(None, pa.string()), column)
    text = pc.replace_substring_regex(text, r"(?is)<(script|style)\b.*?(</(script|style)>|$)|</?[a-z][^<>]*>", " ")
    escaped = pc.fill_null(pc.match_substring(text, "&"), False)
    resolved = [html.unescape(title) for title in text.filter(escaped).to_pylist()]
    text = pc.replace_with_mask(text, escaped, pa.array(resolved, pa.string()))
    text = pc.utf8_trim_whitespace(pc.replace_substring_regex(text, r"[\s\x0b\x1c-\x1f\x85\pZ]+", " "))
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)


def _reviews(block: bytes) -> pa.Table:
    return _json(block, _REVIEW_TYPES, list(REVIEW)).rename_columns(list(REVIEW.values()))


def _products(block: bytes) -> pa.Table:
    if not block.lstrip().startswith(b"{'"):
        return _json(block, _PRODUCT, ["asin"])
    products = [_literal(line) for line in block.split(b"\n") if line.strip()]
    for product in products:
        if not isinstance(product.get("asin"), str) or not isinstance(product.get("title"), str | None):
            raise ValueError("a product needs a text 'asin', and 'title' must be text")
    return pa.Table.from_pylist([{key: product.get(key) for key in _PRODUCT.names} for product in products], _PRODUCT)


def _literal(line: bytes) -> dict[str, object]:
    try:
        value = ast.literal_eval(line.decode().strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        value = None
    if not isinstance(value, dict):
        raise ValueError("it is no dictionary of plain Python values")
    return value


def _json(block: bytes, schema: pa.Schema, needed: list[str]) -> pa.Table:
    table = json.read_json(
        io.BytesIO(block),
        read_options=json.ReadOptions(block_size=len(block) + 1),
        parse_options=json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
    ).select(schema.names)
    table.validate(full=True)
    return lines.filled(table, needed)
