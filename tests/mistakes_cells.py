"""Mistakes: what stands in the cells of tables, and options that do not fit them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
from mistakes import Mistake
from mistakes_tables import HEADER, JSONL, ROWS, TITLE, _files, _import, _json, _rows, _text

__all__ = ["CASES", "TITLE"]
RATED = '{"user": "u1", "item": "i1", "timestamp": 1400000000, "rating": 5}'
BARE = '{"user": "u1", "item": "i1", "timestamp": 1400000000}'


def _lists(folder: Path) -> None:
    _files()(folder)
    listed = pa.table({"item": ["i0", "i1"], "title": ["One", "Two"], "genres": [["a"], ["b", "c"]]})
    parquet.write_table(listed, folder / "items.parquet")


def _folder(layout: str, *options: str) -> tuple[str, ...]:
    return ("datasets", "import", "logs", "--format", layout, "--name", "mine", *options)


CASES = [
    _import(
        "JSON ids with a fraction",
        "ratings.jsonl, line 3 cannot be read (user 1.5 is wrong: it takes text or whole numbers)",
        given=_json('{"user": 1.5, "item": "i1", "timestamp": 1400000000, "rating": 5}'),
        **JSONL,
    ),
    _import(
        "JSON ids that are objects",
        'user {"id": 7} is wrong: it takes text or whole numbers',
        given=_files(_text('{"user": {"id": 7}, "item": "i1", "timestamp": 1400000000}'), **JSONL),
        **JSONL,
    ),
    _import(
        "JSON objects over several lines",
        "none of its first lines is a JSON object",
        "jq -c . OLD > NEW",
        given=_files(b'{\n "user": "a"\n}\n', **JSONL),
        **JSONL,
    ),
    _import(
        "JSON lines whose ratings begin late",
        "ratings.jsonl has no 'rating' in its first lines, but further below",
        "--min-rating none",
        given=_files(_text(*[BARE] * 150, RATED), **JSONL),
        options=("--drop-bad-rows",),
        **JSONL,
    ),
    _import(
        "further text that is a list",
        "items.parquet: the column with the text holds list<string>; it takes text",
        given=_lists,
        options=("--text", "genres"),
        titles="items.parquet",
    ),
    _import(
        "titles that begin with a quote",
        'items.tsv, row 3 opens a quote (") that is closed in the middle of line 5, so the rows between are lost',
        given=_files(
            items=_text("item\ttitle", "i0\tZero", 'i1\t"One', "i2\tTwo", 'i3\t"Three', "i4\tFour"), titles="items.tsv"
        ),
        titles="items.tsv",
    ),
    _import(
        "every row with a cell too many",
        "ratings.csv: none of its 20 rows can be read; without --drop-bad-rows the reason is told",
        given=_files(_text(HEADER, *(f"{row},x" for row in ROWS))),
        options=("--drop-bad-rows",),
    ),
    _import(
        "the item called differently in the two files",
        "items.csv has no column 'movieId', it has 'item', 'title'; --item names it in both files: where they differ, rename it in one",
        given=_files(_text("user,movieId,timestamp,rating", *ROWS)),
        options=("--item", "movieId"),
    ),
    _import("a threshold below all numbers", "'-inf' is neither a number nor none", options=("--min-rating", "-inf")),
    _import("an empty noun", "'' is no word that a prompt can have; say e.g. movie", options=("--noun", "")),
    _import("a noun of two lines", r"'a\nmovie' is no word that a prompt can have", options=("--noun", "a\nmovie")),
    _import(
        "one interaction",
        "1 interaction is too few to be split 8:1:1",
        given=_files(_text(HEADER, ROWS[0])),
    ),
    _import(
        "times that order little (a warning)",
        "100.0% of the steps from one interaction of a user to the next take no time",
        given=_rows(*(f"u{n % 4},i{n % 5},1400000000,5" for n in range(20))),
        options=("--split", "none"),
        code=0,
    ),
    Mistake(
        "columns named for a layout that knows them",
        _folder("movielens-1m", "--user", "userId", "--text", "genres", "--delimiter", ";"),
        ("--format movielens-1m says where everything is; leave --user, --text, --delimiter out",),
    ),
    Mistake(
        "files named for a layout that takes a folder",
        _folder("dealrec", "--items", "items.csv"),
        ("--format dealrec takes the folder to read; leave --items out",),
    ),
]
