"""Methods, backbones, surrogates, signals and data sets by name: entry points, ours and anyone's, and single files."""

from __future__ import annotations

import ast
import difflib
import functools
import hashlib
import inspect
import logging
import re
import sys
import tokenize
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NoReturn, get_args

from prunebench.benchmark.contracts import broken
from prunebench.benchmark.undisturbed import undisturbed

logger = logging.getLogger(__name__)

Kind = Literal["methods", "backbones", "surrogates", "signals", "datasets"]
KINDS: tuple[Kind, ...] = get_args(Kind)

RESERVED = ("none", "method", "backbone", "surrogate", "llm", "seeds")
"""What no method may be called: the run without one, and the sections of a configuration."""

# What a class in a plugin file must have to be taken for one of these; the first that fits.
_SHAPES: dict[Kind, tuple[str, ...]] = {
    "methods": ("Config", "prepare", "select"),
    "signals": ("Config", "needs", "build", "load"),
    "surrogates": ("Config", "fit", "losses", "objective"),
    "backbones": ("Config", "fit", "load"),
}


class PluginError(ValueError):
    """A part cannot be found or loaded; one line says which, why, and what to do."""


@dataclass(frozen=True)
class Origin:
    """Where a part comes from. ``sha256`` of the file for a single-file plugin, whose content belongs into hashes."""

    source: str
    version: str | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class FilePlugin:
    """A loaded plugin file: its path, the sha256 of its content, and the classes it brings by kind and name."""

    path: Path
    sha256: str
    parts: dict[tuple[Kind, str], type]


class Registry:
    """Finds parts by name: those of installed distributions, and those of the files it was told to load."""

    def __init__(self) -> None:
        self._files: dict[Path, FilePlugin] = {}
        self._warned: set[tuple[Kind, str]] = set()

    def names(self, kind: Kind) -> list[str]:
        """Every known name of a kind, sorted; nothing is imported."""
        from_files = {name for plugin in self._files.values() for part, name in plugin.parts if part == kind}
        return sorted(from_files.union(_entry_points(kind)))

    def resolve(self, kind: Kind, name: str) -> Any:
        """The class a name stands for, imported now.

        Raises PluginError for an unknown name, a name claimed twice, a part that fails to import, and one that lacks
        what the contract of its kind asks for.
        """
        claim = self._claim(kind, name)
        owner = str(claim.path) if isinstance(claim, FilePlugin) else _owner(claim)
        part = claim.parts[kind, name] if isinstance(claim, FilePlugin) else _imported(claim, _title(kind, name))
        if fault := broken(kind, name, part):
            raise PluginError(f"{_title(kind, name)} of {owner} breaks its contract: {fault}")
        return part

    def resolve_all(self, kind: Kind) -> dict[str, Any]:
        """Every part of a kind that imports, by name; for each that does not, one warning naming its distribution."""
        parts = {}
        for name in self.names(kind):
            try:
                parts[name] = self.resolve(kind, name)
            except PluginError as error:
                self._warn(kind, name, str(error))
        return parts

    def origin(self, kind: Kind, name: str) -> Origin:
        """Which distribution or file a part comes from. Raises PluginError for a name unknown or claimed twice."""
        claim = self._claim(kind, name)
        if isinstance(claim, FilePlugin):
            return Origin(str(claim.path), sha256=claim.sha256)
        return Origin(_owner(claim), claim.dist.version if claim.dist else None)

    def built_in(self, kind: Kind, name: str) -> bool:
        """Whether a part is ours. Raises PluginError as ``origin``."""
        return self.origin(kind, name).source == "prunebench"

    def summary(self, kind: Kind, name: str) -> str:
        """First line of the docstring of the part's module (a signal's: class), read from its source: nothing is imported.

        Empty, with one warning naming the distribution, where that module is missing. Raises PluginError as ``origin``.
        """
        claim = self._claim(kind, name)
        if isinstance(claim, FilePlugin):
            return _first_line(claim.path)
        source = _source(claim.module)
        if source is None:
            self._warn(kind, name, f"{_title(kind, name)} of {_owner(claim)} has no module {claim.module}")
            return ""
        # Several signals share a module; each says in its own docstring what it is.
        return _class_line(source, claim.attr) if kind == "signals" else _first_line(source)

    def load_file(self, path: Path) -> FilePlugin:
        """Import a single file and register every method, signal, surrogate and backbone class it defines.

        A class is known by its attribute ``name``, or without one by the file's name. Classes that start with an
        underscore are left alone. Loading a file again replaces what it brought. Raises PluginError for a file that is
        missing, does not run, brings nothing, or claims a name that is taken.
        """
        path = Path(path).resolve()
        try:
            content = path.read_bytes()
        except OSError as error:
            raise PluginError(f"plugin {path}: {error.strerror or error}; give the path of a Python file") from None
        sha256 = hashlib.sha256(content).hexdigest()
        if path in self._files and self._files[path].sha256 == sha256:
            return self._files[path]
        plugin = FilePlugin(path, sha256, _parts(path, _execute(path, content, sha256)))
        for kind, name in plugin.parts:
            self._check_free(kind, name, path)
        self._files[path] = plugin
        return plugin

    def _check_free(self, kind: Kind, name: str, path: Path) -> None:
        owners = [_owner(point) for point in _entry_points(kind).get(name, ())]
        owners += [
            str(other) for other, plugin in self._files.items() if other != path and (kind, name) in plugin.parts
        ]
        if owners:
            taken = f"is already taken by {owners[0]}"
            raise PluginError(f"plugin {path}: {_title(kind, name)} {taken}; give the class another `name`")

    def _claim(self, kind: Kind, name: str) -> metadata.EntryPoint | FilePlugin:
        """The one claim to a name."""
        if kind not in KINDS:
            raise PluginError(f"unknown kind {kind!r}: choose one of {', '.join(KINDS)}")
        for plugin in self._files.values():
            if (kind, name) in plugin.parts:
                return plugin
        points = _entry_points(kind).get(name, ())
        if not points:
            near = difflib.get_close_matches(name, self.names(kind), 3)
            hint = f"did you mean {' or '.join(near)}? " if near else ""
            raise PluginError(f"unknown {_title(kind, name)}: {hint}`bench ls {kind}` lists all")
        if len(points) > 1:
            owners = " and ".join(sorted(f"{_owner(point)} ({point.value})" for point in points))
            raise PluginError(f"{_title(kind, name)} is claimed by {owners}; uninstall one of them")
        return points[0]

    def _warn(self, kind: Kind, name: str, message: str) -> None:
        if (kind, name) not in self._warned:
            self._warned.add((kind, name))
            logger.warning("%s", message)


