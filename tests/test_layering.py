"""The house stands: each floor imports only those below it, at the top of its files, and no file is too long."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LONGEST = 400
BELOW: dict[str, set[str]] = {
    "datasets": set(),
    "leaderboard": set(),
    "recommenders": {"datasets"},
    "methods": {"datasets", "recommenders"},
    "benchmark": {"datasets", "recommenders", "methods", "leaderboard"},
}
FILES = sorted(path.relative_to(ROOT) for floor in BELOW for path in (ROOT / floor).rglob("*.py"))
TESTS = sorted(path.relative_to(ROOT) for path in (ROOT / "tests").rglob("*.py"))


@dataclass(frozen=True)
class Import:
    """One module that a file imports; ``module`` is "?" where only running the code could tell."""

    module: str
    line: int
    in_function: bool


def imports(source: str, path: Path) -> list[Import]:
    """Every import of a file, however spelled: absolute, relative, by ``importlib.import_module`` or ``__import__``."""
    package = ("prunebench", *path.parent.parts)
    tree = ast.parse(source)
    importers = {"__import__", "import_module"} | {
        alias.asname
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "importlib"
        for alias in node.names
        if alias.name in ("import_module", "__import__") and alias.asname
    }
    return [
        Import(module, node.lineno, inside)
        for node, inside in _walk(tree)
        for module in _modules(node, package, importers)
    ]


def _walk(node: ast.AST, inside: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    for child in ast.iter_child_nodes(node):
        within = inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield child, within
        yield from _walk(child, within)


def _modules(node: ast.AST, package: tuple[str, ...], importers: set[str]) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = _absolute("." * node.level + (node.module or ""), package)
        # `from prunebench import methods` imports a floor, too.
        return [f"{base}.{alias.name}" for alias in node.names] if base == "prunebench" else [base]
    if isinstance(node, ast.Call):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called in importers:
            name = node.args[0] if node.args else next((key.value for key in node.keywords if key.arg == "name"), None)
            literal = isinstance(name, ast.Constant) and isinstance(name.value, str)
            return [_absolute(name.value, package)] if literal else ["?"]  # type: ignore[union-attr,arg-type]
    return []


def _absolute(module: str, package: tuple[str, ...]) -> str:
    level = len(module) - len(module.lstrip("."))
    if level == 0:
        return module
    return ".".join([*package[: len(package) - level + 1], *filter(None, [module[level:]])])


def broken_rules(source: str, path: Path) -> list[str]:
    """What a file of ours does that it must not, one line each."""
    floor = path.parts[0]
    lazy_start = floor == "benchmark" and path.name.startswith("cli")
    rules = []
    for found in imports(source, path):
        top, _, rest = found.module.partition(".")
        room = rest.partition(".")[0]
        place = f"{path}:{found.line}"
        if top == "prunebench" and room != floor and room not in BELOW[floor]:
            rules.append(f"{place}: {floor} must not import {found.module}")
        if floor == "leaderboard" and top == "torch":
            rules.append(f"{place}: leaderboard must not import torch")
        if found.module == "?" and floor != "benchmark":
            rules.append(f"{place}: {floor} must not import by a computed name")
        if found.in_function and not lazy_start:
            rules.append(f"{place}: {found.module} is imported inside a function")
    return rules


def test_the_floors_are_found() -> None:
    assert {path.parts[0] for path in FILES} == set(BELOW)
    assert Path("benchmark/plugins.py") in FILES


@pytest.mark.parametrize("path", FILES, ids=str)
def test_every_file_imports_downwards_and_at_the_top(path: Path) -> None:
    assert broken_rules((ROOT / path).read_text(encoding="utf-8"), path) == []


@pytest.mark.parametrize("path", FILES + TESTS, ids=str)
def test_every_file_is_read_in_one_sitting(path: Path) -> None:
    assert len((ROOT / path).read_text(encoding="utf-8").splitlines()) <= LONGEST


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("datasets/a.py", "import prunebench.methods.base"),
        ("datasets/a.py", "from prunebench.recommenders import runtime"),
        ("datasets/a.py", "from prunebench import benchmark"),
        ("datasets/a.py", "from ..methods import base"),
        ("datasets/a.py", "from .. import methods"),
        ("recommenders/sub/a.py", "from ...methods.base import Selection"),
        ("recommenders/a.py", "import importlib\nimportlib.import_module('prunebench.methods.base')"),
        ("recommenders/a.py", "from importlib import import_module as load\nload(name='prunebench.benchmark.store')"),
        ("recommenders/a.py", "import importlib\nimportlib.import_module('..methods', __package__)"),
        ("recommenders/a.py", "__import__('prunebench.methods')"),
        ("methods/a.py", "import importlib\nimportlib.import_module('prunebench.' + 'benchmark')"),
        ("methods/a.py", "if TYPE_CHECKING:\n    from prunebench.benchmark.store import Store"),
        ("methods/a.py", "from prunebench.leaderboard import tables"),
        ("leaderboard/a.py", "from prunebench.datasets import schema"),
        ("leaderboard/a.py", "import torch.nn"),
        ("methods/a.py", "def f():\n    import json"),
        ("benchmark/run.py", "class A:\n    def f(self):\n        if True:\n            from json import loads"),
        ("benchmark/run.py", "f = lambda: __import__('json')"),
    ],
)
def test_the_check_sees_what_runs_the_wrong_way(path: str, source: str) -> None:
    assert len(broken_rules(source, Path(path))) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("datasets/a.py", "from .schema import Samples\nfrom . import files\nimport datasets\nimport numpy"),
        ("recommenders/sub/a.py", "from ..base import Config\nfrom ...datasets import schema"),
        ("methods/a.py", "from prunebench.recommenders.base import Config"),
        ("benchmark/cli_run.py", "def f():\n    from prunebench.benchmark.harness import Harness"),
        ("benchmark/a.py", "from prunebench.leaderboard import record\nfrom ..leaderboard import tables"),
        ("leaderboard/a.py", "from . import record\nimport numpy"),
    ],
)
def test_the_check_allows_what_runs_the_right_way(path: str, source: str) -> None:
    assert broken_rules(source, Path(path)) == []
