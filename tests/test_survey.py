"""`bench survey`: the table follows from the selections, failures stay in their rows, and nothing is built twice."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prunebench.benchmark import cli
from prunebench.datasets.library import Library
from prunebench.datasets.schema import RecDataset
from prunebench.datasets.synthetic import MiniConfig, generate
from prunebench.leaderboard.record import load_record, read_record, write_record
from prunebench.leaderboard.tables import VALIDATION_NOTE, leaderboard_markdown

PLUGIN = '''
"""Signals made of titles and of validation users, the methods that ask for them, and one that fails."""

import numpy as np
from prunebench.methods.base import Method, MethodError, Selection
from prunebench.recommenders.base import Config, Request


class _Ids:
    version, phase, seeded, Config = 1, "pruning", False, Config
    def needs(self, config, context): return {}
    def key(self, config, context): return {}
    def build(self, config, context, work): (work.folder / "x").write_text("x")
    def load(self, config, context, artefact): return np.arange(len(context.samples), dtype=np.float32)


class Words(_Ids):
    name, reads = "words", ("titles",)


class Peek(_Ids):
    name, reads = "peek", ("train", "select")
    def needs(self, config, context): return {"words": Request("words")}


class _Last(Method):
    signal: str
    def requests(self): return {"x": Request(self.signal)}
    def prepare(self, samples, signals, runtime): return {"x": signals["x"]}
    def select(self, samples, evidence, budget, runtime):
        print("selecting, on standard output")
        return Selection(np.sort(samples.ids[np.argsort(evidence["x"])[-budget:]]))


class Reader(_Last):
    name, signal = "reader", "words"


class Peeker(_Last):
    name, signal = "peeker", "peek"


class Unlucky(Method):
    name = "unlucky"
    def select(self, samples, evidence, budget, runtime): raise MethodError("no luck | today;\\ntry tomorrow")
'''
QUICK = ("--set", "surrogate.epochs=2", "--set", "surrogate.d=16")
Bench = Callable[..., tuple[int, str, str]]


def data() -> RecDataset:
    shape = {"genres": 4, "franchises_per_genre": 3, "instalments": 3, "platforms": 2, "editions": 4, "longest": 6}
    config = MiniConfig(users=160, valid_users=40, test_users=50, listed_twice=2, **shape)
    return replace(generate(config, 0), name="small")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    for name in ("small", "bare"):
        Library(folder).install(replace(data(), name=name, **({"labels": None} if name == "bare" else {})))
    (folder / "plug.py").write_text(PLUGIN)
    return folder


@pytest.fixture
def bench(home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Bench:
    monkeypatch.setenv("PRUNEBENCH_HOME", str(home))

    def call(*words: str, plugin: bool = True) -> tuple[int, str, str]:
        extra = ["--plugin", str(home / "plug.py")] if plugin else []
        monkeypatch.setattr(sys, "argv", ["bench", *words, *extra])
        capfd.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capfd.readouterr()
        return code, out, err

    return call


def built(home: Path) -> dict[str, int]:
    return {os.fspath(path): path.stat().st_mtime_ns for path in (home / "store").rglob("artefact.json")}


SURVEY = ("survey", "--dataset", "small", "--budget", "20", "--backbone", "popular", *QUICK)


def test_rows_say_what_pruning_says(bench: Bench, home: Path) -> None:
    code, out, err = bench(*SURVEY, "--methods", "random,k_center,reader,peeker,unlucky,dealrec", "--json")
    (survey,) = json.loads(out)["surveys"]
    rows = {row["method"]: row for row in survey["rows"]}
    assert list(rows) == ["random", "k_center", "reader", "peeker", "unlucky", "dealrec"]
    assert (survey["dataset"], survey["budget"], survey["seed"], survey["backbone"]) == ("small", 20, 0, "popular")
    # A method that fails, of a plugin or ours, has its reason and stops nobody.
    assert code == 1
    assert rows["unlucky"]["error"] == "no luck | today; try tomorrow"
    assert "popular has no effort score" in rows["dealrec"]["error"]
    assert [rows[name]["uses"] for name in ("random", "k_center", "reader", "peeker", "unlucky")] == [
        [],
        ["surrogate"],
        ["text"],
        ["text", "validation"],
        None,
    ]
    assert "[2/6] k_center on small, 20 samples" in err
    before, labels = built(home), data().labels
    assert labels is not None
    kept = {}
    for name in ("random", "k_center", "reader", "peeker"):
        words = ("prune", *SURVEY[1:], "--method", name, "--json")
        pruned = json.loads(bench(*words)[1])
        kept[name] = set(pruned["sample_ids"])
        row, bill = rows[name], pruned["bill"]
        assert row["seconds"] == pytest.approx(sum(stage["wall_s"] for stage in bill))
        assert row["peak_rss_mb"] == max(stage["peak_rss_mb"] for stage in bill)
        assert row["kept"]["noise"] == np.mean(labels[sorted(kept[name])] == "noise")
        assert row["kept"]["duplicate"] == np.mean(labels[sorted(kept[name])] == "duplicate")
        assert row["overlap"] == {"random": len(kept[name] & kept["random"]) / 20, "dealrec": None}
    assert built(home) == before, "a surveyed selection was made again"
    assert rows["unlucky"]["overlap"] == {"random": None, "dealrec": None}
    assert survey["planted"]["noise"] == pytest.approx(np.mean(labels[data().samples().ids] == "noise"))


def test_the_table_has_a_line_per_method_and_a_title(bench: Bench) -> None:
    methods = ("--methods", "k_center,unlucky")
    code, out, err = bench(*SURVEY, "--dataset", "bare", "--seed", "1", *methods)
    assert code == 1, err
    lines = out.splitlines()
    titles = [line for line in lines if line.startswith("## ")]
    assert [title.split(" · ")[:3] for title in titles] == [
        [f"## {name}", f"20 of {len(data().samples())} samples", "seed 1"] for name in ("small", "bare")
    ]
    headers = [line for line in lines if line.startswith("| method")]
    assert "noise kept" in headers[0]
    assert "noise kept" not in headers[1]
    assert sum(line.startswith("| unlucky") for line in lines) == 2
    assert len({line.count("|") for line in lines if line.startswith("|") and "noise" not in line}) == 2
    assert "no luck &#124; today" in out
    assert "Planted among all samples" in out


def test_only_what_succeeds_exits_with_0(bench: Bench) -> None:
    code, out, err = bench(*SURVEY, "--methods", "reader")
    assert code == 0, err
    assert "failed" not in out
    assert "selecting, on standard output" not in out


def test_a_setting_may_be_one_methods_own(bench: Bench) -> None:
    code, out, err = bench(*SURVEY, "--methods", "k_center,moderate", "--set", "moderate.clusters=3", "--json")
    assert code == 0, err
    rows = json.loads(out)["surveys"][0]["rows"]
    assert [row["settings"] for row in rows] == [[], ["clusters=3"]]
    assert "moderate clusters=3" in bench(*SURVEY, "--methods", "moderate", "--set", "moderate.clusters=3")[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--methods", "random,k_centre"), "did you mean k_center"),
        (("--methods", "full"), "leave it out"),
        (("--methods", ","), "give names with commas"),
        (("--dataset", "smal"), "small"),
        (("--budget", "0"), "selects nothing"),
        (("--budget", "5000"), "outside 0"),
        (("--set", "surrogate.epoch=2"), "epochs"),
        (("--backbone", "populer"), "popular"),
        (("--methods", "random", "--set", "moderate.clusters=3"), "not among the methods surveyed"),
        (("--methods", "random,ccs", "--set", "ccs.betta=0.2"), "did you mean beta"),
        (("--methods", "random,ccs", "--set", "ccs.beta=7"), "less than 1"),
        (("--methods", "random,ccs", "--set", "ccs"), "write it as key=value"),
        (("--methods", "random,ccs", "--set", "method.beta=0.2"), "ccs.beta=0.2"),
    ],
)
def test_a_mistake_is_told_before_anything_is_built(
    bench: Bench, home: Path, words: tuple[str, ...], said: str
) -> None:
    before = built(home)
    code, out, err = bench("survey", "--dataset", "small", *words)
    assert (code, out) == (2, ""), err
    assert said in err.strip().splitlines()[-1]
    assert built(home) == before


def test_a_method_without_settings_of_our_kind_is_told_so(bench: Bench, tmp_path: Path) -> None:
    plugin = tmp_path / "bare.py"
    plugin.write_text(
        "from prunebench.methods.base import Method\nclass Bare(Method):\n    Config = None\n    select = print\n"
    )
    code, out, err = bench("prune", "--dataset", "small", "--method", "bare", "--plugin", str(plugin), plugin=False)
    assert (code, out) == (2, "")
    assert "its Config must be a class" in err


def test_all_methods_but_full_are_surveyed_by_default(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from prunebench.benchmark.workbench import Workbench

    asked = []

    def prune(self: Workbench, run: Any, dataset: Any) -> Any:
        asked.append(run.method)
        raise MemoryError

    monkeypatch.setattr(Workbench, "prune", prune)
    code, out, _ = bench("survey", "--dataset", "small")
    assert code == 1
    names = {row["name"] for row in json.loads(bench("ls", "methods", "--json", plugin=False)[1])["methods"]}
    assert set(asked) == names - {"full"} | {"reader", "peeker", "unlucky"}
    assert out.count("out of memory") == len(set(asked))


# -- methods that look at validation users ---------------------------------------------------------------------------

RUN = ("run", "--dataset", "small", "--budget", "20", "--backbone", "sasrec", *QUICK)
RUN += ("--set", "backbone.epochs=1", "--set", "backbone.d=16")


def test_choosing_by_the_users_evaluated_on_is_refused_before_anything_is_built(bench: Bench, home: Path) -> None:
    before = built(home)
    for words in (("--method", "peeker"), ("--method", "goracs", "--set", "method.lam=0")):
        code, out, err = bench(*RUN, *words, "--split", "valid")
        assert (code, out) == (2, ""), err
        assert "chooses by validation users" in err.splitlines()[-1]
    assert built(home) == before
    assert bench(*RUN, "--method", "reader", "--split", "valid")[0] == 0


def test_the_record_and_the_board_say_who_looked_at_validation_users(bench: Bench, home: Path) -> None:
    records = []
    for method in ("peeker", "reader"):
        code, out, err = bench(*RUN, "--method", method, "--json")
        assert code == 0, err
        records.append(load_record(home / "runs" / json.loads(out)["run"] / "record.json"))
    peeker, reader = records
    assert peeker.protocol.reads["peek"] == ["train", "select"]
    assert not any("select" in parts for parts in reader.protocol.reads.values())
    board = leaderboard_markdown(records)
    assert "| peeker † " in board
    assert "| reader " in board
    assert board.count("†") == 2
    assert f"|\n\n{VALIDATION_NOTE}\n" in board
    assert "†" not in leaderboard_markdown([reader])
    # Evaluating on `select` is no sin of the method.
    protocol = {"split": "valid", "reads": {"evaluation": ["select"]}}
    developed = reader.model_copy(update={"protocol": reader.protocol.model_copy(update=protocol)})
    assert "†" not in leaderboard_markdown([read_record(write_record(developed))])
