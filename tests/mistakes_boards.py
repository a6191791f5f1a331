"""Mistakes with published leaderboards."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from board_world import USERS, run, runs, write_runs
from mistakes import Mistake

from prunebench.datasets.files import write_manifest

TITLE = "Leaderboards"
BUILD = ("leaderboard", "build", "--out", "board")
CHECK = ("leaderboard", "check", "--published", "board")


def _recorded(folder: Path) -> None:
    write_runs(folder / "home" / "runs", [*runs("random", (0.3, 0.34)), *runs("good", (0.6, 0.62))])


def _built(folder: Path) -> None:
    _recorded(folder)
    assert Mistake("", BUILD, ()).make(folder).code == 0


def _changed(folder: Path) -> None:
    _built(folder)
    path = folder / "board" / "leaderboard.md"
    path.write_text(path.read_text(encoding="utf-8").replace(".61", ".71", 1), encoding="utf-8")


def _one_missing(folder: Path) -> None:
    _built(folder)
    (folder / "board" / "leaderboard.csv").unlink()


def _newer(folder: Path) -> None:
    _built(folder)
    path = folder / "board" / "board.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"format": 1', '"format": 99'), encoding="utf-8")


def _spoilt(folder: Path) -> None:
    """A run whose users' metrics are whole, and those of another run."""
    _built(folder)
    runs_folder = folder / "home" / "runs"
    one, other = run("good", 0.6).record.run, run("random", 0.3).record.run
    shutil.copy(runs_folder / other / "per_user.npz", runs_folder / one / "per_user.npz")
    write_manifest(runs_folder / one)


def _other_users(folder: Path) -> None:
    _recorded(folder)
    write_runs(folder / "home" / "runs", [run("other", 0.5, users=np.arange(1, USERS + 1))])


def _nothing_there(folder: Path) -> None:
    assert not (folder / "board").exists()


CASES = [
    Mistake("a leaderboard without runs", BUILD, ("no runs on the test split", "bench run"), after=_nothing_there),
    Mistake(
        "a leaderboard of a data set without runs",
        (*BUILD, "--dataset", "shop"),
        ("no runs on the test split of shop", "there are runs on a (test)"),
        given=_recorded,
        after=_nothing_there,
    ),
    Mistake(
        "runs that were evaluated on different users",
        BUILD,
        ("was evaluated on other users of a than run", "run it again"),
        given=_other_users,
        after=_nothing_there,
    ),
    Mistake("a published folder that is not there", CHECK, ("'--published'", "'board' does not exist")),
    Mistake(
        "a published figure that was changed",
        CHECK,
        ("leaderboard.md, line", "(good on bigrec)", "bench leaderboard build --records"),
        given=_changed,
    ),
    Mistake("a published file that is missing", CHECK, ("leaderboard.csv is missing",), given=_one_missing),
    Mistake(
        "users' metrics that are another run's",
        CHECK,
        ("has a mean R@10 (unmasked) of 0.3, its record says 0.6", "run it again"),
        given=_spoilt,
    ),
    Mistake("a board of a newer prunebench", CHECK, ("board format 99", "update prunebench"), given=_newer),
]
