"""Installed data sets: what goes in comes out, damage is noticed, and listing reads no data."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from prunebench.datasets import listing
from prunebench.datasets.files import MANIFEST, atomic_folder, read_json, verify, write_json
from prunebench.datasets.inspect import inspect
from prunebench.datasets.library import KNOWN, Library
from prunebench.datasets.schema import DataError, RecDataset, Sequences


def small(name: str = "small") -> RecDataset:
    return RecDataset(
        name,
        ("Chess", "Go", "", "Go", 'Zug "um" Zug – Ärger'),
        Sequences.from_rows([[0, 1, 0], [3], [], [2, 0]]),
        Sequences.from_rows([[3], [], [1], []]),
        Sequences.from_rows([[0, 4], [4], [], [2]]),
        labels=np.array(["clean", "noise", "clean", "duplicate"]),
        source="by hand",
        meta={"made": "today"},
    )


@pytest.fixture
def library(tmp_path) -> Library:
    return Library(tmp_path / "home")


@pytest.mark.parametrize("labels", [True, False])
def test_what_goes_in_comes_out(library, labels):
    data = small() if labels else replace(small(), labels=None)
    entry = library.install(data)
    back = library.load("small")
    assert back.fingerprint == data.fingerprint == entry["fingerprint"]
    assert (back.name, back.titles, back.source, back.meta) == (data.name, data.titles, data.source, data.meta)
    assert (back.labels is None) == (not labels)
    assert library.installed() == [entry]
    assert (entry["users"], entry["items"], entry["interactions"], entry["samples"]) == (4, 5, 12, 2)
    assert entry["density_percent"] == 60.0


def test_overwriting_has_to_be_asked_for(library):
    library.install(small())
    other = replace(small(), titles=("a", "b", "c", "d", "e"))
    with pytest.raises(DataError, match="'small' is installed already"):
        library.install(other)
    assert library.load("small").titles[0] == "Chess"
    library.install(other, overwrite=True)
    assert library.load("small").titles == other.titles
    assert not list(library.folder.glob("*.tmp"))


def test_leftovers_of_a_killed_install_are_cleared(library):
    ours = library.folder / f".small.{'0a' * 16}.tmp"
    others = library.folder / f".small.er.{'0a' * 16}.tmp"
    for folder in (ours, others):
        folder.mkdir(parents=True)
    library.install(small())
    assert not ours.exists()
    assert others.exists()
    assert [entry["name"] for entry in library.installed()] == ["small"]


def test_remove(library):
    library.install(small())
    library.remove("small")
    assert library.installed() == []
    with pytest.raises(DataError, match="not installed"):
        library.remove("small")


@pytest.mark.parametrize("name", ["", "Games", "../games", "a/b", ".hidden", "-x", "a b", "games\n"])
def test_names_that_are_no_folder_names(library, name):
    for attempt in (lambda: library.install(small(name)), lambda: library.load(name), lambda: library.remove(name)):
        with pytest.raises(DataError, match="is no data set name"):
            attempt()


def test_unknown_names_get_the_nearest(library):
    library.install(small("gomes"))
    with pytest.raises(DataError, match="'gmes' is not installed; did you mean gomes or games"):
        library.load("gmes")
    with pytest.raises(DataError, match="'book' is known but not installed"):
        library.load("book")


@pytest.mark.parametrize("file", ["arrays.npz", "titles.json", "meta.json", MANIFEST])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damage_is_noticed(library, file, damage):
    library.install(small())
    path = library.folder / "small" / file
    content = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        middle = len(content) // 2
        rest = bytes([content[middle] ^ 1]) + content[middle + 1 :] if damage == "flip" else b""
        path.write_bytes(content[:middle] + rest)
    with pytest.raises(DataError) as error:
        library.load("small")
    assert str(error.value).startswith("data set 'small' is damaged: ")
    assert str(error.value).endswith("import it again with --overwrite")
    assert "\n" not in str(error.value)
    library.install(small(), overwrite=True)
    assert library.load("small").fingerprint == small().fingerprint


def test_content_is_checked_even_where_checksums_agree(library):
    library.install(small())
    folder = library.folder / "small"
    with atomic_folder(folder, overwrite=True) as new:
        for file in ("arrays.npz", "meta.json"):
            (new / file).write_bytes((folder / file).read_bytes())
        write_json(new / "titles.json", ["a", "b", "c", "d", "e"])
    with pytest.raises(DataError, match="its content has fingerprint"):
        library.load("small")


def test_a_damaged_entry_is_listed_as_such(library):
    library.install(small())
    (library.folder / "small" / "meta.json").write_text("{")
    assert library.installed() == [{"name": "small", "damaged": True}]


def test_known_are_listed_until_installed(library):
    assert [entry["name"] for entry in KNOWN][:3] == ["games", "microlens-50k", "book"]
    assert listing.known(library.home) == list(KNOWN)
    library.install(small("games"))
    assert listing.known(library.home) == list(KNOWN)[1:]


def test_listing_loads_no_numpy():
    code = "import sys; import prunebench.datasets.listing; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_atomic_folder_leaves_nothing_behind_when_interrupted(tmp_path):
    target = tmp_path / "folder"
    with atomic_folder(target) as new:
        (new / "a").write_text("old")

    def interrupted() -> None:
        with atomic_folder(target, overwrite=True) as new:
            (new / "a").write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (target / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    with pytest.raises(DataError, match="exists already"), atomic_folder(target):
        pass


def test_verify_names_what_is_wrong(tmp_path):
    target = tmp_path / "folder"
    with atomic_folder(target) as new:
        (new / "deep").mkdir()
        (new / "deep" / "a").write_text("one")
        (new / "b").write_text("two")
    assert sorted(verify(target)["files"]) == ["b", "deep/a"]
    (target / "deep" / "a").write_text("eno")
    with pytest.raises(DataError, match=r"deep/a does not match its checksum"):
        verify(target)
    (target / "deep" / "a").unlink()
    with pytest.raises(DataError, match=r"deep/a is missing"):
        verify(target)
    with pytest.raises(DataError, match="does not exist"):
        verify(tmp_path / "nothing")


def test_json_is_whole_or_absent(tmp_path):
    path = tmp_path / "value.json"
    write_json(path, {"ü": [1, 2.5, None]})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"x": float("nan")})
    assert read_json(path) == {"ü": [1, 2.5, None]}
    assert [file.name for file in tmp_path.iterdir()] == ["value.json"]
    path.write_text("{")
    with pytest.raises(DataError, match="not readable JSON"):
        read_json(path)


def test_inspect_by_hand():
    report = json.loads(json.dumps(inspect(small())))
    assert report["splits"] == {
        "train": {"interactions": 6, "users_with_target": 3},
        "valid": {"interactions": 2, "users_with_target": 2},
        "test": {"interactions": 4, "users_with_target": 3},
    }
    assert report["samples"] == 2
    assert report["titles"] == {"distinct": 4, "items_sharing_a_title": 2, "missing": 1}
    assert report["cold"] == {
        "items_never_in_train": 1,
        "test_interactions": 2,
        "test_interactions_share": 0.5,
        "test_users_with_only_cold_targets": 1,
    }
    # User 0: item 0 three times; user 3: item 2 twice.
    assert report["repeats"] == {"interactions": 3, "share": 0.25}
    assert report["leaks"] == {"train-valid": 0, "train-test": 2, "valid-test": 0}
    assert report["labels"] == {"clean": 2, "duplicate": 1, "noise": 1}
    assert report["sequence_length"]["train"]["p50"] == 1.5
    # Training counts 0, 1, 1, 1, 3 over five items.
    assert report["popularity"]["gini"] == pytest.approx(2 * (2 + 3 + 4 + 15) / (5 * 6) - 6 / 5)
    assert len(report["problems"]) == 5
    assert all("\n" not in line for line in report["problems"])


def test_inspect_of_nothing():
    empty = Sequences.empty(0)
    report = json.loads(json.dumps(inspect(RecDataset("empty", (), empty, empty, empty))))
    assert (report["users"], report["items"], report["density_percent"]) == (0, 0, 0.0)
