"""Public layouts, read from small files of our own against plain Python, and the entries of what can be fetched."""

from __future__ import annotations

import ast
import gzip
import hashlib
import html
import json
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import mistakes
import numpy as np
import public_files
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from public_files import ITEMS, archive, json_lines, products, reviews

from prunebench.datasets import amazon, layouts, lines, listing, microlens, movielens
from prunebench.datasets.library import Library
from prunebench.datasets.protocol import Protocol
from prunebench.datasets.schema import DataError, RecDataset
from prunebench.datasets.sources import GAMES, SOURCES

GAMES_HERE = Path(__file__).parents[2] / "shared" / "data" / "games"
LITERALS = "".join(f"{product!r}\n" for product in products()).encode()


def put(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def rows(batches: Iterator[pa.RecordBatch]) -> list[dict[str, Any]]:
    return list(chain.from_iterable(batch.to_pylist() for batch in batches))


def expected() -> list[dict[str, Any]]:
    return [
        {"user": row["reviewerID"], "item": row["asin"], "rating": row["overall"], "timestamp": row["unixReviewTime"]}
        for row in reviews()
    ]


# --- entries ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", SOURCES.values(), ids=list(SOURCES))
def test_an_entry_is_complete(source: Any) -> None:
    assert listing.NAME.fullmatch(source.name)
    assert source.address.startswith("https://")
    assert not source.address.endswith("/")
    assert len({file.name for file in source.files}) == len(source.files) > 0
    assert (source.checksums == "none published") == all(file.sha256 is None for file in source.files)
    for file in source.files:
        assert file.sha256 is None or re.fullmatch("[0-9a-f]{64}", file.sha256)
        assert not file.name.startswith(".")


@pytest.mark.real
@pytest.mark.skipif(not GAMES_HERE.is_dir(), reason="the real Games data set is not here")
def test_the_checksums_of_games_are_those_of_the_real_files() -> None:
    for file in GAMES.files:
        content = (GAMES_HERE / file.name).read_bytes()
        assert (file.size, file.sha256) == (len(content), hashlib.sha256(content).hexdigest())


def test_what_can_be_downloaded_is_listed(tmp_path: Path) -> None:
    answer = mistakes.ask(tmp_path, ("ls", "datasets"))
    for name in SOURCES:
        assert f"known, `bench datasets download {name}` installs it" in answer.out
    assert "`bench datasets import FOLDER --format dealrec --name book`" in answer.out


# --- lines ------------------------------------------------------------------------------------------------------------


def _digits(block: bytes) -> pa.Table:
    return pa.table({"n": pa.array([int(line) for line in block.split(b"\n") if line.strip()], pa.int64())})


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.one_of(st.integers(0, 999).map(str), st.just(""), st.sampled_from(["x", "1 2", "-"])), max_size=12),
    st.integers(1, 40),
    st.booleans(),
)
def test_lines_in_blocks_of_any_size_are_read_or_blamed(wanted: list[str], size: int, ends: bool) -> None:
    content = "\n".join(wanted).encode() + (b"\n" if ends else b"")
    good = [int(line) for line in wanted if line.isdigit()]
    bad = [number for number, line in enumerate(wanted, 1) if line and not line.isdigit()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "BLOCK", size)
        dropped: dict[str, int] = {}
        found = [row["n"] for table in _tables(content, dropped) for row in table.to_pylist()]
        assert (found, dropped.get(lines.DAMAGED, 0)) == (good, len(bad))
        if bad:
            with pytest.raises(DataError, match=rf"^here, line {bad[0]} cannot be read"):
                list(_tables(content, None))


def _tables(content: bytes, dropped: dict[str, int] | None) -> Iterator[pa.Table]:
    return lines.tables(pa.BufferReader(content), "here", _digits, dropped)


# --- Amazon -----------------------------------------------------------------------------------------------------------

