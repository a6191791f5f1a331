"""Mistakes: disks that take nothing, memory that is used up, and what a newer version wrote."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from foreign_parts import BACKBONE, METHOD, plugin, shelf, source
from mistakes import Mistake, ask

from prunebench.datasets.files import read_json, write_manifest

TITLE = "The machine"
PRUNE = ("prune", "--method", "random", "--dataset", "tiny", "--budget", "9")
OWN = ("--dataset", "tiny", "--method", "kept", "--budget", "9", "--plugin", "plug.py")


def home_is_a_file(folder: Path) -> None:
    (folder / "home").write_text("mine")


def home_is_still_a_file(folder: Path) -> None:
    assert (folder / "home").read_text() == "mine"


def read_only() -> AbstractContextManager[Any]:
    """Files cannot be forbidden to the superuser, whom many tests run as; so no folder can be made."""
    return mock.patch("os.mkdir", side_effect=OSError(errno.EROFS, "Read-only file system", "$PRUNEBENCH_HOME/locks"))


def full() -> AbstractContextManager[Any]:
    """NumPy says no more than this of a disk that is full."""
    return mock.patch.object(np, "save", side_effect=OSError("9 requested and 0 written"))


def nothing_stored(folder: Path) -> None:
    assert not list(folder.glob("home/store/selection/*"))
    assert not list(folder.glob("home/scratch/*/*/output"))
    assert ask(folder, PRUNE).code == 0, "and with room again, the same command ends"


def own(prepare: str = "{}", fit: str = "self") -> Callable[[Path], None]:
    def given(folder: Path) -> None:
        parts = (
            source(METHOD, prepare=f"def prepare(self, samples, signals, runtime): return {prepare}"),
            source(BACKBONE, fit=f"def fit(self, samples, stop, runtime, folder): return {fit}"),
        )
        (folder / "plug.py").write_text("import torch\n" + plugin(*parts))
        shelf(folder)

    return given


def newer_artefact(folder: Path) -> None:
    shelf(folder)
    assert ask(folder, PRUNE).code == 0
    (made,) = folder.glob("home/store/selection/*")
    _rewrite(made / "artefact.json", format=7)
    write_manifest(made)


def newer_manifest(folder: Path) -> None:
    shelf(folder)
    assert ask(folder, PRUNE).code == 0
    (made,) = folder.glob("home/store/selection/*")
    _rewrite(made / "manifest.json", format=7, files={"ids.npy": {"blake3": "00"}})


def artefact_stays(folder: Path) -> None:
    (made,) = folder.glob("home/store/selection/*")
    assert 7 in (read_json(made / name)["format"] for name in ("artefact.json", "manifest.json"))
    assert (made / "ids.npy").is_file()


def newer_dataset(folder: Path) -> None:
    shelf(folder)
    _rewrite(folder / "home" / "datasets" / "tiny" / "meta.json", format=7)
    write_manifest(folder / "home" / "datasets" / "tiny")


def _rewrite(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**read_json(path), **values}))


CASES: list[Mistake] = [
    Mistake(
        "a home that is a file",
        ("prune", "--method", "random", "--budget", "9"),
        ("$PRUNEBENCH_HOME", "another PRUNEBENCH_HOME"),
        code=1,
        given=home_is_a_file,
        after=home_is_still_a_file,
    ),
    Mistake(
        "a home where no folder can be",
        ("prune", "--method", "random", "--budget", "9"),
        ("/dev/null/home", "Not a directory", "another PRUNEBENCH_HOME"),
        code=1,
        environment={"PRUNEBENCH_HOME": "/dev/null/home"},
    ),
    Mistake(
        "a home that is read-only",
        PRUNE,
        ("$PRUNEBENCH_HOME/locks: Read-only file system; check that the store is writable",),
        code=1,
        given=shelf,
        world=read_only,
    ),
    Mistake(
        "a disk that is full",
        PRUNE,
        ("no space left on the disk; free some space",),
        code=1,
        given=shelf,
        world=full,
        after=nothing_stored,
    ),
    Mistake(
        "memory that is used up",
        ("prune", *OWN),
        ("out of memory; use a smaller model, batch or data set",),
        code=1,
        given=own(prepare="{'score': np.zeros(10**15)}"),
    ),
    Mistake(
        "memory that is used up, says torch",
        ("run", "--backbone", "counts", *OWN),
        ("out of memory; use a smaller model, batch or data set",),
        code=1,
        given=own(fit="torch.zeros(10**15)"),
    ),
    Mistake(
        "memory of a GPU that is used up",
        ("run", "--backbone", "counts", *OWN),
        ("out of memory; use a smaller model, batch or data set",),
        code=1,
        given=own(
            fit="(_ for _ in ()).throw(torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB'))"
        ),
    ),
    Mistake(
        "an artefact of a newer version",
        PRUNE,
        ("was written by a newer prunebench (format 7, this one reads 1) and is left as it is; update prunebench",),
        code=1,
        given=newer_artefact,
        after=artefact_stays,
    ),
    Mistake(
        "an artefact of a newer version, down to its list of files",
        PRUNE,
        ("was written by a newer prunebench (format 7, this one reads 1) and is left as it is; update prunebench",),
        code=1,
        given=newer_manifest,
        after=artefact_stays,
    ),
    Mistake(
        "a data set that a newer version installed",
        PRUNE,
        ("data set 'tiny'", "was written by a newer prunebench (format 7, this one reads 1)", "update prunebench"),
        given=newer_dataset,
    ),
]
