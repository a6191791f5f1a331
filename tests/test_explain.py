"""`bench explain` as a user meets it: all facts, lines that fit, nothing in a title obeyed, one line for mistakes."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mistakes import Answer, ask

from prunebench.benchmark.explained import visible
from prunebench.datasets.library import Library
from prunebench.datasets.schema import RecDataset, Sequences, Strings

PLUGIN = '''
"""Keeps the samples with the highest ids."""
import numpy as np
from prunebench.methods.base import Explanation, Method, Selection, Step


class Newest(Method):
    """Says nothing of why."""

    name = "newest"

    def prepare(self, samples, signals, runtime):
        return {"age": samples.ids.astype(np.float32), "pair": np.stack([samples.ids, samples.ids], 1).astype(np.float32)}

    def evidence_key(self):
        return {}

    def select(self, samples, evidence, budget, runtime):
        return Selection(samples.ids[np.argsort(evidence["age"])[len(samples) - budget :]])


class Liar(Newest):
    """Says the opposite."""

    name = "liar"

    def explain(self, samples, evidence, chosen, runtime, position):
        kept = samples.ids[position] in chosen.ids
        return Explanation(not kept, (Step("lie", "[bold]as you like[/bold]", {"age": evidence["age"][position]}),))
'''
TITLES = (
    "[red]Red[/red]",
    "Two\nlines\x1b[31m and \u202e back",
    "مرحبا بالعالم",
    "",
    "A title of " + "many " * 200,
    *(f"Game {n}" for n in range(25)),
)


def shop() -> RecDataset:
    """60 users of 0 to 5 items; user 2 has 40, user 3 one, user 4 none; titles, labels and keys that tempt a terminal."""
    rng = np.random.default_rng(1)
    rows = [rng.integers(0, 30, rng.integers(2, 6)).tolist() for _ in range(60)]
    rows[2], rows[3], rows[4], rows[5] = list(range(30)) + [5] * 10, [1], [], [0, 1, 2, 3, 4]
    part = Sequences.from_rows([rng.integers(0, 30, 2).tolist() for _ in range(60)])
    return RecDataset(
        "shop",
        TITLES,
        Sequences.from_rows(rows),
        part,
        part,
        labels=np.array(["noise" if user % 7 == 0 else "clean" for user in range(60)]),
        user_keys=Strings.from_list([f"A{user}" for user in range(60)]),
        item_keys=Strings.from_list([f"B{item}" for item in range(30)]),
    )


FAST = ("--dataset", "shop", "--backbone", "sasrec", "--budget", "9", "--set", "backbone.epochs=1")
CCS = ("--method", "ccs", "--set", "surrogate.epochs=1", "--set", "importance_config.epochs=1", "--set", "groups=3")
RUNS = {
    "ccs": ("run", *FAST, *CCS),
    "random": ("run", *FAST, "--method", "random", "--seed", "4"),
    "newest": ("run", *FAST, "--method", "newest", "--plugin", "plug.py"),
    "liar": ("run", *FAST, "--method", "liar", "--plugin", "plug.py"),
    "popular": ("run", "--dataset", "shop", "--backbone", "popular"),
    "full": ("run", *FAST[:4], *FAST[6:], "--method", "full"),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A folder with a home of several runs, and their names."""
    folder = tmp_path_factory.mktemp("explain").resolve()
    Library(folder / "home").install(shop())
    (folder / "plug.py").write_text(PLUGIN)
    names = {}
    for name, words in RUNS.items():
        answer = ask(folder, (*words, "--json"))
        assert answer.code == 0, answer.err
        names[name] = json.loads(answer.out)["run"]
    return folder, names


Explain = Callable[..., Answer]


@pytest.fixture
def explain(world: tuple[Path, dict[str, str]]) -> Explain:
    folder, names = world

    def call(run: str, sample: int, *words: str, columns: int = 100) -> Answer:
        return ask(folder, ("explain", str(sample), "--run", names.get(run, run), *words), {"COLUMNS": str(columns)})

    return call


def selection_of(world: tuple[Path, dict[str, str]], run: str) -> list[int]:
    return [int(line) for line in (world[0] / "home" / "runs" / world[1][run] / "selection.txt").read_text().split()]


def test_json_holds_the_facts(explain: Explain, world: tuple[Path, dict[str, str]]) -> None:
    data, kept = shop(), selection_of(world, "ccs")
    for sample in (kept[0], 2, 5, 7):
        answer = explain("ccs", sample, "--json")
        assert answer.code == 0, answer.err
        found = json.loads(answer.out)
        assert (found["sample"], found["kept"]) == (sample, sample in kept)
        assert (found["run"], found["method"], found["budget"]) == (world[1]["ccs"], "ccs", 9)
        assert (found["user"], found["label"]) == (f"A{sample}", "clean" if sample % 7 else "noise")
        *history, target = data.train[sample].tolist()
        assert found["history"] == [{"item": item, "key": f"B{item}", "title": TITLES[item]} for item in history]
        assert found["target"] == {"item": target, "key": f"B{target}", "title": TITLES[target]}
        assert [entry["name"] for entry in found["evidence"]] == ["importance"]
        assert found["evidence"][0]["of"] == found["samples"] == len(data.samples())
        assert found["notes"]["strata"] <= 3
        assert found["made_again"] == []