LAYOUTS = {
    "2014": {"reviews_Beauty_5.json.gz": gzip.compress(json_lines(reviews())), "meta_Beauty.json.gz": gzip.compress(LITERALS)},
    "2018": {"Beauty_5.json.gz": gzip.compress(json_lines(reviews())), "meta_Beauty.json.gz": gzip.compress(json_lines(products()))},
    "unpacked": {"Beauty.json": json_lines(reviews()), "meta_Beauty.json": LITERALS},
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_amazon_of_either_year_reads_alike(tmp_path: Path, layout: str) -> None:
    found, titles = amazon.read(*amazon.find(put(tmp_path, LAYOUTS[layout])))
    assert rows(found) == expected()
    assert titles.to_pylist() == [{"item": f"B{item:03}", "title": f'It\'s "{item}"'} for item in range(ITEMS)]


@settings(deadline=None, max_examples=100)
@given(st.lists(st.text(max_size=30), min_size=1, max_size=5))
def test_any_title_survives_html_and_either_layout(texts: list[str]) -> None:
    wanted = [" ".join(text.split()) or None for text in texts]
    listed = [{"asin": f"{row}", "title": html.escape(text)} for row, text in enumerate(texts)]
    for content in (json_lines(listed), "".join(f"{product!r}\n" for product in listed).encode()):
        assert amazon.titles(amazon._products(content)["title"].combine_chunks()).to_pylist() == wanted


@pytest.mark.parametrize(
    ("title", "read"),
    [
        ("Pok&eacute;mon &amp; friends", "Pokémon & friends"),
        ("<span class='big'>A  <b>game</b></span>\n", "A game"),
        ("<span class='big'></span>", None),
        ("var aPageStart = (new Date()).getTime();\nvar ue_t0", None),
        ("<script>alert(1)</script>", None),
        ("<style>p {}", None),
        ("Love <3 you", "Love <3 you"),
        ("vector&lt;int&gt;", "vector<int>"),
        ("a < b > c", "a < b > c"),
        ("&nbsp;", None),
        (None, None),
    ],
)
def test_titles_are_text_not_markup(title: str | None, read: str | None) -> None:
    assert amazon.titles(pa.array([title], pa.string())).to_pylist() == [read]


def test_a_product_listed_twice_keeps_the_first_title_it_has(tmp_path: Path) -> None:
    listed = [
        {"asin": "a"},
        {"asin": "b", "title": "B"},
        {"asin": "a", "title": "<p>"},
        {"asin": "a", "title": "A"},
        {"asin": "a", "title": "Z"},
    ]
    (tmp_path / "meta").write_bytes(json_lines(listed))
    assert amazon.items(tmp_path / "meta").to_pylist() == [{"item": "a", "title": "A"}, {"item": "b", "title": "B"}]


DAMAGE = {
    "cut short": b'{"reviewerID": "A", "asin": "B", "overall": 5.0, "unixRev',
    "no user": b'{"asin": "B", "overall": 5.0, "unixReviewTime": 1}',
    "empty item": b'{"reviewerID": "A", "asin": "", "overall": 5.0, "unixReviewTime": 1}',
    "time in words": b'{"reviewerID": "A", "asin": "B", "overall": 5.0, "unixReviewTime": "today"}',
    "not UTF-8": b'{"reviewerID": "\xff", "asin": "B", "overall": 5.0, "unixReviewTime": 1}',
    "no object": b"[1, 2]",
    "no JSON": b"<html>",
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=list(DAMAGE))
@pytest.mark.parametrize("block", [1 << 24, 300])
def test_a_damaged_review_is_named_by_its_line(
    tmp_path: Path, damage: bytes, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "BLOCK", block)
    whole = json_lines(reviews()).splitlines(keepends=True)
    (tmp_path / "r.json").write_bytes(b"".join([*whole[:41], damage, b"\n", *whole[41:], damage]))
    with pytest.raises(DataError, match=r"r\.json, line 42 cannot be read .*--drop-bad-rows"):
        rows(amazon.interactions(tmp_path / "r.json"))
    dropped: dict[str, int] = {}
    assert rows(amazon.interactions(tmp_path / "r.json", dropped)) == expected()
    assert dropped == {lines.DAMAGED: 2}


@pytest.mark.parametrize(
    "line",
    [
        b"{'asin': __import__('pathlib').Path('run').touch()}",
        b"{'asin': 'B', 'title': 3}",
        b"{'title': 'no asin'}",
        b"{'asin': 'B', 'title': 'cut",
        b"{'asin': " + b"(" * 5000,
        b"{'asin', 'title'}",
        b"{'asin': '\xff'}",
    ],
)
def test_a_damaged_product_is_named_and_nothing_in_it_runs(
    tmp_path: Path, line: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("meta").write_bytes(LITERALS + line + b"\n")
    with pytest.raises(DataError, match=rf"meta, line {ITEMS + 1} cannot be read"):
        amazon.items(Path("meta"))
    dropped: dict[str, int] = {}
    assert len(amazon.items(Path("meta"), dropped)) == ITEMS
    assert dropped == {lines.DAMAGED: 1}
    assert [path.name for path in tmp_path.iterdir()] == ["meta"]


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_gzip_file_is_told(tmp_path: Path, damage: str) -> None:
    packed = gzip.compress(json_lines(reviews()))
    middle = len(packed) // 2
    content = {
        "cut": packed[:middle],
        "flipped": packed[:-6] + bytes([packed[-6] ^ 1]) + packed[-5:],
        "empty": gzip.compress(b""),
    }[damage]
    (tmp_path / "r.json.gz").write_bytes(content)
    if damage == "empty":
        assert rows(amazon.interactions(tmp_path / "r.json.gz")) == []
        with pytest.raises(DataError, match="has no products"):
            amazon.items(tmp_path / "r.json.gz")
    else:
        with pytest.raises(DataError, match=r"r\.json\.gz is cut short or damaged"):
            rows(amazon.interactions(tmp_path / "r.json.gz"))


@pytest.mark.parametrize("names", [[], ["meta_A.json"], ["A.json"], ["A.json", "B.json", "meta_A.json"], ["A.json", "meta_A.json", "meta_B.json.gz"]])  # fmt: skip
def test_a_folder_without_just_one_of_each_is_told(tmp_path: Path, names: list[str]) -> None:
    put(tmp_path, {**dict.fromkeys(names, b""), ".state.json": b"", "meta_C.json.gz.part": b""})
    with pytest.raises(DataError, match=r"must hold one file of .*--interactions and --items"):
        amazon.find(tmp_path)
    with pytest.raises(DataError, match="is no folder"):
        amazon.find(tmp_path / "absent")


# --- MovieLens and MicroLens ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["folder", "folder in it", "zip", "zip in folder", "zip with other folders"])
def test_movielens_in_a_folder_or_a_zip(tmp_path: Path, place: str) -> None:
    files = public_files.movielens()
    path = {
        "folder": lambda: put(tmp_path, files),
        "folder in it": lambda: put(tmp_path / "ml-1m", files).parent,
        "zip": lambda: put(tmp_path, {"any.zip": archive(files)}) / "any.zip",
        "zip in folder": lambda: put(tmp_path, {"ml-1m.zip": archive(files)}),
        "zip with other folders": lambda: put(tmp_path, {"ml-1m.zip": archive(files, "../../up/")}),
    }[place]()
    before = sorted(tmp_path.parent.rglob("*"))
    found, titles = movielens.read(path)
    assert rows(found) == [{**row, "user": row["user"][1:], "item": row["item"][1:]} for row in expected()]
    assert titles["title"].to_pylist() == [f'Léon, Part {item}: "The Pro" (19{item + 80})' for item in range(ITEMS)]
    assert sorted(tmp_path.parent.rglob("*")) == before


@pytest.mark.parametrize(
    "damage", [b"1::2::3", b"1::2::x::4", b"::2::3::4", b"1::2::3::4.5", b"1,2,3,4", b"1::2::3::4::5"]
)
def test_a_damaged_rating_is_named_by_its_line(tmp_path: Path, damage: bytes) -> None:
    files = public_files.movielens()
    whole = files["ratings.dat"].splitlines(keepends=True)
    files["ratings.dat"] = b"".join([*whole[:7], damage + b"\n", *whole[7:]])
    put(tmp_path, files)
    with pytest.raises(DataError, match=r"ratings\.dat, line 8 cannot be read"):
        rows(movielens.read(tmp_path)[0])
    dropped: dict[str, int] = {}
    assert len(rows(movielens.read(tmp_path, dropped)[0])) == len(whole)
    assert dropped == {lines.DAMAGED: 1}


def test_what_is_no_movielens_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        movielens.read(tmp_path / "absent")
    with pytest.raises(DataError, match=r"has neither ratings\.dat nor ml-1m\.zip"):
        movielens.read(tmp_path)
    put(
        tmp_path,
        {
            "ml-1m.zip": b"<html>",
            "other.zip": archive({"movies.csv": b""}),
            "cut.zip": archive(public_files.movielens())[:-99],
        },
    )
    with pytest.raises(DataError, match="is no zip file, or is cut short"):
        movielens.read(tmp_path)
    with pytest.raises(DataError, match="is no zip file, or is cut short"):
        movielens.read(tmp_path / "cut.zip")
    with pytest.raises(DataError, match=r"has no ratings\.dat; it is not MovieLens 1M"):
        movielens.read(tmp_path / "other.zip")


def test_microlens_with_titles_over_two_lines(tmp_path: Path) -> None:
    found, titles = microlens.read(put(tmp_path, public_files.microlens()))
    pairs = [(row["user"], row["item"]) for row in rows(found)]
    assert pairs == [(row["user"][1:], row["item"][1:]) for row in expected()]
    assert titles["title"].to_pylist() == [f'A "video", number\n{item} 🎬' for item in range(ITEMS)]
    times = [row["timestamp"] for row in rows(microlens.read(tmp_path)[0])]
    assert np.diff(times).tolist() == np.diff([row["timestamp"] * 1_000_000 for row in expected()]).tolist()
    (tmp_path / microlens.TITLES).unlink()
    with pytest.raises(DataError, match=r"has no MicroLens-50k_titles\.csv"):
        microlens.read(tmp_path)


# --- to a data set ----------------------------------------------------------------------------------------------------


def by_hand(kept: list[dict[str, Any]], title: dict[str, str]) -> dict[str, Any]:
    """The paper's protocol in plain Python: rating 4 or better, 8:1:1 in time, users without training left out."""
    kept = sorted((row for row in kept if row["rating"] >= 4), key=lambda row: row["timestamp"])
    parts = {
        "train": kept[: len(kept) * 8 // 10],
        "valid": kept[len(kept) * 8 // 10 : len(kept) * 9 // 10],
        "test": kept[len(kept) * 9 // 10 :],
    }
    users = sorted({row["user"] for row in parts["train"]})
    return {
        name: {user: [title.get(row["item"], "") for row in part if row["user"] == user] for user in users}
        for name, part in parts.items()
    }


def as_titles(dataset: RecDataset) -> dict[str, Any]:
    assert dataset.user_keys is not None
    return {
        split: {user: [dataset.titles[item] for item in row] for user, row in zip(dataset.user_keys, dataset.split(split), strict=True)}
        for split in ("train", "valid", "test")
    }  # fmt: skip


def test_a_public_layout_becomes_the_papers_data_set(tmp_path: Path) -> None:
    titles = {product["asin"]: html.unescape(product["title"]) for product in products()}
    dataset = layouts.read("amazon", put(tmp_path, LAYOUTS["2014"]), "beauty", Protocol())
    assert as_titles(dataset) == by_hand(expected(), titles)
    assert dataset.meta["item_noun"] == "product"
    reference = ast.literal_eval(LITERALS.splitlines()[0].decode())
    assert dataset.titles[0] == html.unescape(reference["title"])


@pytest.mark.parametrize("layout", ["amazon", "movielens-1m", "microlens-50k"])
def test_each_layout_is_imported_by_its_name(tmp_path: Path, layout: str) -> None:
    files = {
        "amazon": LAYOUTS["2018"],
        "movielens-1m": public_files.movielens(),
        "microlens-50k": public_files.microlens(),
    }
    put(tmp_path / "in", files[layout])
    words = ("datasets", "import", "in", "--format", layout, "--name", "it")
    answer = mistakes.ask(tmp_path, (*words, "--json"))
    assert answer.code == 0, answer.err
    entry = json.loads(answer.out)
    noun = {"amazon": "product", "movielens-1m": "movie", "microlens-50k": "video"}[layout]
    assert (entry["items"], entry["meta"]["item_noun"], entry["meta"]["missing_titles"]) == (ITEMS, noun, "0")
    assert Library(tmp_path / "home").load("it").n_items == ITEMS
    assert mistakes.ask(tmp_path, (*words, "--overwrite", "--noun", "thing", "--split", "none")).code == 0
    assert Library(tmp_path / "home").load("it").meta["item_noun"] == "thing"


def test_amazons_two_files_can_be_named(tmp_path: Path) -> None:
    put(tmp_path, {"r": json_lines(reviews()), "m": LITERALS})
    words = (
        "datasets",
        "import",
        "--format",
        "amazon",
        "--interactions",
        "r",
        "--items",
        "m",
        "--name",
        "it",
        "--json",
    )
    assert json.loads(mistakes.ask(tmp_path, words).out)["items"] == ITEMS
    swapped = mistakes.ask(tmp_path, (*words[:5], "m", "--items", "r", "--name", "two"))
    assert (swapped.code, swapped.line.startswith("m, line 1 cannot be read")) == (2, True)


def test_what_its_authors_split_is_not_split_again(tmp_path: Path) -> None:
    for asked, drop in ((Protocol(split="none"), False), (Protocol(k_core=5), False), (Protocol(), True)):
        with pytest.raises(DataError, match="was filtered and split by its authors"):
            layouts.read("dealrec", tmp_path, "games", asked, drop_bad_rows=drop)
    with pytest.raises(DataError, match="reads a folder, without --interactions and --items"):
        layouts.read("movielens-1m", (tmp_path, tmp_path), "it", Protocol())
