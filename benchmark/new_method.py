"""`bench new-method`: a working method in one file, its conformance test, and how to go on from there."""

from __future__ import annotations

import importlib.util
import json
import keyword
import os
import re
import shlex
from pathlib import Path

import click

from prunebench.benchmark.plugins import RESERVED, PluginError, Registry

METHOD = '''\
"""@CLASS@: the most typical users by their vectors, and a few at random (say here in one line what it keeps)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field

from prunebench.datasets.schema import Samples
from prunebench.methods import selection
from prunebench.methods.base import Evidence, Method, Selection
from prunebench.recommenders.base import Config, Request
from prunebench.recommenders.runtime import Runtime


class @CLASS@(Method):
    """Users whose vector is nearest the mean come first; a share of the budget is drawn at random from the others.

    A place for the source: the equation, the paper with its authors, venue and year.
    """

    name = "@NAME@"
    version = 1  # raise it whenever the same settings give other results: what is stored is then made again

    class Config(Config):
        """Every knob, with its bounds; `--set method.random_share=0.2` sets one."""

        random_share: float = Field(
            default=0.1, ge=0, le=1, allow_inf_nan=False, description="share of the budget drawn at random"
        )

    def requests(self) -> dict[str, Request]:
        """What the harness builds for `prepare`, stores and bills: one vector per user, of the trained surrogate."""
        return {"vectors": Request("user_vectors", {"source": "surrogate"})}

    def evidence_key(self) -> dict[str, Any]:
        """The settings that `prepare` reads: none here, `random_share` matters to `select` alone."""
        return {}

    def prepare(self, samples: Samples, signals: Mapping[str, Any], runtime: Runtime) -> Evidence:
        """All that is expensive and the same for every budget: a float32 per sample, stored and reused."""
        vectors = np.asarray(signals["vectors"], np.float64)
        # The mean is summed in the order of the ids, so that it is the same for any order of the samples.
        centre = vectors[np.argsort(samples.ids)].mean(axis=0)
        return {"distance": np.linalg.norm(vectors - centre, axis=1).astype(np.float32)}

    def select(self, samples: Samples, evidence: Evidence, budget: int, runtime: Runtime) -> Selection:
        """Exactly `budget` ids; ties and draws by a hash of (seed, id), so that the order of the samples is no matter."""
        seed = runtime.derive("@NAME@ selection")
        ranked = selection.top(-evidence["distance"], samples.ids, len(samples), seed)
        typical = budget - round(self.config.random_share * budget)
        rest = ranked[typical:]
        drawn = rest[selection.uniform(samples.ids[rest], budget - typical, seed)]
        return selection.selection(samples, np.concatenate([ranked[:typical], drawn]), typical=typical)
'''
TEST = '''\
"""@CLASS@ keeps the contract of a pruning method; a failure says in words what to do."""

from @NAME@ import @CLASS@

from prunebench.methods.testing import check_method


def test_@NAME@_keeps_the_contract() -> None:
    check_method(@CLASS@)
    check_method(@CLASS@, {"random_share": 0.5})
'''


def create(name: str, out: Path, as_json: bool) -> None:
    """Write NAME.py and test_NAME.py to ``out`` and say how to go on. Raises PluginError before anything is written."""
    _check_name(name)
    paths = [out / f"{name}.py", out / f"test_{name}.py"]
    if out.exists() and not out.is_dir():
        raise PluginError(f"--out {out} is a file; give a folder")
    for path in paths:
        if os.path.lexists(path):
            raise PluginError(f"{path} is there already; remove it, or choose another name or --out")
    made = _class_name(name)
    written: list[Path] = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        for path, text in zip(paths, (METHOD, TEST), strict=True):
            with path.open("x", encoding="utf-8") as file:
                written.append(path)
                file.write(text.replace("@CLASS@", made).replace("@NAME@", name))
    except OSError as error:
        for path in written:
            path.unlink(missing_ok=True)
        if isinstance(error, (FileNotFoundError, NotADirectoryError, FileExistsError)):
            raise PluginError(f"{out} cannot be a folder here ({error.strerror}); give another by --out") from None
        raise
    if as_json:
        click.echo(json.dumps({"name": name, "class": made, "files": [str(path) for path in paths]}, indent=1))
    else:
        click.echo(_how(name, made, *(shlex.quote(str(path)) for path in paths)), nl=False)


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise PluginError(
            f"{name!r} cannot name a method and its Python file: use lower-case letters, digits and _, "
            "a letter first, and no word of Python's own"
        )
    if name in RESERVED or name == "conftest" or name.startswith("test_") or len(name) > 64:
        raise PluginError(
            f"{name[:64]!r} means something else to bench, pytest or the file system; choose another name"
        )
    registry = Registry()
    if name in registry.names("methods"):
        owner = registry.origin("methods", name).source
        raise PluginError(
            f"method {name!r} is already taken by {owner}; choose another name, e.g. my_{name} "
            "(`bench ls methods` lists all)"
        )
    if importlib.util.find_spec(name) is not None:
        raise PluginError(f"{name}.py would hide the Python module {name!r}; choose another name, e.g. my_{name}")


def _class_name(name: str) -> str:
    """In capitals, and not one of the names that the file imports."""
    made = "".join(part.capitalize() for part in name.split("_"))
    return f"{made}Method" if keyword.iskeyword(made) or re.search(rf"\b{made}\b", METHOD) else made


def _how(name: str, made: str, method: str, test: str) -> str:
    return f"""\
Wrote {method}, a working method, and {test}, its conformance test.

  test     pytest {test}
  select   bench prune --plugin {method} --method {name} --dataset mini
  compare  bench survey --plugin {method} --methods random,dealrec,{name}
  run      bench run --plugin {method} --method {name} --dataset mini

To package it, so that it needs no --plugin, give your project this entry point in pyproject.toml and install it:

  [project.entry-points."prunebench.methods"]
  {name} = "{name}:{made}"

`bench ls methods` then lists it with the first line of its docstring.
"""