def test_words_say_the_same(explain: Explain) -> None:
    found, answer = json.loads(explain("ccs", 7, "--json").out), explain("ccs", 7, columns=500)
    assert answer.code == 0, answer.err
    assert f"Sample 7 of shop was {'kept' if found['kept'] else 'not kept'} by ccs × sasrec" in answer.out
    assert "user A7" in answer.out
    assert "planted as: noise" in answer.out
    for number, step in enumerate(found["steps"], 1):
        assert f"{number}. {step['name']}: {step['says']}" in answer.out
    for item in found["history"]:
        assert f"(item {item['item']}, {item['key']})" in answer.out
    assert f"strata: {found['notes']['strata']}" in answer.out


@pytest.mark.parametrize("columns", [24, 40, 80])
def test_lines_fit_and_nothing_in_a_title_is_obeyed(explain: Explain, columns: int) -> None:
    for sample in (2, 5):
        lines = explain("ccs", sample, columns=columns).out.split("\n")
        assert max(map(len, lines)) <= columns
        assert not any("\x1b" in line or "\u202e" in line or line != line.rstrip() for line in lines)
    wide = explain("ccs", 5, columns=80).out
    assert "[red]Red[/red] (item 0, B0)" in wide
    assert r"Two\nlines\x1b[31m and \u202e back (item 1, B1)" in wide
    assert "(no title) (item 3, B3)" in wide
    assert re.search(r"A title of many[ many]*…? ?.*… \(item 4, B4\)", wide)


def test_of_a_long_history_the_latest_are_printed(explain: Explain) -> None:
    out = explain("random", 2).out
    assert "History, 39 items" in out
    assert "… 19 earlier ones" in out
    assert "  20  Game 14 (item 19, B19)" in out
    assert "Game 13 (" not in out


def test_other_methods_and_none(explain: Explain) -> None:
    assert "in a random order of all samples" in explain("random", 7, columns=200).out
    assert "samples are kept" in explain("full", 7).out
    answer = explain("newest", 59, "--plugin", "plug.py", columns=200)
    assert answer.code == 0, answer.err
    assert "age 59: rank 1 of 58" in answer.out
    assert "pair: a vector of 2 numbers" in answer.out
    assert "newest does not explain its choices" in answer.out
    assert "was kept by newest" in answer.out
    assert json.loads(explain("newest", 7, "--plugin", "plug.py", "--json").out)["steps"] is None


@pytest.mark.parametrize(
    ("run", "sample", "words", "said"),
    [
        ("absent", 7, (), "no run is called 'absent'"),
        ("", 7, (), "'' is no run: give a run's name or its first letters"),
        ("ccs", 60, (), "its users are 0 … 59"),
        ("ccs", 3, (), "user 3 of shop has a single training item"),
        ("ccs", 4, (), "user 4 of shop has no training item"),
        ("popular", 7, (), "has no selection"),
        ("newest", 7, (), "give it by --plugin FILE"),
        ("newest", 7, ("--plugin", "other.py"), "that came from a file of sha256"),
        ("liar", 7, ("--plugin", "plug.py"), "its explain and its select disagree"),
    ],
)
def test_what_cannot_be_explained_is_said_in_a_line(
    explain: Explain, world: tuple[Path, dict[str, str]], run: str, sample: int, words: tuple[str, ...], said: str
) -> None:
    (world[0] / "other.py").write_text(PLUGIN + "\n# edited\n")
    answer = explain(run, sample, *words)
    assert (answer.code, answer.out) == (2, ""), answer.err
    assert said in answer.line


@pytest.fixture
def copy(world: tuple[Path, dict[str, str]], tmp_path: Path) -> Path:
    """The folder again, to be spoilt."""
    shutil.copytree(world[0], tmp_path / "copy")
    return (tmp_path / "copy").resolve()


def test_artefacts_that_are_gone_are_made_again(copy: Path, world: tuple[Path, dict[str, str]]) -> None:
    words = ("explain", "7", "--run", world[1]["ccs"], "--json")
    before = json.loads(ask(copy, words).out)
    shutil.rmtree(copy / "home" / "store")
    answer = ask(copy, words)
    assert "gone from the store: trajectory, el2n, evidence, selection; made again" in answer.err
    again = json.loads(answer.out)
    assert again == before | {"made_again": ["trajectory", "el2n", "evidence", "selection"]}


def test_another_data_set_of_that_name_is_told_apart(copy: Path, world: tuple[Path, dict[str, str]]) -> None:
    Library(copy / "home").install(replace(shop(), titles=("Other", *TITLES[1:])), overwrite=True)
    answer = ask(copy, ("explain", "7", "--run", world[1]["ccs"]))
    assert (answer.code, "install the one it saw" in answer.line) == (2, True)


def test_a_selection_that_cannot_be_made_again_is_not_explained(copy: Path, world: tuple[Path, dict[str, str]]) -> None:
    path = copy / "home" / "runs" / world[1]["ccs"] / "record.json"
    record = json.loads(path.read_text())
    record["selection"]["sha256"] = "0" * 64
    path.write_text(json.dumps(record))
    answer = ask(copy, ("explain", "7", "--run", world[1]["ccs"]))
    assert (answer.code, "kept other samples than its configuration selects now" in answer.line) == (2, True)


def test_without_runs_there_is_nothing_to_explain(tmp_path: Path) -> None:
    answer = ask(tmp_path, ("explain", "7", "--run", "a"))
    assert (answer.code, "there are no runs" in answer.line) == (2, True)


def test_control_characters_are_written_out() -> None:
    assert visible("a\tb\x00\u2028\u202e") == r"a\tb\x00\u2028\u202e"
    assert visible("👩\u200d🚀 é ü 中文 مرحبا") == "👩\u200d🚀 é ü 中文 مرحبا"
