"""Mistakes with published leaderboards."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from board_world import USERS, run, runs, write_runs
from mistakes import Mistake
from tampered import RECORDS, Run

from prunebench.datasets.files import write_manifest
from prunebench.leaderboard.archive import RECORD, pack
from prunebench.leaderboard.board import FORMAT

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


def _no_picture(folder: Path) -> None:
    _built(folder)
    (folder / "board" / "plots" / "a-bigrec-catalogue-10-cost-dark.svg").unlink()


def _newer(folder: Path) -> None:
    _built(folder)
    path = folder / "board" / "board.json"
    path.write_text(path.read_text(encoding="utf-8").replace(f'"format": {FORMAT}', '"format": 99'), encoding="utf-8")


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


RUN = "ce4a15960d3e"
"""A published run on mini."""
SUBMIT = ("leaderboard", "submit", RUN, "--out", "mine.zip")
VALIDATE = ("leaderboard", "validate", "theirs.zip")


def _own(folder: Path) -> None:
    shutil.copytree(RECORDS / RUN, folder / "home" / "runs" / RUN)


def _own_damaged(folder: Path) -> None:
    _own(folder)
    (folder / "home" / "runs" / RUN / "selection.txt").write_text("1\n2\n", encoding="utf-8")


def _own_local(folder: Path) -> None:
    """A run that was made with a model of this machine."""

    def local(run: Run) -> None:
        run.values["llm"] = run.values["config"]["backbone"]["llm"] = "/home/ada/llama"
        del run.values["config"]["surrogate"]

    made = folder / "home" / "runs" / RUN
    made.mkdir(parents=True)
    for name, content in Run(RECORDS / RUN).changed(local).items():
        (made / name).write_bytes(content)


def _taken(folder: Path) -> None:
    _own(folder)
    (folder / "mine.zip").write_bytes(b"something else")


def _theirs(content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / "theirs.zip").write_bytes(content) and None


def _better(run: Run) -> None:
    run.values["metrics"]["unmasked"]["recall"]["10"] += 0.1


def _known(folder: Path) -> None:
    """A board that has another record of the very run."""
    _theirs(pack({RUN: Run(RECORDS / RUN).changed(lambda run: None)}, ""))(folder)
    shutil.copytree(RECORDS / RUN, folder / "records" / RUN)
    path = folder / "records" / RUN / RECORD
    path.write_text(path.read_text(encoding="utf-8").replace("bench run", "bench --debug run"), encoding="utf-8")
    write_manifest(path.parent)


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
        "a published picture that is missing",
        CHECK,
        ("a-bigrec-catalogue-10-cost-dark.svg is missing", "bench leaderboard build --records"),
        given=_no_picture,
    ),
    Mistake(
        "users' metrics that are another run's",
        CHECK,
        ("has a mean R@10 (unmasked) of 0.3, its record says 0.6", "run it again"),
        given=_spoilt,
    ),
    Mistake("a board of a newer prunebench", CHECK, ("board format 99", "update prunebench"), given=_newer),
    Mistake("a run to submit that is not there", SUBMIT, ("there are no runs in", "`bench run` makes one")),
    Mistake(
        "a run to submit whose files were changed",
        SUBMIT,
        ("cannot be submitted: selection.txt does not match its checksum", "more)"),
        given=_own_damaged,
    ),
    Mistake(
        "a run to submit that names a folder of this machine",
        SUBMIT,
        ("names a path of this machine in llm: '/home/ada/llama'", "--with-paths"),
        given=_own_local,
    ),
    Mistake("a submission where another file is", SUBMIT, ("mine.zip exists already",), given=_taken),
    Mistake("nothing to validate", ("leaderboard", "validate"), ("give a file or folder to validate",)),
    Mistake("a submission that is not there", VALIDATE, ("'theirs.zip' does not exist",)),
    Mistake(
        "a submission that is no archive",
        VALIDATE,
        ("theirs.zip: is no zip archive", "`bench leaderboard submit` writes one"),
        given=_theirs(b"<html>404</html>"),
    ),
    Mistake(
        "a submission with a figure that was changed",
        VALIDATE,
        (f"theirs.zip, run '{RUN}': unmasked: recall@10: the mean over users is", "the record says"),
        given=_theirs(pack({RUN: Run(RECORDS / RUN).changed(_better)}, "")),
    ),
    Mistake(
        "a submission of a run that the board has otherwise",
        (*VALIDATE, "--add", "records"),
        ("records has another record of this run; nothing there is replaced",),
        given=_known,
    ),
    Mistake(
        "a run to compare that is not there",
        ("compare", RUN, "1234"),
        ("no run is called '1234'", "`bench ls runs` lists all"),
        given=_own,
    ),
]
