"""Tables: the same rows as CSV, TSV, JSON lines and Parquet are one data set; cells against a slow reading of each."""

from __future__ import annotations

import csv
import gzip
import io
import json
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mistakes
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunebench.datasets import cells, delimited, lines, tables
from prunebench.datasets.interactions import gather
from prunebench.datasets.library import Library
from prunebench.datasets.protocol import Protocol, build
from prunebench.datasets.schema import DataError, RecDataset
from prunebench.datasets.tables import Columns

FILES = ("x.csv", "x.tsv", "x.csv.gz", "x.TSV.gz", "x.jsonl", "x.ndjson.gz", "x.parquet")
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), min_size=1, max_size=6)
Rows = Sequence[dict[str, Any]]


def write(path: Path, rows: Rows, delimiter: str | None = None) -> Path:
    """As anybody would: with the csv and json modules, or Arrow's types."""
    if ".parquet" in path.name:
        parquet.write_table(pa.Table.from_pylist(list(rows)), path)
        return path
    text = io.StringIO(newline="")
    if "json" in path.name:
        text.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    else:
        writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter or (",", "\t")[".tsv" in path.name.lower()])
        writer.writeheader()
        writer.writerows(rows)
    content = text.getvalue().encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def read(path: Path, columns: Columns | None = None, **asked: Any) -> list[dict[str, Any]]:
    return [row for batch in tables.interactions(path, columns or Columns(), **asked) for row in batch.to_pylist()]


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "user": TEXT,
                "item": TEXT,
                "timestamp": st.integers(0, 4_000_000_000),
                "rating": st.sampled_from([1.0, 4.0, 4.5]),
            }
        ),
        min_size=1,
        max_size=8,
    ),
    st.sampled_from([1 << 24, 256]),
)
@settings(max_examples=30, deadline=None)
def test_every_file_reads_as_the_same_rows(tmp_path_factory: Any, rows: Rows, block: int) -> None:
    folder = tmp_path_factory.mktemp("files")
    expected = [{**row, "timestamp": row["timestamp"] * 10**6} for row in rows]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "BLOCK", block)
        patch.setattr(delimited, "BLOCK", block)
        for name in FILES:
            assert read(write(folder / name, rows)) == expected, name


def _data_set(folder: Path, name: str) -> RecDataset:
    rows = [
        {"user": f"u{n * n % 7}", "item": f"i{n % 5}", "timestamp": 10**9 + n * 37 % 50, "rating": 1 + n % 4}
        for n in range(60)
    ]
    titles = [{"item": f"i{n}", "title": f'"T", {n}\n😀'} for n in range(5)]
    listed = tables.items(write(folder / f"items-{name}", titles))
    return build("x", gather(tables.interactions(write(folder / name, rows)), 2.0), listed, Protocol(), "")


def test_every_file_gives_one_fingerprint(tmp_path: Path) -> None:
    data_sets = [_data_set(tmp_path, name) for name in FILES]
    assert len({dataset.fingerprint for dataset in data_sets}) == 1
    assert data_sets[0].titles[3] == '"T", 3\n😀'


MOMENT = datetime(2014, 7, 23, 8, 15, 0, 250000, tzinfo=UTC)
MICROS = round(MOMENT.timestamp() * 10**6)


