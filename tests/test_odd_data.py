"""Data sets at the edge: without validation or test users, with one user, one item, or no title to tell items by."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from counted import PLUGIN
from mistakes import Answer, ask
from tiny_llm import TITLES, make_llm

from prunebench.datasets.library import Library
from prunebench.datasets.schema import RecDataset, Sequences

Rows = Sequence[Sequence[int]]
USERS = 24
DRAW = np.random.default_rng(0)


def _rows(shortest: int, longest: int) -> Rows:
    return [DRAW.integers(0, 25, DRAW.integers(shortest, longest + 1)).tolist() for _ in range(USERS)]


TRAIN, VALID, TEST = _rows(2, 5), _rows(1, 2), _rows(1, 2)
NONE: Rows = [[]] * USERS
DATA: dict[str, tuple[Rows, Rows, Rows, Sequence[str]]] = {
    "no-test": (TRAIN, VALID, NONE, TITLES),
    "no-valid": (TRAIN, NONE, TEST, TITLES),
    "one-valid-user": (TRAIN, [[1], *NONE[1:]], TEST, TITLES),
    "only-train": (TRAIN, NONE, NONE, TITLES),
    "users-without-train": ([[], [], [], *TRAIN[3:]], VALID, TEST, TITLES),
    "one-sample": ([[1, 2], *([[3]] * (USERS - 1))], VALID, TEST, TITLES),
    "one-user": (TRAIN[:1], VALID[:1], TEST[:1], TITLES),
    "one-item": ([[0, 0, 0]] * USERS, [[0]] * USERS, [[0]] * USERS, TITLES[:1]),
    "one-item-taken": ([[3, 3]] * USERS, [[3]] * USERS, [[3]] * USERS, TITLES),
    "no-titles": (TRAIN, VALID, TEST, [""] * 25),
    "one-title": (TRAIN, VALID, TEST, ["red fox"] * 25),
}
HARD = ("only-train", "no-valid", "one-user", "one-item", "no-titles")
"""Those on which every kind of part is tried; on the others only the quickest."""
SMALL = ("--set", "surrogate.epochs=2", "--set", "surrogate.d=8")
COUNTED = ("--plugin", "plug.py", "--backbone", "counted")
SASREC = ("--backbone", "sasrec", "--set", "backbone.epochs=2", "--set", "backbone.d=8")
STEPS = ("max_steps=2", "eval_every=1", "batch=4", "micro_batch=4", "max_new_tokens=4", "grounding=llm")
BIGREC = ("--llm", "./llm", *(word for setting in STEPS for word in ("--set", f"backbone.{setting}")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("edge")
    for name, (*splits, titles) in DATA.items():
        train, valid, test = map(Sequences.from_rows, splits)
        Library(folder / "home").install(RecDataset(name, tuple(titles), train, valid, test))
    (folder / "plug.py").write_text(PLUGIN)
    make_llm(folder / "llm")
    return folder


def _works(folder: Path, *words: str) -> Answer:
    answer = ask(folder, words)
    assert answer.code == 0, answer.err
    return answer


@pytest.mark.parametrize("name", DATA)
def test_it_is_inspected_and_pruned(folder: Path, name: str) -> None:
    assert json.loads(_works(folder, "datasets", "inspect", name, "--json").out)["name"] == name
    budget = "1" if name.startswith("one-user") or name == "one-sample" else "3"
    for method in ("random", "herding") if name in HARD else ("random",):
        words = ("prune", "--dataset", name, *COUNTED, *SMALL, "--method", method, "--budget", budget)
        assert len(_works(folder, *words).out.split()) == int(budget)


@pytest.mark.parametrize("name", [name for name in DATA if name != "only-train"])
def test_it_is_run_where_there_is_something_to_evaluate_on(folder: Path, name: str) -> None:
    split = "valid" if name == "no-test" else "test"
    for backbone in (COUNTED, SASREC, BIGREC) if name in HARD else (COUNTED,):
        words = ("run", "--dataset", name, *backbone, "--method", "random", "--budget", "1", "--split", split, "--json")
        record = json.loads(_works(folder, *words).out)
        rows = DATA[name][1 if split == "valid" else 2]
        evaluated = sum(map(bool, rows))
        assert record["protocol"]["users_evaluated"] == (evaluated // 2 if split == "valid" else evaluated)
        assert all(0 <= value <= 1 for value in record["metrics"]["unmasked"]["recall"].values())


def test_one_item_is_always_found(folder: Path) -> None:
    words = ("run", "--dataset", "one-item", *COUNTED, "--method", "random", "--budget", "1", "--json")
    assert json.loads(_works(folder, *words).out)["metrics"]["unmasked"]["recall"]["10"] == 1


def test_a_surrogate_without_validation_users_is_trained_to_the_end_and_says_so(folder: Path) -> None:
    words = ("prune", "--dataset", "no-valid", *COUNTED, "--method", "moderate", "--budget", "3", *SMALL)
    said = _works(folder, *words, "--seed", "5").err
    assert "SASRec is not stopped early but trained for all 2 epochs" in said
