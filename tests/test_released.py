"""The released layout: what it means, that nothing in it is run, and one clear line for each way it can be broken."""

from __future__ import annotations

import csv
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from prunebench.datasets.files import load_released_npy
from prunebench.datasets.inspect import inspect
from prunebench.datasets.released import read_dealrec
from prunebench.datasets.schema import DataError

SHARED = Path(__file__).resolve().parents[2] / "shared"
TRAIN = {0: [0, 1, 2], 1: [3], 2: [2, 4]}
VALID = {0: [], 1: [0], 2: []}
TEST = {0: [4], 1: [], 2: []}
NAMES = {0: "Chess", 1: "Go", 2: "Go", 4: " Ludo"}


def save(path: Path, value: object) -> None:
    np.save(path, np.array(value, dtype=object), allow_pickle=True)


def sequential(rows: dict[int, list[int]]) -> str:
    return "".join(" ".join(str(number + 1) for number in (user, *row)) + " \n" for user, row in rows.items())


@pytest.fixture
def release(tmp_path: Path) -> Path:
    folder = tmp_path / "board games"
    folder.mkdir()
    for name, rows in (("training", TRAIN), ("validation", VALID), ("testing", TEST)):
        save(folder / f"{name}_dict.npy", rows)
    for name, rows in (("train", TRAIN), ("valid", VALID), ("test", TEST)):
        (folder / f"sequential_{name}.txt").write_text(sequential(rows))
    save(folder / "title_maps.npy", {"recid2title": NAMES})
    save(folder / "item_map.npy", {"B1": 0, "B2": 1, "B3": 2, "B4": 3, "B5": 4})
    return folder


def test_reads_what_was_written(release):
    data = read_dealrec(release, "board")
    assert [row.tolist() for row in data.train] == list(TRAIN.values())
    assert [row.tolist() for row in data.valid] == list(VALID.values())
    assert [row.tolist() for row in data.test] == list(TEST.values())
    assert data.titles == ("Chess", "Go", "Go", "", " Ludo")
    assert data.meta["missing_titles"] == "1"
    assert data.meta["checked_against"] == "sequential_train.txt sequential_valid.txt sequential_test.txt"


def test_text_files_and_item_map_are_optional(release):
    whole = read_dealrec(release, "board")
    for extra in (*release.glob("*.txt"), release / "item_map.npy"):
        extra.unlink()
    assert read_dealrec(release, "board").fingerprint == whole.fingerprint


def test_order_of_users_in_a_dictionary_does_not_matter(release):
    whole = read_dealrec(release, "board")
    save(release / "training_dict.npy", dict(reversed(TRAIN.items())))
    assert read_dealrec(release, "board").fingerprint == whole.fingerprint


@pytest.mark.parametrize(
    ("file", "value", "line"),
    [
        ("training_dict.npy", [1, 2], "holds a ndarray, not a dictionary"),
        ("training_dict.npy", {**TRAIN, 2: [2, 5]}, "user 2 has item 5, outside 0 … 4"),
        ("training_dict.npy", {**TRAIN, 2: [-1, 2]}, "user 2 has item -1, outside"),
        ("training_dict.npy", {**TRAIN, 2: [2, 2**40]}, "beyond 32 bits"),
        ("training_dict.npy", {**TRAIN, 2: [2, 1.5]}, "user 2 has an item that is no integer"),
        ("training_dict.npy", {**TRAIN, 2: [2, True]}, "user 2 has an item that is no integer"),
        ("training_dict.npy", {**TRAIN, 2: 4}, "user 2 has 4, not a list"),
        ("training_dict.npy", {0: [1], 2: [0], 3: [1]}, "has no user 1; every split must have users 0 … 2"),
        ("validation_dict.npy", {0: [], 1: []}, "has no user 2"),
        ("testing_dict.npy", {**TEST, 7: [1]}, "has a user 7"),
        ("title_maps.npy", {"titles": {}}, "no dictionary 'recid2title'"),
        ("title_maps.npy", {"recid2title": {0: 5}}, "maps 0 to 5"),
        ("title_maps.npy", {"recid2title": {9: "Nine"}}, "item 9, outside 0 … 4"),
        ("item_map.npy", {"B1": 0, "B2": 2}, "does not number its items 0 … 1"),
    ],
)
def test_contents_that_make_no_sense(release, file, value, line):
    save(release / file, value)
    with pytest.raises(DataError) as error:
        read_dealrec(release, "board")
    assert line in str(error.value)
    assert file in str(error.value)
    assert "\n" not in str(error.value)