@pytest.mark.parametrize(
    ("column", "exact"),
    [
        (pa.array([MICROS / 10**6]), True),
        (pa.array([MICROS // 10**3]), True),
        (pa.array([MICROS]), True),
        (pa.array([MICROS * 10**3]), True),
        (pa.array([str(MICROS)]), True),
        (pa.array([f"{MICROS / 10**6:.3f}"]).dictionary_encode(), True),
        (pa.array(["2014-07-23T08:15:00.25"]), True),
        (pa.array([b"2014-07-23T10:15:00.250+02:00"]), True),
        (pa.array(["2014-07-23 08:15:00.250000Z"]), True),
        (pa.array([MOMENT]), True),
        (pa.array([MOMENT.replace(tzinfo=None)], pa.timestamp("ns")), True),
        (pa.array([MOMENT.date()]), False),
        (pa.array(["2014-07-23"]), False),
    ],
)
def test_one_moment_in_every_spelling(column: pa.Array, exact: bool) -> None:
    midnight = round(datetime(2014, 7, 23, tzinfo=UTC).timestamp() * 10**6)
    micros, bad = cells.Times().read(column)
    assert (micros.to_pylist(), bad.tolist()) == ([MICROS if exact else midnight], [False])


@pytest.mark.parametrize(
    ("column", "good"),
    [
        (pa.array([5, None, -1, 4_102_444_800, 4_102_444_801, 10**12]), [5, 4_102_444_800]),
        (pa.array([float("nan"), 5.5, float("inf"), -0.5, 1e12]), [5.5]),
        (
            pa.array(["", "x", "nan", " 7 ", "1e3", "-1", "1_0", "2014-13-01", "1970-01-01T00:00:09Z", None]),
            [7, 1000, 9],
        ),
        (pa.array([b"\xff", b"8"]), [8]),
        (pa.array(["1969-12-31", "1970-01-02"]), [86400]),
        (pa.array([None, None]), []),
    ],
)
def test_times_that_cannot_be_read_are_marked(column: pa.Array, good: list[float]) -> None:
    times = cells.Times()
    micros, bad = times.read(column)
    assert [micro / 10**6 for micro in micros.filter(pa.array(~bad)).to_pylist()] == good
    for row in bad.nonzero()[0].tolist():
        assert cells.why("timestamp", column[row].as_py(), times)


def test_dates_without_a_zone_are_in_utc_wherever_one_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        micros, bad = cells.Times().read(pa.array(["1970-01-01 00:00:09", "1970-01-01T09:00:09+09:00"]))
    finally:
        monkeypatch.undo()
        time.tzset()
    assert (micros.to_pylist(), bad.any()) == ([9 * 10**6] * 2, False)


def test_the_first_timestamp_that_can_be_read_tells_the_unit_for_all_batches() -> None:
    times = cells.Times()
    assert times.read(pa.array(["-1", "1400000000000"]))[1].tolist() == [True, False]
    micros, bad = times.read(pa.array([1_400_000_000, 1_400_000_000_001]))
    assert bad.tolist() == [True, False]
    assert micros[1].as_py() == 1_400_000_000_001_000
    assert "counts seconds by its size, the rows before it count milliseconds" in times.why(1_400_000_000)


def test_ids_and_ratings() -> None:
    for column in (
        pa.array([10, None]),
        pa.array(["10", ""]),
        pa.array([b"10", b"\xff"]),
        pa.array(["10", None]).dictionary_encode(),
    ):
        ids, bad = cells.texts(column)
        assert (ids[0].as_py(), bad.tolist()) == ("10", [False, True])
    with pytest.raises(DataError, match="holds double; it takes text or whole numbers"):
        cells.texts(pa.array([1.0]))
    ratings, bad = cells.numbers(pa.array(["4.5", "nan", "", "x", "inf", "5"]))
    assert bad.tolist() == [False, True, True, True, True, False]
    assert ratings.filter(pa.array(~bad)).to_pylist() == [4.5, 5.0]


BAD: dict[str, list[str]] = {
    "x.csv": [
        "user,item,timestamp,rating",
        "a,b,1,5",
        ",b,2,5",
        "a,b",
        "a,b,x,5",
        "a,b,3,5,6",
        "a,b,4,",
        "c,d,5,1",
        "a,b,-6,5",
    ],
    "x.jsonl": [
        *(
            '{"user": "a", "item": "b", "timestamp": 1, "rating": 5}',
            '{"item": "b"}',
            "[]",
            "{",
            "5",
            '{"user": "x", "item": 5}',
        ),
        *(
            '{"user": "c", "item": "d", "timestamp": 5.0, "rating": 1}',
            '{"user": "a", "item": "b", "timestamp": 1e300, "rating": 1}',
        ),
    ],
}


@pytest.mark.parametrize("name", BAD)
def test_bad_rows_are_left_out_and_counted(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("\n".join(BAD[name]))
    dropped: Counter[str] = Counter()
    rows = read(tmp_path / name, dropped=dropped)
    assert [(row["user"], row["timestamp"]) for row in rows] == [("a", 10**6), ("c", 5 * 10**6)]
    assert dropped == {lines.DAMAGED: 6}
    with pytest.raises(DataError, match=r"row 4 has 2 cells|line 2 cannot be read \(it has no user"):
        read(tmp_path / name)


def test_rows_are_counted_over_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "BLOCK", 256)
    monkeypatch.setattr(tables, "ROWS", 16)
    good = [{"user": "a", "item": "b", "timestamp": str(n)} for n in range(200)]
    for name, row in (("x.csv", "row 152"), ("x.jsonl", "line 151"), ("x.parquet", "row 151")):
        path = write(tmp_path / name, [*good[:150], {**good[0], "timestamp": "x"}, *good[150:]])
        with pytest.raises(DataError, match=f"{row}\\b"):
            read(path)
    path = write(tmp_path / "y.csv", good)
    path.write_bytes(path.read_bytes() + b"a,b\n")
    with pytest.raises(DataError, match="row 202 has 2 cells, the header has 3: 'a,b'"):
        read(path)
    path.write_bytes(path.read_bytes().replace(b"a,b,100", b'a,"b,100'))
    with pytest.raises(DataError, match="row 102 opens a quote"):
        read(path)


def test_columns_by_other_names_and_further_text(tmp_path: Path) -> None:
    columns = Columns("who", "what", "when", title="name", text=("by", "year"))
    path = write(tmp_path / "x.csv", [{"what": 7, "extra": "…", "when": 8, "who": "a"}], ";")
    assert read(path, columns, delimiter=";") == [{"user": "a", "item": "7", "timestamp": 8 * 10**6}]
    works = [
        {"year": 1999, "what": 7, "name": "T", "by": "Ann"},
        {"year": None, "what": 8, "name": None, "by": "Ann"},
        {"year": 2001, "what": 9, "name": "", "by": ""},
        {"year": None, "what": 10, "name": "U", "by": None},
    ]
    for name in ("i.csv", "i.jsonl", "i.parquet"):
        listed = tables.items(write(tmp_path / name, works), columns)
        assert listed.to_pydict() == {"item": ["7", "8", "9", "10"], "title": ["T - Ann - 1999", "Ann", "2001", "U"]}


def test_ratings_that_are_not_asked_for_are_not_read(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", [{"user": "a", "item": "b", "timestamp": 1, "rating": "good"}])
    assert read(path, rated=False) == [{"user": "a", "item": "b", "timestamp": 10**6}]


def test_files_as_they_come(tmp_path: Path) -> None:
    """With a byte order mark, Windows line ends, blank lines, in two gzip members; only a header without a line end."""
    content = b'\xef\xbb\xbf"user",item,timestamp\r\n\r\na,"b, ""c""",1\r\n\r\n'
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(content) + gzip.compress(b"\xc3\xa4,d,2"))
    rows = [(row["user"], row["item"]) for row in read(tmp_path / "x.csv.gz")]
    assert rows == [("a", 'b, "c"'), ("ä", "d")]
    for header in (b"user,item,timestamp", b"\n\n"):
        (tmp_path / "y.csv").write_bytes(header)
        with pytest.raises(DataError, match=r"y\.csv (has no rows below its header|is empty)"):
            read(tmp_path / "y.csv")


def test_a_damaged_parquet_file_of_a_good_end(tmp_path: Path) -> None:
    rows = [{"user": f"u{n}", "item": "b", "timestamp": n} for n in range(1000)]
    whole = write(tmp_path / "x.parquet", rows).read_bytes()
    (tmp_path / "x.parquet").write_bytes(b"\xff" * 2000 + whole[2000:])
    with pytest.raises(DataError, match="cut short, damaged, or no Parquet file"):
        read(tmp_path / "x.parquet")


def test_through_the_command_line(tmp_path: Path) -> None:
    rows = [
        {"user": f"u{n % 4}", "item": f"i{n % 5}", "timestamp": 10**9 + n, "rating": 5 - n % 20 // 19}
        for n in range(40)
    ]
    write(tmp_path / "r.csv", [*rows, rows[0], {**rows[0], "timestamp": "x"}, {**rows[0], "rating": 1}])
    write(tmp_path / "i.jsonl", [{"item": f"i{n}", "title": f"T{n}"} for n in range(4)])
    words = (
        "datasets",
        "import",
        "--format",
        "table",
        "--interactions",
        "r.csv",
        "--items",
        "i.jsonl",
        "--name",
        "mine",
    )
    answer = mistakes.ask(tmp_path, (*words, "--drop-bad-rows", "--noun", "song"))
    assert answer.code == 0, answer.err
    assert answer.out.splitlines() == [
        "Installed mine: 4 users, 5 items, 40 interactions, density 200.0 %; 4 samples.",
        "Left out: lines that cannot be read: 1",
        "Left out: interactions rated below --min-rating: 1",
        "Left out: exact duplicates (same user, item and time): 1",
        "Next: bench datasets inspect mine, then bench run --dataset mine",
    ]
    assert "1 of 5 items has no title" in answer.line
    again = mistakes.ask(
        tmp_path, (*words, "--drop-bad-rows", "--split", "none", "--min-rating", "none", "--overwrite", "--json")
    )
    entry = json.loads(again.out)
    assert (entry["interactions"], entry["meta"]["item_noun"]) == (40, "item")
    loaded = Library(tmp_path / "home").load("mine")
    assert list(loaded.user_keys or ()) == ["u0", "u1", "u2", "u3"]
    assert loaded.titles == ("T0", "T1", "T2", "T3", "")
