"""Mistakes: data sets."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from counted import COUNTED, install_counted, tiny
from mistakes import Mistake

from prunebench.datasets.files import write_manifest
from prunebench.datasets.library import Library
from prunebench.datasets.schema import RecDataset, Sequences

TITLE = "Data sets"
IMPORT = ("datasets", "import", "released", "--format", "dealrec", "--name", "mine")
TRAIN, VALID, TEST, TITLES = "training_dict.npy", "validation_dict.npy", "testing_dict.npy", "title_maps.npy"
Change = Callable[[Path], object]


class Runs:
    """A pickle that makes a folder when it is read."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


# --- the released layout ----------------------------------------------------------------------------------------------


def _released(folder: Path) -> Path:
    """Two users and four items in the released layout, with the text files that repeat them."""
    made = folder / "released"
    made.mkdir()
    parts = {TRAIN: {0: [0, 1, 2], 1: [2, 3]}, VALID: {0: [3], 1: []}, TEST: {0: [], 1: [0]}}
    for name, rows in parts.items():
        _save(name, rows)(made)
    for split, text in (("train", "1 1 2 3\n2 3 4\n"), ("valid", "1 4\n2\n"), ("test", "1\n2 1\n")):
        (made / f"sequential_{split}.txt").write_text(text)
    _save(TITLES, {"recid2title": {0: "a", 1: "b", 2: "c", 3: "d"}})(made)
    _save("item_map.npy", {"A": 0, "B": 1, "C": 2, "D": 3})(made)
    return made


def _save(name: str, value: Any) -> Change:
    return lambda folder: np.save(folder / name, value, allow_pickle=True)


