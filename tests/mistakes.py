"""Mistakes people make, each with the one line they get: run by the tests, and printed as TROUBLESHOOTING.md.

`python tests/mistakes.py` makes every mistake of the ``mistakes_*`` modules through the command line and prints what it
said as a table; `make troubleshooting` keeps that as the page.
"""

from __future__ import annotations

import importlib
import io
import logging
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from prunebench.benchmark import cli

MODULES = (
    "options",
    "studies",
    "reproduce",
    "tables",
    "cells",
    "datasets",
    "sources",
    "models",
    "plugins",
    "outputs",
    "boards",
    "machine",
)
"""What the groups of mistakes are called: each is a module ``mistakes_NAME`` with ``TITLE`` and ``CASES``."""

PRINTED_BY = f"Printed by `make troubleshooting` with Python {sys.version_info.major}.{sys.version_info.minor}"


@dataclass(frozen=True)
class Mistake:
    """``case``: the mistake in words, a row of the page. ``words``: the command without `bench`, with paths relative to
    the folder that ``given`` prepares. ``said``: what the last line must contain. ``code``: 2 bad input, 1 the
    environment, 130 interrupted, 0 where a warning is all. ``after`` checks what is left on disk; nothing new may be in
    the home's datasets and runs where the code is not 0 in any case. ``world``: what of the world outside is put aside
    meanwhile, e.g. the network."""

    case: str
    words: tuple[str, ...]
    said: tuple[str, ...]
    code: int = 2
    given: Callable[[Path], None] = lambda folder: None
    after: Callable[[Path], None] = lambda folder: None
    environment: Mapping[str, str] = field(default_factory=dict)
    world: Callable[[], AbstractContextManager[Any]] = nullcontext

    def make(self, folder: Path) -> Answer:
        """Make the mistake in a folder that ``given`` has prepared."""
        with self.world():
            return ask(folder, self.words, self.environment)


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The last line said, without the name of the program."""
        return (self.err.strip().splitlines() or [""])[-1].removeprefix("bench: ").removeprefix("WARNING: ")


def ask(folder: Path, words: tuple[str, ...], environment: Mapping[str, str] | None = None) -> Answer:
    """`bench WORDS` in this process, in ``folder``, with folder/home as its home; what is in folder/site is installed."""
    settings = {"PRUNEBENCH_HOME": str(folder / "home"), "COLUMNS": "120", **(environment or {})}
    before, path = Path.cwd(), [str(folder / "site"), *sys.path] if (folder / "site").is_dir() else sys.path
    with (
        mock.patch.object(sys, "path", path),
        mock.patch.object(logging.getLogger(), "handlers", []),  # none of pytest's, or of an earlier call
        mock.patch.dict(os.environ, settings),
        mock.patch.object(sys, "argv", ["bench", *words]),
        _captured() as said,
    ):
        os.chdir(folder)
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1 if stop.code else 0
        finally:
            os.chdir(before)
    out, err = (text.replace(str(folder / "home"), "$PRUNEBENCH_HOME").replace(f"{folder}/", "") for text in said)
    return Answer(code, out, err)


@contextmanager
def _captured() -> Iterator[list[str]]:
    """What is written meanwhile to standard output and standard error, also past Python, once the block is left."""
    texts: list[str] = []
    kept, real = [os.dup(1), os.dup(2)], (sys.stdout, sys.stderr)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        files = (out, err)
        for stream in real:
            stream.flush()
        for number, file in enumerate(files, 1):
            os.dup2(file.fileno(), number)
        sys.stdout, sys.stderr = (
            io.TextIOWrapper(os.fdopen(os.dup(number), "wb"), encoding="utf-8", write_through=True) for number in (1, 2)
        )
        try:
            yield texts
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            sys.stdout, sys.stderr = real
            for number, descriptor in enumerate(kept, 1):
                os.dup2(descriptor, number)
                os.close(descriptor)
            for file in files:
                file.seek(0)
                texts.append(file.read().decode("utf-8", "replace"))


def cases() -> list[tuple[str, Mistake]]:
    """Every mistake with its group's title, in the order of the page."""
    modules = [importlib.import_module(f"mistakes_{name}") for name in MODULES]
    return [(module.TITLE, mistake) for module in modules for mistake in module.CASES]


def page() -> str:
    """TROUBLESHOOTING.md, made by making every mistake."""
    lines = [
        "# Troubleshooting",
        "",
        "What goes wrong, and what `bench` says to it. Exit code 2 is bad input, 1 the machine (disk, network, memory), 130",
        "an interrupt; after 0 the line is a warning and the work went on. A command like the one above it is not repeated,",
        f"long hashes are left out. {PRINTED_BY}, which makes each of these mistakes; the tests make them too.",
    ]
    title = command = None
    for group, mistake in cases():
        if group != title:
            title, command = group, None
            lines += ["", f"## {group}", "", "| what happened | what it says | code | command |", "|---|---|---|---|"]
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name).resolve()
            mistake.given(folder)
            said = row(mistake, mistake.make(folder))
        repeated, command = mistake.words == command, mistake.words
        lines.append(said + (" |" if repeated else f" `{_cell(' '.join(['bench', *mistake.words]))}` |"))
    return "\n".join(lines) + "\n"


def row(mistake: Mistake, answer: Answer) -> str:
    """A line of the page, but for the command."""
    said = re.sub(r"\b[0-9a-f]{16,}\b|(?<=mini-)[0-9a-f]{8}\b", "…", answer.line).replace("<", "&lt;")
    return f"| {mistake.case} | {_cell(said)} | {answer.code} |"


def _cell(text: str) -> str:
    """Text as a table's cell shows it: no column ends early."""
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(page())
