"""Mistakes: files with interactions and items."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
from mistakes import Mistake

TITLE = "Files with interactions and items"
HEADER = "user,item,timestamp,rating"
ROWS = [f"u{n % 4},i{n % 5},{1_400_000_000 + n},5" for n in range(20)]
ITEMS = ["item,title", *(f"i{n},Title {n}" for n in range(5))]
Given = Callable[[Path], None]


def _text(*rows: str) -> bytes:
    return "".join(f"{row}\n" for row in rows).encode()


def _files(
    interactions: bytes | None = None, items: bytes | None = None, name: str = "ratings.csv", titles: str = "items.csv"
) -> Given:
    def write(folder: Path) -> None:
        (folder / name).write_bytes(_text(HEADER, *ROWS) if interactions is None else interactions)
        (folder / titles).write_bytes(_text(*ITEMS) if items is None else items)

    return write


def _rows(*rows: str, name: str = "ratings.csv") -> Given:
    """The good file with these rows for its first ones."""
    return _files(_text(HEADER, *rows, *ROWS[len(rows) :]), name=name)


def _import(
    case: str,
    *said: str,
    given: Given | None = None,
    options: tuple[str, ...] = (),
    code: int = 2,
    name: str = "ratings.csv",
    titles: str = "items.csv",
) -> Mistake:
    files = ("--interactions", name, "--items", titles)
    words = ("datasets", "import", "--format", "table", *files, "--name", "mine", *options)
    return Mistake(case, words, said, code, given or _files())


def _parquet(cut: int | None) -> Given:
    def write(folder: Path) -> None:
        columns = zip(*(row.split(",") for row in ROWS), strict=True)
        table = pa.table(dict(zip(HEADER.split(","), map(list, columns), strict=True)))
        parquet.write_table(table, folder / "ratings.parquet")
        whole = (folder / "ratings.parquet").read_bytes()
        _files(whole[:cut], name="ratings.parquet")(folder)

    return write


def _json(*lines: str) -> Given:
    good = [json.dumps(dict(zip(HEADER.split(","), row.split(","), strict=True))) for row in ROWS]
    return _files(_text(*good[:2], *lines, *good[2:]), name="ratings.jsonl")


def _taken(folder: Path) -> None:
    (folder / "home" / "datasets" / "mine").mkdir(parents=True)
    _files(b"never read")(folder)


def _no_csv(folder: Path) -> None:
    _json()(folder)
    (folder / "items.jsonl").write_text('{"item": "i1", "title": "One"}\n')


def _folder(folder: Path) -> None:
    _files()(folder)
    (folder / "logs").mkdir()


JSONL = {"name": "ratings.jsonl"}
CASES = [
    # the files
    Mistake(
        "one file of the two is not named",
        ("datasets", "import", "--format", "table", "--interactions", "ratings.csv", "--name", "mine"),
        ("takes two files: --interactions FILE --items FILE",),
        given=_files(),
    ),
    _import("the file is not there", "there is no file rating.csv; did you mean ratings.csv?", name="rating.csv"),
    _import("a folder in place of a file", "logs is a folder; give a file", given=_folder, name="logs"),
    _import(
        "an ending that says nothing",
        "ratings.dat: what is in it is told by its name",
        ".csv, .tsv, .jsonl",
        given=_files(name="ratings.dat"),
        name="ratings.dat",
    ),
    _import("an empty file", "ratings.csv is empty", given=_files(b"")),
    _import("items: an empty file", "items.csv is empty", given=_files(items=b"")),
    _import("only a header", "ratings.csv has no rows below its header", given=_files(_text(HEADER))),
    _import("items: only a header", "items.csv has no rows below its header", given=_files(items=_text("item,title"))),
    _import(
        "a .gz that was cut short",
        "ratings.csv.gz is cut short or damaged",
        "fetch it again",
        given=_files(gzip.compress(_text(HEADER, *ROWS))[:-20], name="ratings.csv.gz"),
        name="ratings.csv.gz",
    ),
    _import(
        "a Parquet file that was cut short",
        "ratings.parquet is cut short, damaged, or no Parquet file",
        given=_parquet(-20),
        name="ratings.parquet",
    ),
    _import(
        "a CSV file whose last row was cut",
        "ratings.csv, row 22 has 2 cells, the header has 4: 'u1,i'",
        "cut short",
        "--drop-bad-rows",
        given=_files(_text(HEADER, *ROWS) + b"u1,i"),
    ),
    _import("a binary file", "ratings.csv is binary, not text (byte 4 is zero)", given=_files(b"\x7fEL\0\1\2")),
    _import("a Parquet file called .csv", "ratings.csv is Parquet; call it .parquet", given=_files(b"PAR1\0\0")),
    _import(
        "a file in UTF-16",
        "ratings.csv is UTF-16; convert it, e.g. iconv",
        given=_files(_text(HEADER, *ROWS).decode().encode("utf-16")),
    ),
    _import(
        "a user that is not UTF-8",
        r"ratings.csv, row 3: user b'caf\xe9' is not UTF-8",
        "iconv",
        "--drop-bad-rows",
        given=_files(_text(HEADER, ROWS[0]) + b"caf\xe9,i1,1400000000,5\n"),
    ),
    _import(
        "a title that is not UTF-8",
        r"items.csv, row 7: title b'Caf\xe9' is not UTF-8",
        "iconv",
        given=_files(items=_text(*ITEMS) + b"i9,Caf\xe9\n"),
    ),
    _import(
        "a header that is not UTF-8",
        "ratings.csv: the header is not UTF-8 at byte 4",
        given=_files(b"caf\xe9,item,timestamp\na,b,1\n"),
    ),
    _import(
        "a quote that never closes",
        'ratings.csv, row 3 opens a quote (") that is never closed',
        given=_rows(ROWS[0], 'u1,"i1,1400000000,5'),
    ),
    _import(
        "a title whose quote never closes",
        'items.csv, row 4 opens a quote (") that is never closed',
        given=_files(items=_text(*ITEMS[:3], 'i2,"Title 2', *ITEMS[4:])),
    ),
    # the columns
    _import(
        "no header",
        "ratings.csv has no header, it starts with 'u0', 'i0', '1400000000', '5'",
        "user,item,timestamp",
        given=_files(_text(*ROWS)),
    ),
    _import(
        "columns by other names",
        "ratings.csv has no column 'user', it has 'userId', 'movieId', 'rating', 'timestamp'; did you mean --user userId?",
        given=_files(_text("userId,movieId,rating,timestamp", "1,2,5,1400000000")),
    ),
    _import(
        "a column that is like no other",
        "ratings.csv has no column 'when'",
        "say which with --time COLUMN",
        options=("--time", "when"),
    ),
    _import(
        "a rating that is not there, asked for",
        "ratings.csv has no column 'stars'",
        "--rating",
        options=("--rating", "stars"),
    ),
    _import(
        "items: no titles",
        "items.csv has no column 'name', it has 'item', 'title'; say which with --title COLUMN",
        options=("--title", "name"),
    ),
    _import(
        "the two files the wrong way round",
        "items.csv has no column 'title', it has 'user', 'item', 'timestamp', 'rating'; is it the file for --interactions?",
        given=_files(_text(*ITEMS), _text(HEADER, *ROWS)),
    ),
    _import(
        "items: no header",
        "items.csv has no column 'item', it has 'i0', 'Title 0'",
        "put a line with the columns' names above",
        given=_files(items=_text(*ITEMS[1:])),
    ),
    _import(
        "a column twice",
        "ratings.csv has 2 columns called 'user'; rename one of them",
        given=_files(_text("user,user,item,timestamp", "a,a,b,1")),
    ),
    _import(
        "columns under each other's names",
        "ratings.csv, row 2: timestamp 'u0' is no number and no ISO 8601 date",
        given=_files(_text("timestamp,item,user,rating", *ROWS)),
    ),
    _import(
        "cells divided by something unusual",
        "ratings.csv: its header is one column, 'user^item^timestamp'; say with --delimiter which character",
        given=_files(_text("user^item^timestamp", "a^b^1")),
    ),
    _import(
        "a delimiter of two characters",
        "--delimiter takes one character, or tab",
        options=("--delimiter", "::"),
    ),
    # the rows
    _import(
        "a row without a user", "ratings.csv, row 2: it has no user", "--drop-bad-rows", given=_rows(",i1,1400000000,5")
    ),
    _import("a row without an item", "ratings.csv, row 3: it has no item", given=_rows(ROWS[0], "u1,,1400000000,5")),
    _import("a row without a timestamp", "ratings.csv, row 2: it has no timestamp", given=_rows("u1,i1,,5")),
    _import(
        "a row with a cell too many",
        "ratings.csv, row 3 has 5 cells, the header has 4: 'u1,i1,1400000000,5,x'",
        given=_rows(ROWS[0], "u1,i1,1400000000,5,x"),
    ),
    _import(
        "a timestamp that is not a number", "ratings.csv, row 2: timestamp NaN is no time", given=_rows("u1,i1,nan,5")
    ),
    _import(
        "a negative timestamp",
        "ratings.csv, row 2: timestamp -5 lies before 1970 or after 2100",
        given=_rows("u1,i1,-5,5"),
    ),
    _import(
        "a timestamp beyond any date",
        "ratings.csv, row 2: timestamp 99999999999 lies before 1970 or after 2100",
        given=_rows("u1,i1,99999999999,5"),
    ),
    _import(
        "seconds mixed with milliseconds",
        "ratings.csv, row 3: timestamp 1400000000000 counts milliseconds by its size, the rows before it count seconds",
        given=_rows(ROWS[0], "u1,i1,1400000000000,5"),
    ),
    _import(
        "a timestamp that is no date",
        "ratings.csv, row 3: timestamp 'yesterday' is no number and no ISO 8601 date such as 2014-07-23T08:15:00Z",
        given=_rows(ROWS[0], "u1,i1,yesterday,5"),
    ),
    _import(
        "a date that is not in the calendar",
        "ratings.csv, row 2: timestamp '2014-02-30' is no number and no ISO 8601 date",
        given=_rows("u1,i1,2014-02-30,5"),
    ),
    _import(
        "a rating that is no number",
        "ratings.csv, row 2: rating 'good' is no number",
        given=_rows("u1,i1,1400000000,good"),
    ),
    _import("a rating that is missing", "ratings.csv, row 2: it has no rating", given=_rows("u1,i1,1400000000,")),
    _import(
        "no row that can be read",
        "ratings.csv: none of its 20 rows can be read",
        given=_files(_text("timestamp,item,user,rating", *ROWS)),
        options=("--drop-bad-rows",),
    ),
    _import("a JSON line that is no object", "ratings.jsonl, line 3 cannot be read", given=_json("[1, 2]"), **JSONL),
    _import(
        "a JSON line that is cut short", "ratings.jsonl, line 3 cannot be read", given=_json('{"user": "a", '), **JSONL
    ),
    _import(
        "a JSON line with a key twice",
        "ratings.jsonl, line 3 cannot be read",
        "was specified twice",
        given=_json('{"user": "a", "user": "b", "item": "i1", "timestamp": "1400000000", "rating": "5"}'),
        **JSONL,
    ),
    _import(
        "a JSON line without a user",
        "ratings.jsonl, line 3 cannot be read (it has no user)",
        "--drop-bad-rows",
        given=_json('{"item": "i1", "timestamp": "1400000000", "rating": "5"}'),
        **JSONL,
    ),
    _import(
        "JSON lines without such a key",
        "ratings.jsonl has no column 'member', it has 'user', 'item', 'timestamp', 'rating'",
        given=_json(),
        options=("--user", "member"),
        **JSONL,
    ),
    _import(
        "one JSON array",
        "ratings.jsonl is one JSON array; write one object per line",
        given=_files(b'[\n{"user": "a"}\n]\n', **JSONL),
        **JSONL,
    ),
    _import(
        "JSON lines that are none",
        "ratings.jsonl: none of its first lines is a JSON object",
        given=_files(**JSONL),
        **JSONL,
    ),
    _import(
        "a delimiter, and no CSV",
        "--delimiter is for CSV, and neither file is",
        given=_no_csv,
        options=("--delimiter", ";"),
        name="ratings.jsonl",
        titles="items.jsonl",
    ),
    # what they say together
    _import(
        "an item with two titles",
        "item 'i1' has two titles in the file of items, 'Title 1' and 'Another'; keep one of them",
        given=_files(items=_text(*ITEMS, "i1,Another")),
    ),
    _import(
        "items of another catalogue",
        "none of the 5 items of the interactions is in the file of items, e.g. 'i0' against '10'",
        "--item",
        given=_files(items=_text("item,title", "10,Ten", "11,Eleven")),
    ),
    _import(
        "items without titles (a warning)",
        "2 of 5 items have no title (1 of them not in the file of items)",
        "their titles are empty",
        given=_files(items=_text(*ITEMS[:4], "i3,")),
        code=0,
        options=("--split", "none"),
    ),
    _import(
        "all ratings below --min-rating",
        "all 20 interactions are rated below 6, the best 5; choose another --min-rating, or none to keep all",
        options=("--min-rating", "6"),
    ),
    _import(
        "a rating that is no threshold",
        "'good' is neither a number nor none",
        options=("--min-rating", "good"),
    ),
    _import(
        "a k-core that is empty",
        "none is in the 9-core of 20; choose a lower --k-core",
        options=("--k-core", "9"),
    ),
    _import(
        "too few interactions to split 8:1:1",
        "9 interactions are too few to be split 8:1:1, it takes ten; choose --split leave-one-out or none",
        given=_files(_text(HEADER, *ROWS[:9])),
    ),
    _import(
        "a split that leaves no sample",
        "no user has two training interactions, so there is no sample to prune",
        "another --split",
        given=_files(_text(HEADER, *ROWS[:12])),
        options=("--split", "leave-one-out"),
    ),
    # the name
    _import(
        "a name that is taken",
        "data set 'mine' is installed already; --overwrite replaces it, --name gives another name",
        given=_taken,
    ),
    Mistake(
        "the name of a built-in data set",
        ("datasets", "import", "--format", "table", "--name", "mini"),
        ("'mini' is a built-in data set; choose another --name",),
    ),
    Mistake(
        "a name that names no folder",
        ("datasets", "import", "--format", "table", "--name", "../mine"),
        ("'../mine' is no data set name: use a-z, 0-9",),
    ),
]