def test_contradicting_text_file(release):
    path = release / "sequential_train.txt"
    path.write_text(sequential({**TRAIN, 1: [2]}))
    with pytest.raises(DataError, match=r"sequential_train.txt contradicts the dictionary at line 2 \(user 1\)"):
        read_dealrec(release, "board")
    path.write_text(sequential({**TRAIN, 2: [2]}))
    with pytest.raises(DataError, match="at line 3"):
        read_dealrec(release, "board")
    path.write_text(sequential(TRAIN) + "4 1\n")
    with pytest.raises(DataError, match="has 4 users, the dictionary has 3"):
        read_dealrec(release, "board")
    path.write_text("one two\n" * 3)
    with pytest.raises(DataError, match="no number"):
        read_dealrec(release, "board")


def test_missing_folder_and_files(release, tmp_path):
    with pytest.raises(DataError, match="is no folder"):
        read_dealrec(tmp_path / "nowhere", "board")
    (release / "testing_dict.npy").unlink()
    (release / "title_maps.npy").unlink()
    with pytest.raises(DataError, match=r"lacks testing_dict.npy, title_maps.npy"):
        read_dealrec(release, "board")


def test_every_truncation_is_noticed(release):
    path = release / "training_dict.npy"
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"training_dict.npy is cut short or no .npy file"):
            read_dealrec(release, "board")


class Runs:
    """Unpickles by calling something."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_nothing_a_pickle_asks_for_is_run(release, tmp_path, protocol):
    marker = tmp_path / "was run"
    path = release / "training_dict.npy"
    for evil in (Runs(os.mkdir, str(marker)), Runs(eval, f"open({str(marker)!r}, 'w')"), Runs(np.load, str(path))):
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
            pickle.dump({0: [0, evil]}, file, protocol=protocol)
        with pytest.raises(DataError, match=r"training_dict.npy asks to run \S+, which is not data; refused"):
            read_dealrec(release, "board")
        assert not marker.exists()


def test_the_trap_would_have_sprung(tmp_path):
    marker = tmp_path / "was run"
    pickle.loads(pickle.dumps(Runs(os.mkdir, str(marker))))
    assert marker.exists()


@pytest.mark.parametrize("core", [b"numpy.core", b"numpy._core"])
@pytest.mark.parametrize(
    "value",
    [{"a": [1, 2.5, "ü", None, True, (3, b"x"), {4}]}, {0: np.arange(3)}, {1: np.float32(2), 2: np.int64(3)}],
    ids=["builtins", "array", "scalars"],
)
def test_data_are_read_under_either_name_of_numpys_core(tmp_path, value, core):
    path = tmp_path / "value.npy"
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
        # Protocol 3 spells module names as lines of text, so that they can be replaced.
        text = pickle.dumps(value, protocol=3)
        file.write(text.replace(b"cnumpy._core.", b"c" + core + b".").replace(b"cnumpy.core.", b"c" + core + b"."))
    read = load_released_npy(path)
    assert repr(read) == repr(value)


def test_plain_arrays_are_read_too(tmp_path):
    np.save(tmp_path / "plain.npy", np.arange(6).reshape(2, 3))
    assert load_released_npy(tmp_path / "plain.npy").tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.real
def test_games_is_the_papers_games():
    folder = SHARED / "data" / "games"
    if not folder.is_dir():
        pytest.skip("no Games release beside the project")
    report = inspect(read_dealrec(folder, "games"))
    with (SHARED / "paper" / "table1_datasets.csv").open() as file:
        paper = next(row for row in csv.DictReader(file) if row["dataset"] == "games")
    for count in ("users", "items", "interactions"):
        assert report[count] == int(paper[count])
    assert report["density_percent"] == float(paper["density_percent"])
    assert report["samples"] == 45_774
    assert {split: part["users_with_target"] for split, part in report["splits"].items()} == {
        "train": 49_156,
        "valid": 9_609,
        "test": 8_696,
    }
    assert report["titles"]["distinct"] == 16_884
    assert report["titles"]["missing"] == 0
    assert round(report["cold"]["test_interactions_share"], 3) == 0.286
    assert report["cold"]["test_users_with_only_cold_targets"] == 2_173
    assert report["leaks"] == {"train-valid": 0, "train-test": 0, "valid-test": 0}