def _execute(path: Path, content: bytes, sha256: str) -> ModuleType:
    """Run exactly the bytes that were hashed, never a cached compilation of others."""
    module_name = f"prunebench_plugin_{re.sub(r'[^0-9A-Za-z]', '_', path.stem)}_{sha256[:12]}"
    module = ModuleType(module_name)
    module.__file__ = str(path)
    sys.modules[module_name] = module  # dataclasses and pydantic look a class's module up while it is being defined
    try:
        with undisturbed():
            exec(compile(content, str(path), "exec"), module.__dict__)
    except BaseException as error:
        del sys.modules[module_name]
        _refuse(f"plugin {path}{_line(error, path)}", error)
    return module


def _imported(point: metadata.EntryPoint, title: str) -> Any:
    try:
        with undisturbed():
            return point.load()
    except BaseException as error:
        _refuse(f"{title} of {_owner(point)} fails to import", error)


def _refuse(what: str, error: BaseException) -> NoReturn:
    """Whatever else a foreign module raises while it is imported, leaving Python included, is a fault of that module."""
    if isinstance(error, (KeyboardInterrupt, MemoryError)):
        raise error
    raise PluginError(f"{what}: {_cause(error)}") from error


def _parts(path: Path, module: ModuleType) -> dict[tuple[Kind, str], type]:
    parts: dict[tuple[Kind, str], type] = {}
    for found in list(vars(module).values()):
        if not isinstance(found, type) or found.__module__ != module.__name__:
            continue
        kind = next((kind for kind, shape in _SHAPES.items() if all(hasattr(found, part) for part in shape)), None)
        if kind is None or found.__name__.startswith("_") or inspect.isabstract(found):
            continue
        name = getattr(found, "name", None)
        name = name if isinstance(name, str) else path.stem
        if kind == "methods" and name in RESERVED:
            raise PluginError(
                f"plugin {path}: {name!r} means something else to the command line; give {found.__name__} another `name`"
            )
        if parts.setdefault((kind, name), found) is not found:
            both = f"{parts[kind, name].__name__} and {found.__name__}"
            raise PluginError(f"plugin {path}: {both} are both called {name!r}; give each class its own `name`")
    if not parts:
        shapes = "; ".join(f"{kind}: {', '.join(shape)}" for kind, shape in _SHAPES.items())
        raise PluginError(
            f"plugin {path} defines no class that can be used; {_nearly(module)}such a class has ({shapes})"
        )
    return parts


