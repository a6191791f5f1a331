"""`bench reproduce fig6` on a backbone that says its losses at once: from models, and from what was published."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from counted import install_counted
from mistakes import Answer, ask
from test_user_groups import TELLING

from prunebench.benchmark import reproduce
from prunebench.datasets.library import Library
from prunebench.leaderboard.user_groups import thirds

STUDY = """
methods = ["random", "newest"]
backbones = ["telling"]
datasets = ["tiny"]
budgets = [10]
seeds = [0, 1]
plugins = ["plug.py"]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    install_counted(tmp_path)
    (tmp_path / "plug.py").write_text(TELLING)
    (tmp_path / "fig6-mini.toml").write_text(STUDY)
    monkeypatch.setattr(reproduce, "STUDIES", tmp_path)
    return tmp_path


def fig6(folder: Path, *words: str) -> Answer:
    return ask(folder, ("reproduce", "fig6", *words))


def test_users_are_grouped_by_the_models_of_the_random_runs(folder: Path) -> None:
    asked = fig6(folder, "--out", "out")
    assert asked.code == 0, asked.err
    page = json.loads((folder / "out" / "fig6.json").read_text())
    (made,) = page["panels"][0]["groups"]
    data = Library(folder / "home").load("tiny")
    users = [user for user in range(data.n_users) if len(data.test[user])]
    slow = [
        np.mean([user * 0.5 + 10 * (len(data.train[user]) + len(data.valid[user])) + 100 * t for t in data.test[user]])
        for user in users
    ]
    assert made["losses"]["users"] == users
    assert made["losses"]["losses"] == pytest.approx(slow, rel=1e-5)
    assert made["group_of_user"] == thirds(np.array(users), np.array(slow)).tolist()
    runs = {path.parent.name: json.loads(path.read_text()) for path in (folder / "home" / "runs").glob("*/record.json")}
    assert made["losses"]["runs"] == sorted(name for name, run in runs.items() if run["method"] == "random")
    assert all(stage["stage"] != "user_losses" for run in runs.values() for stage in run["bill"])
    assert {row["method"] for row in made["rows"]} == {"random", "newest"}
    for row in made["rows"]:
        hits = []
        for name in (name for name, run in runs.items() if run["method"] == row["method"]):
            with np.load(folder / "home" / "runs" / name / "per_user.npz") as arrays:
                hits.append(arrays["unmasked_recall"][:, arrays["cutoffs"].tolist().index(10)])
        of_user = np.mean(hits, axis=0)
        for at, figures in enumerate(row["figures"]):
            inside = np.array(made["group_of_user"]) == at
            assert figures["R@10"]["mean"] == pytest.approx(of_user[inside].mean())

    written = {path.name: path.read_bytes() for path in (folder / "out").iterdir()}
    again = fig6(folder, "--no-run", "--out", "out")
    assert again.code == 0, again.err
    assert again.out == asked.out
    assert set(written) == {"fig6.md", "fig6.json", "fig6.svg", "fig6-dark.svg", "fig6.png"}
    assert written["fig6.md"].decode().splitlines()[-40:] == asked.out.splitlines()[-40:]
    assert "No groups yet" in fig6(folder, "--no-run").out
    elsewhere = folder / "elsewhere"
    (folder / "home" / "runs").rename(elsewhere)
    assert fig6(folder, "--records", "elsewhere", "--out", "out").code == 0
    assert {path.name: path.read_bytes() for path in (folder / "out").iterdir()} == written


def test_a_backbone_that_says_no_losses_is_told(folder: Path) -> None:
    (folder / "fig6-mini.toml").write_text(STUDY.replace("telling", "counted").replace("[0, 1]", "[0]"))
    asked = fig6(folder)
    assert asked.code == 2
    assert asked.line.startswith("backbone counted cannot say its losses")


@pytest.mark.parametrize("text", ["{", "{}", "[]"])
def test_a_page_that_is_none_is_told(folder: Path, text: str) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "fig6.json").write_text(text)
    asked = fig6(folder, "--no-run", "--out", "out")
    assert asked.code == 2
    assert asked.line.startswith("out/fig6.json is no page of `bench reproduce`")
    assert (folder / "out" / "fig6.json").read_text() == text