def _write(name: str, content: bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(content)


def _import(case: str, change: Change, *said: str) -> Mistake:
    """What is said of the released layout with something wrong in it; and nothing in it ever runs."""

    def after(folder: Path) -> None:
        assert not (folder / "ran").exists()

    return Mistake(case, IMPORT, said, given=lambda folder: change(_released(folder)), after=after)


RELEASED = [
    Mistake("a released folder that is not there", IMPORT, ("released is no folder", "the one that holds")),
    _import("a released file is missing", lambda folder: (folder / TEST).unlink(), f"released lacks {TEST}"),
    _import(
        "a released file cut short",
        lambda folder: (folder / TRAIN).write_bytes((folder / TRAIN).read_bytes()[:-5]),
        f"released/{TRAIN} is cut short",
    ),
    _import(
        "an empty released file", _write(TRAIN, b""), f"released/{TRAIN} is cut short or no .npy file: it is empty"
    ),
    _import(
        "a .npy whose pickle tries to run code",
        lambda folder: _save(TRAIN, {0: Runs(folder.parent / "ran")})(folder),
        f"released/{TRAIN} asks to run {os.mkdir.__module__}.mkdir, which is not data; refused",
    ),
    _import(
        "a web page in a .npy's place",
        _write(TRAIN, b"<!DOCTYPE html><title>404</title>"),
        f"{TRAIN} is a web page, not the data; download it again",
    ),
    _import(
        "a git-lfs pointer in a .npy's place",
        _write(TRAIN, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        f"{TRAIN} is a git-lfs pointer, not the data",
        "git lfs pull",
    ),
    _import("a list in a dictionary's place", _save(TRAIN, np.arange(3)), f"{TRAIN} holds a ndarray, not a dictionary"),
    _import("splits with different users", _save(VALID, {0: [3], 7: []}), f"{VALID} has no user 1", "users 0 … 1"),
    _import("a user too many in a split", _save(VALID, {0: [3], 1: [], 2: []}), f"{VALID} has a user 2"),
    _import("an item out of range", _save(TEST, {0: [], 1: [4]}), f"{TEST}: user 1 has item 4, outside 0 … 3"),
    _import(
        "an item that is no number", _save(TEST, {0: [], 1: ["x"]}), f"{TEST}: user 1 has an item that is no integer"
    ),
    _import("a user without a list", _save(TEST, {0: [], 1: None}), f"{TEST}: user 1 has None, not a list of items"),
    _import("titles without their dictionary", _save(TITLES, {}), f"{TITLES} has no dictionary 'recid2title'"),
    _import(
        "items that are numbered twice", _save("item_map.npy", {"A": 0, "B": 0}), "does not number its items 0 … 1"
    ),
    _import(
        "a text file that contradicts its dictionary",
        _write("sequential_test.txt", b"1\n2 2\n"),
        "sequential_test.txt contradicts the dictionary at line 2",
    ),
    _import(
        "a text file with words",
        _write("sequential_test.txt", b"1\n2 x\n"),
        "sequential_test.txt holds something that is no number",
    ),
    _import(
        "a title that cannot be written as UTF-8",
        _save(TITLES, {"recid2title": {0: "half a pair: \ud83d", 1: "b", 2: "c", 3: "d"}}),
        "the title of item 0 cannot be written as UTF-8",
    ),
    _import(
        "a data set without any interaction",
        lambda folder: (
            [_save(name, {})(folder) for name in (TRAIN, VALID, TEST)]
            + [path.unlink() for path in folder.glob("*.txt")]
        ),
        "has no training interaction",
    ),
]


# --- names ------------------------------------------------------------------------------------------------------------


def _name(case: str, name: str, *said: str) -> Mistake:
    def given(folder: Path) -> None:
        install_counted(folder)
        _released(folder)

    return Mistake(case, (*IMPORT[:-1], name), said, given=given)


NAMES = [
    _name("a name that is taken", "tiny", "data set 'tiny' is installed already", "--overwrite"),
    _name("the name of a built-in data set", "mini", "'mini' is a built-in data set"),
    _name("a name with capitals", "Mine", "'Mine' is no data set name: use a-z"),
    _name("a name that is a path", "../mine", "'../mine' is no data set name"),
    _name("an empty name", "", "'' is no data set name"),
    _name("a name too long for a folder", "m" * 65, "is no data set name", "at most 64"),
    Mistake(
        "a taken name and a folder that is not there: the name comes first",
        (*IMPORT[:-1], "tiny"),
        ("data set 'tiny' is installed already",),
        given=install_counted,
    ),
]


# --- what is installed ------------------------------------------------------------------------------------------------


def _installed(case: str, change: Change, *said: str, words: tuple[str, ...] = ("run", *COUNTED)) -> Mistake:
    def given(folder: Path) -> None:
        install_counted(folder)
        change(folder / "home" / "datasets" / "tiny")

    return Mistake(case, words, said, given=given)


def _flip(name: str) -> Change:
    def change(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)

    return change


def _newer(folder: Path) -> None:
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(meta | {"format": 99}))
    write_manifest(folder)


def _renamed(folder: Path) -> None:
    folder.rename(folder.with_name("other"))


INSTALLED = [
    _installed(
        "a flipped bit in an installed data set", _flip("arrays.npz"), "data set 'tiny' is damaged", "--overwrite"
    ),
    _installed("a flipped bit in its titles", _flip("titles.json"), "titles.json does not match its checksum"),
    _installed("a file of it is gone", lambda folder: (folder / "arrays.npz").unlink(), "arrays.npz is missing"),
    _installed("it was installed by a newer version", _newer, "written by a newer prunebench", "update prunebench"),
    _installed(
        "its folder was renamed",
        _renamed,
        "data set 'other' is damaged: its folder was renamed from 'tiny'",
        words=("datasets", "inspect", "other"),
    ),
]


# --- what it holds ----------------------------------------------------------------------------------------------------

Rows = Sequence[Sequence[int]]
SEEN = tuple(tuple(row.tolist()) for row in tiny().train)
NONE: Rows = [[]] * len(SEEN)


def _holds(train: Rows, valid: Rows, test: Rows) -> Change:
    def given(folder: Path) -> None:
        install_counted(folder)
        parts = (Sequences.from_rows(rows) for rows in (train, valid, test))
        Library(folder / "home").install(RecDataset("tiny", tiny().titles, *parts), overwrite=True)

    return given


def _content(case: str, given: Change, words: tuple[str, ...], *said: str, code: int = 2) -> Mistake:
    return Mistake(case, words, said, code=code, given=given)


BUDGET = ("--budget", "5")
HERDING = ("prune", *COUNTED[:-1], "herding", *BUDGET, "--set", "surrogate.epochs=1", "--set", "surrogate.d=8")
CONTENT = [
    _content(
        "no test interactions to evaluate on",
        _holds(SEEN, SEEN, NONE),
        ("run", *COUNTED, *BUDGET),
        "data set tiny has no test interactions to evaluate on; choose --split valid",
    ),
    _content(
        "no validation interactions to evaluate on",
        _holds(SEEN, NONE, SEEN),
        ("run", *COUNTED, *BUDGET, "--split", "valid"),
        "data set tiny has no valid interactions to evaluate on; choose --split test",
    ),
    _content(
        "nothing to evaluate on",
        _holds(SEEN, NONE, NONE),
        ("run", *COUNTED, *BUDGET),
        "no test interactions to evaluate on; `bench prune` needs none",
    ),
    _content(
        "no user with two training items",
        _holds([[1]] * len(SEEN), SEEN, SEEN),
        ("prune", *COUNTED, *BUDGET),
        "no user with two training items or more, so no sample",
    ),
    _content(
        "a method that reads validation users, where there are none",
        _holds(SEEN, NONE, SEEN),
        ("prune", *COUNTED[:-1], "goracs", *BUDGET),
        "no validation users that a method may read; choose a method that needs none",
    ),
    _content(
        "a surrogate without validation users to stop on",
        _holds(SEEN, NONE, NONE),
        HERDING,
        "SASRec is not stopped early but trained for all 1 epochs",
        "surrogate.epochs",
        code=0,
    ),
]

CASES: list[Mistake] = [*RELEASED, *NAMES, *INSTALLED, *CONTENT]
