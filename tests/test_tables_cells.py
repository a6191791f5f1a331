"""Tables as programs write them: numbers now whole and now not, ids of any size, a delimiter of their own."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunebench.datasets import json_lines, lines, tables
from prunebench.datasets.schema import DataError

IDS = st.one_of(st.integers(-(10**30), 10**30), st.text("ab1é", min_size=1, max_size=4))
RATINGS = st.one_of(st.integers(-5, 5), st.sampled_from([4.5, 3.0]))
TIMES = st.one_of(st.integers(0, 4_000_000_000), st.integers(0, 4_000_000_000).map(lambda second: second + 0.5))
ROW = st.fixed_dictionaries({"user": IDS, "item": IDS, "timestamp": TIMES, "rating": RATINGS})


def read(path: Path, **asked: Any) -> list[dict[str, Any]]:
    return [row for batch in tables.interactions(path, **asked) for row in batch.to_pylist()]


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@given(st.lists(ROW, min_size=1, max_size=6), st.sampled_from([1 << 24, 128]))
@settings(max_examples=60, deadline=None)
def test_json_is_read_whatever_its_values_are_written_as(tmp_path_factory: Any, rows: list[Any], block: int) -> None:
    path = write(tmp_path_factory.mktemp("x") / "x.jsonl", *rows)
    expected = [
        {
            "user": str(row["user"]),
            "item": str(row["item"]),
            "timestamp": round(row["timestamp"] * 10**6),
            "rating": row["rating"],
        }
        for row in rows
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "BLOCK", block)
        assert read(path) == expected


def test_whole_times_stay_exact_beside_other_numbers(tmp_path: Path) -> None:
    moment = 1_400_000_000_123_456_789
    rows = [{"user": n, "item": 1, "timestamp": moment, "rating": (4, 4.5)[n]} for n in range(2)]
    assert [row["timestamp"] for row in read(write(tmp_path / "x.jsonl", *rows))] == [moment // 1000] * 2
    rows[1]["user"] = "a"
    assert [row["timestamp"] for row in read(write(tmp_path / "x.jsonl", *rows))] == [moment // 1000] * 2


def test_plain_json_goes_the_fast_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_lines, "_slow", None)
    rows = [{"user": 1, "item": 2, "timestamp": time, "rating": rating} for time, rating in ((1, 5), (2.5, 4.5))]
    assert [row["rating"] for row in read(write(tmp_path / "x.jsonl", *rows))] == [5.0, 4.5]


def test_titles_that_are_numbers(tmp_path: Path) -> None:
    path = write(tmp_path / "i.jsonl", {"item": 1, "title": 1984}, {"item": "b", "title": "It"}, {"item": 3})
    assert tables.items(path).to_pydict() == {"item": ["1", "b", "3"], "title": ["1984", "It", ""]}


@pytest.mark.parametrize(
    "bad", ['{"user": true, "item": 1, "timestamp": 1}', '{"user": 1, "user": 2, "item": 1, "timestamp": 1}', "7", "{"]
)
def test_lines_that_are_no_rows_are_left_out_beside_mixed_ones(tmp_path: Path, bad: str) -> None:
    good = ['{"user": 1, "item": 1, "timestamp": 1}', '{"user": "a", "item": 1, "timestamp": 1}']
    (tmp_path / "x.jsonl").write_text("\n".join([good[0], bad, good[1]]))
    dropped: dict[str, int] = {}
    assert [row["user"] for row in read(tmp_path / "x.jsonl", dropped=dropped)] == ["1", "a"]
    assert dropped == {lines.DAMAGED: 1}
    with pytest.raises(DataError, match="line 2 cannot be read"):
        read(tmp_path / "x.jsonl")


def test_ratings_that_begin_late_are_not_passed_over(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"user": n, "item": 1, "timestamp": 1} for n in range(200)]
    assert len(read(write(tmp_path / "x.jsonl", *rows))) == 200
    path = write(tmp_path / "x.jsonl", *rows, {**rows[0], "rating": 5})
    for dropped in (None, {}):
        with pytest.raises(DataError, match="no 'rating' in its first lines, but further below"):
            read(path, dropped=dropped)
    assert len(read(path, rated=False)) == 201


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("asked", [None, ";", "tab", "^"])
@pytest.mark.parametrize("name", ["x.csv", "x.tsv"])
def test_the_header_tells_the_delimiter(tmp_path: Path, delimiter: str, asked: str | None, name: str) -> None:
    """Also with blanks around its names, and other delimiters within them and the cells."""
    text = delimiter.join([" user", '"a,b;c|d\te"', "item ", "timestamp"])
    cells = delimiter.join(["a", '",;|\t"', '"x,;|\ty"', "7"])
    (tmp_path / name).write_text(f"{text}\n{cells}\n")
    assert read(tmp_path / name, delimiter=asked) == [{"user": "a", "item": "x,;|\ty", "timestamp": 7 * 10**6}]


def test_another_delimiter_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("user^item^timestamp\na^b^7\n")
    assert read(tmp_path / "x.csv", delimiter="^")[0]["item"] == "b"
    with pytest.raises(DataError, match="say with --delimiter which character"):
        read(tmp_path / "x.csv")


@pytest.mark.parametrize("end", ["", "\n"])
def test_a_quote_that_takes_in_rows_is_told_and_one_that_does_not_is_read(tmp_path: Path, end: str) -> None:
    path = tmp_path / "i.tsv"
    path.write_text("\n".join(["item\ttitle", "a\tA", 'b\t"B', 'c\t"C']) + end)
    with pytest.raises(DataError, match=r"row 3 opens a quote .* closed in the middle of line 4"):
        tables.items(path)
    titles = ['"B', "two\nlines", 'a "word" in it', "tab\tand\n\nlines"]
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter="\t").writerows([("item", "title"), *enumerate(titles)])
    path.write_text(path.read_text() + "\n\n")
    assert tables.items(path)["title"].to_pylist() == titles


def test_views_of_text_in_parquet(tmp_path: Path) -> None:
    ids = pa.array(["a", "a name that is long enough to be no inline one"])
    table = pa.table({"user": ids.cast(pa.string_view()), "item": ids.cast(pa.binary_view()), "timestamp": [1, 2]})
    parquet.write_table(table, tmp_path / "x.parquet")
    assert [(row["user"], row["item"]) for row in read(tmp_path / "x.parquet")] == [(i, i) for i in ids.to_pylist()]
