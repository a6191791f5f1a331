"""Mistakes in the study files of `bench sweep`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from counted import install_counted
from mistakes import Mistake

TITLE = "Studies"
SWEEP = ("sweep", "study.toml")
SMALL = 'methods = ["random"]\nbackbones = ["counted"]\ndatasets = ["tiny"]\nbudgets = [5]\nplugins = ["plug.py"]\n'
"""A study without a mistake, in the folder of ``install_counted``."""


def _study(content: str, name: str = "study.toml") -> Callable[[Path], None]:
    def given(folder: Path) -> None:
        install_counted(folder)
        (folder / name).write_text(content)

    return given


def _recorded(folder: Path) -> None:
    _study(SMALL)(folder)
    assert Mistake("", SWEEP, ()).make(folder).code == 0


@contextmanager
def _without_ray() -> Iterator[None]:
    """As where the extra is not installed."""
    package, name = sys.modules["prunebench.benchmark"], "prunebench.benchmark.ray_engine"
    with mock.patch.dict(sys.modules, {"ray": None}), mock.patch.dict(vars(package)):  # type: ignore[dict-item]
        sys.modules.pop(name, None)
        vars(package).pop("ray_engine", None)
        yield


def _wrong(case: str, content: str, *said: str) -> Mistake:
    return Mistake(case, SWEEP, said, given=_study(content))


CASES = [
    Mistake("a study that is not there", SWEEP, ("cannot read the study study.toml",)),
    _wrong("a study that is no TOML", "methods = [", "the study study.toml is not valid TOML"),
    _wrong(
        "an unknown key in a study", 'metods = ["random"]\n', "study study.toml", "'metods'", "did you mean methods?"
    ),
    _wrong("a name where a list belongs", 'methods = "random"\n', "methods = 'random'", "valid list"),
    _wrong("a study without methods", "methods = []\n", "methods = []", "at least 1 item"),
    _wrong("seeds of a study in words", 'seeds = ["one"]\n', "seeds", "give different whole numbers, e.g. [0, 1, 2]"),
    _wrong("a seed twice in a study", "seeds = [1, 1]\n", "seeds = [1, 1]", "different whole numbers"),
    _wrong("misspelt seeds to cross", "seeds = {selction = [0]}\n", "'selction'", "did you mean selection?"),
    _wrong("a method twice in a study", 'methods = ["random", "random"]\n', "methods name random twice"),
    _wrong("a budget that is a fraction", "budgets = [0.1]\n", "budget = 0.1", "a number or text such as 2%"),
    _wrong(
        "one value to vary", SMALL + '[vary]\n"counted.smoothing" = 1\n', "vary counted.smoothing = 1", "[settings]"
    ),
    _wrong(
        "a setting of a method that the study has not",
        SMALL + '[settings]\n"dealrek.lam" = 1\n',
        "'dealrek.lam' is no setting of a section, method or backbone of this study",
    ),
    _wrong(
        "seeds among the settings of a study", SMALL + '[settings]\n"seeds.finetune" = 1\n', "at the top of the study"
    ),
    _wrong(
        "an exclusion that fits no run",
        SMALL + '[[exclude]]\nmethod = "randon"\n',
        "exclude {method = 'randon'} fits no run",
    ),
    _wrong("a study that excludes all it has", SMALL + '[[exclude]]\nmethod = "random"\n', "everything is excluded"),
    _wrong(
        "a preset in a study whose backbones have none",
        SMALL.replace("budgets", 'preset = "x"\nbudgets'),
        "preset is set",
    ),
    _wrong(
        "several mistakes in a study: all are told at once",
        SMALL.replace('"random"', '"randon", "newest"') + '[vary]\n"newest.broke" = ["few"]\n',
        "study study has 2 mistakes: (1) unknown method 'randon'",
        "(2) method newest has no setting 'broke'; did you mean broken?",
    ),
    Mistake(
        "a sweep over records that are there, told to write none anew",
        (*SWEEP, "--on-exists", "never"),
        ("study study: 1 of 1 runs are recorded already", "leave out --on-exists never"),
        given=_recorded,
    ),
    Mistake(
        "a cluster's address for an engine that has none",
        (*SWEEP, "--address", "auto"),
        ("--address is for --engine ray",),
        given=_study(SMALL),
    ),
    Mistake(
        "the engine Ray without Ray",
        (*SWEEP, "--engine", "ray"),
        ("--engine ray needs Ray, which is not installed: pip install 'prunebench[ray]'",),
        given=_study(SMALL),
        world=_without_ray,
    ),
    Mistake(
        "an address that is none",
        (*SWEEP, "--engine", "ray", "--address", "head"),
        ("--address head: give auto, or HOST:PORT",),
        given=_study(SMALL),
    ),
    Mistake(
        "an address where no cluster is",
        (*SWEEP, "--engine", "ray", "--address", "127.0.0.1:1"),
        ("--address 127.0.0.1:1: nobody answers there", "start a cluster with `ray start --head`"),
        given=_study(SMALL),
    ),
]