def _nearly(module: ModuleType) -> str:
    """The class that lacks least of what it would be known by."""
    found = [
        (len(lacking), f"{one.__name__} has no {' and no '.join(lacking)}; ")
        for one in vars(module).values()
        if isinstance(one, type) and one.__module__ == module.__name__
        for shape in _SHAPES.values()
        if 0 < len(lacking := [part for part in shape if not hasattr(one, part)]) < len(shape)
    ]
    return min(found, default=(0, ""))[1]


def _entry_points(kind: Kind) -> dict[str, tuple[metadata.EntryPoint, ...]]:
    """Claims by name, for the search path of now. The library reads a distribution found twice on the path once."""
    claims: dict[str, tuple[metadata.EntryPoint, ...]] = {}
    for point in _scan(tuple(sys.path)).select(group=f"prunebench.{kind}"):
        claims[point.name] = (*claims.get(point.name, ()), point)
    return claims


@functools.cache
def _scan(_path: tuple[str, ...]) -> Any:  # EntryPoints; before Python 3.12 a SelectableGroups, with the same select
    """Every distribution's entry points: reading them takes longer than all else a listing does, so it is done once."""
    return metadata.entry_points()


def _owner(point: metadata.EntryPoint) -> str:
    name = point.dist.name if point.dist else None
    return re.sub(r"[-_.]+", "-", name).lower() if name else "an unnamed distribution"


def _title(kind: Kind, name: str) -> str:
    return f"{'data set' if kind == 'datasets' else kind[:-1]} {name!r}"


def _cause(error: BaseException) -> str:
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {' '.join(text.split())}"


def _line(error: BaseException, path: Path) -> str:
    """Line of ``path`` that is to blame, as ":12"; empty if none is."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    if isinstance(error, SyntaxError) and error.filename == str(path):
        lines = [error.lineno]
    return f":{lines[-1]}" if lines else ""


def _source(module: str) -> Path | None:
    """Source file of a module, found as the import system would find it but without importing its parents."""
    locations: list[str] | None = None
    spec: ModuleSpec | None = None
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        spec = _find_spec(".".join(parts[:depth]), locations)
        if spec is None:
            return None
        try:
            locations = list(spec.submodule_search_locations or ())
        except KeyError:  # a namespace inside a namespace asks for its parent module, which is not imported
            return None
    return Path(spec.origin) if spec is not None and spec.origin and spec.origin.endswith(".py") else None


def _find_spec(module: str, locations: Iterable[str] | None) -> ModuleSpec | None:
    for finder in sys.meta_path:
        spec = finder.find_spec(module, None if locations is None else list(locations))
        if spec is not None:
            return spec
    return None


def _class_line(source: Path, name: str) -> str:
    """First line of a class's docstring; of the module's where there is none."""
    try:
        tree = ast.parse(source.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return ""
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    return ((ast.get_docstring(classes[0]) if classes else None) or _first_line(source)).partition("\n")[0]


def _first_line(source: Path) -> str:
    """First line of the docstring, from the head of the file only."""
    try:
        with tokenize.open(source) as file:
            for token in tokenize.generate_tokens(file.readline):
                if token.type == tokenize.STRING:
                    text = ast.literal_eval(token.string)
                    return text.strip().partition("\n")[0] if isinstance(text, str) else ""
                if token.type not in (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT):
                    return ""
    except (OSError, SyntaxError, ValueError, tokenize.TokenError):
        return ""
    return ""
