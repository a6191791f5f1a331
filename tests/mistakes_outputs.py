"""Mistakes: taking a selection elsewhere, and asking why."""

from __future__ import annotations

import json
from pathlib import Path
from unittest import mock

import numpy as np
from mistakes import Mistake, ask

from prunebench.benchmark import exports
from prunebench.datasets.library import Library
from prunebench.datasets.schema import RecDataset, Sequences

TITLE = "Selections out, and explanations"
METHOD = '''"""Keeps the samples with the lowest ids."""
from prunebench.methods.base import Method, Selection


class Oldest(Method):
    """Says nothing of why."""

    name = "oldest"

    def select(self, samples, evidence, budget, runtime):
        return Selection(samples.ids[:budget])
'''


def shop(title: str = "A game") -> RecDataset:
    """40 users of three training items each, but for user 3, who has one."""
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 9, 3).tolist() for _ in range(40)]
    rows[3] = [1]
    part = Sequences.from_rows([[user % 9] for user in range(40)])
    titles = (title, *(f"Game {number}" for number in range(8)))
    return RecDataset("shop", titles, Sequences.from_rows(rows), part, part)


def _installed(folder: Path) -> None:
    Library(folder / "home").install(shop())


RUN = ("run", "--dataset", "shop", "--backbone", "sasrec", "--budget", "5", "--set", "backbone.epochs=1")


def _ran(folder: Path, *words: str, method: str = "random") -> None:
    if not (folder / "home").exists():
        _installed(folder)
    answer = ask(folder, (*RUN, "--method", method, *words))
    assert answer.code == 0, answer.err
    _renamed(folder)


def _renamed(folder: Path) -> None:
    """The new run is called `r1`, or `r2` if there is one: its own name follows from the code's version."""
    runs = folder / "home" / "runs"
    (new,) = (path for path in runs.glob("*/record.json") if len(path.parent.name) > 2)
    name = f"r{len(list(runs.glob('r?'))) + 1}"
    new.write_text(json.dumps(json.loads(new.read_text()) | {"run": name}))
    new.parent.rename(runs / name)


def _ran_twice(folder: Path) -> None:
    _ran(folder)
    _ran(folder, "--seed", "1")


def _ran_a_file(folder: Path) -> None:
    (folder / "oldest.py").write_text(METHOD)
    _ran(folder, "--plugin", "oldest.py", method="oldest")


def _edited(folder: Path) -> None:
    _ran_a_file(folder)
    (folder / "oldest.py").write_text(METHOD.replace("[:budget]", "[-budget:]"))


def _changed(folder: Path) -> None:
    _ran(folder)
    Library(folder / "home").install(shop("Another game"), overwrite=True)


def _referred(folder: Path) -> None:
    _installed(folder)
    assert ask(folder, ("run", "--dataset", "shop", "--backbone", "popular")).code == 0
    _renamed(folder)


def _written(folder: Path) -> None:
    _installed(folder)
    (folder / "kept.jsonl").write_text("mine\n")
    (folder / "thesis").mkdir()
    (folder / "thesis" / "chapter.tex").write_text("mine\n")


def _untouched(folder: Path) -> None:
    assert (folder / "kept.jsonl").read_text() == (folder / "thesis" / "chapter.tex").read_text() == "mine\n"
    assert sorted(path.name for path in folder.iterdir()) == ["home", "kept.jsonl", "thesis"]
    assert not (folder / "home" / "store").exists()


def _read_only() -> mock._patch:
    error = OSError(30, "Read-only file system", "tmp8dg2k1")
    return mock.patch.object(exports, "tempfile", mock.Mock(TemporaryFile=mock.Mock(side_effect=error)))


PRUNE = ("prune", "--dataset", "shop", "--method", "random", "--budget", "5")
CASES: list[Mistake] = [
    Mistake("a data set folder without a place for it", (*PRUNE, "--format", "hf"), ("give it by --out",)),
    Mistake("samples and JSON both on standard output", (*PRUNE, "--format", "jsonl", "--json"), ("a file by --out",)),
    Mistake("--overwrite of nothing", (*PRUNE, "--overwrite"), ("give that too",)),
    Mistake(
        "a file that is there already",
        (*PRUNE, "--format", "jsonl", "--out", "kept.jsonl"),
        ("kept.jsonl exists already", "--overwrite"),
        given=_written,
        after=_untouched,
    ),
    Mistake(
        "a file where a folder is",
        (*PRUNE, "--format", "jsonl", "--out", "thesis", "--overwrite"),
        ("thesis is a folder", "writes a file"),
        given=_written,
        after=_untouched,
    ),
    Mistake(
        "a data set in place of a folder with other things",
        (*PRUNE, "--format", "hf", "--out", "thesis", "--overwrite"),
        ("thesis holds", "no part of a selection"),
        given=_written,
        after=_untouched,
    ),
    Mistake(
        "a file in a folder that does not exist",
        (*PRUNE, "--out", "absent/kept.txt"),
        ("there is no folder", "make it first"),
        given=_written,
        after=_untouched,
    ),
    Mistake(
        "a file on a read-only disk",
        (*PRUNE, "--out", "kept.txt"),
        ("kept.txt: Read-only file system",),
        code=1,
        given=_written,
        after=_untouched,
        world=_read_only,
    ),
    Mistake(
        "a data set of no samples",
        (*PRUNE[:-1], "0", "--format", "hf", "--out", "kept"),
        ("a budget of 0 keeps no samples",),
        given=_installed,
    ),
    Mistake("an explanation before any run", ("explain", "7", "--run", "r1"), ("there are no runs",)),
    Mistake(
        "no name of a run",
        ("explain", "7", "--run", ""),
        ("its first letters",),
        given=_ran,
    ),
    Mistake(
        "a run that does not exist",
        ("explain", "7", "--run", "r1x"),
        ("no run is called 'r1x'", "did you mean r1"),
        given=_ran,
    ),
    Mistake("too few letters of a run", ("explain", "7", "--run", "r"), ("r1, r2", "more letters"), given=_ran_twice),
    Mistake("a user who is no sample", ("explain", "3", "--run", "r1"), ("a single training item",), given=_ran),
    Mistake("a user there is not", ("explain", "40", "--run", "r1"), ("its users are 0 … 39",), given=_ran),
    Mistake("a run without a selection", ("explain", "7", "--run", "r1"), ("has no selection",), given=_referred),
    Mistake("a data set changed since the run", ("explain", "7", "--run", "r1"), ("install the one",), given=_changed),
    Mistake("a run's plugin left out", ("explain", "7", "--run", "r1"), ("by --plugin FILE",), given=_ran_a_file),
    Mistake(
        "a run's plugin edited since",
        ("explain", "7", "--run", "r1", "--plugin", "oldest.py"),
        ("is not the one of run", "give the one it used"),
        given=_edited,
    ),
]
