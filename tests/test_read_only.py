"""A home that may be read but not written: what reads goes on, what writes ends with one line, and nothing changes."""

from __future__ import annotations

import ctypes
import json
import os
import struct
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from foreign_parts import plugin, shelf
from mistakes import Answer, ask

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="gives up privileges as Linux has them")
WHAT = ("--dataset", "tiny", "--method", "kept", "--budget", "9", "--plugin", "plug.py")
RUN = ("run", "--backbone", "counts", *WHAT)
TABLES = {
    "seen.csv": "user,item,timestamp\n" + "".join(f"u{n % 9},i{n % 5},{n}\n" for n in range(90)),
    "items.csv": "item,title\n" + "".join(f"i{n},Game {n}\n" for n in range(5)),
}
IMPORT = ("datasets", "import", "--format", "table", "--interactions", "seen.csv", "--items", "items.csv")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A finished run in a home that can be written again afterwards."""
    folder = tmp_path / "mine"
    folder.mkdir()
    shelf(folder)
    (folder / "plug.py").write_text(plugin())
    for name, text in TABLES.items():
        (folder / name).write_text(text)
    assert ask(folder, RUN).code == 0
    yield folder
    _allow(folder, "u+w")


def _allow(folder: Path, what: str) -> None:
    for path in (folder, *folder.rglob("*")):
        mode = path.stat().st_mode
        path.chmod(mode | 0o200 if what == "u+w" else mode & ~0o222)


def _obey_modes() -> None:
    """The superuser, too, may from now on write only what the modes of files let its owner write."""
    libc, header, data = ctypes.CDLL(None), struct.pack("Ii", 0x20080522, 0), ctypes.create_string_buffer(24)
    libc.capget(header, data)
    effective, *rest = struct.unpack("6I", data.raw)
    overrides = 1 << 1 | 1 << 3  # CAP_DAC_OVERRIDE, CAP_FOWNER
    libc.capset(header, struct.pack("6I", effective & ~overrides, *rest))


def _ask_read_only(folder: Path, words: tuple[str, ...]) -> Answer:
    before = _contents(folder)
    _allow(folder, "a-w")
    said = folder.with_name("said.json")
    child = os.fork()
    if not child:
        try:
            _obey_modes()
            with pytest.raises(PermissionError):
                (folder / "home" / "x").touch()
            answer = ask(folder, words)
            said.write_text(json.dumps(asdict(answer)))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert _contents(folder) == before
    return Answer(**json.loads(said.read_text()))


def _contents(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


@pytest.mark.parametrize(
    "words",
    [
        (*RUN, "--seed", "1"),
        ("prune", *WHAT, "--seed", "1"),
        ("prune", "--dataset", "tiny", "--method", "random", "--budget", "9", "--out", "kept.txt"),
        ("prune", "--dataset", "tiny", "--method", "random", "--budget", "9", "--format", "hf", "--out", "kept"),
        (*IMPORT, "--name", "own"),
        ("datasets", "download", "movielens-1m", "--mirror", "http://127.0.0.1:9"),
        ("new-method", "mine"),
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_what_writes_is_refused_in_one_line(folder: Path, words: tuple[str, ...]) -> None:
    answer = _ask_read_only(folder, words)
    assert (answer.code, answer.out) == (1, ""), answer.err
    assert "Traceback" not in answer.err
    assert "Permission denied" in answer.line
    _allow(folder, "u+w")
    if words[0] != "datasets":
        assert ask(folder, words).code == 0, "and where it may be written, the same command ends"


def test_a_survey_tells_of_each_method_why_not(folder: Path) -> None:
    answer = _ask_read_only(folder, ("survey", "--dataset", "tiny", "--methods", "random", "--budget", "9", "--json"))
    assert answer.code == 1, answer.err
    assert "Permission denied" in json.dumps(json.loads(answer.out))
    assert "Traceback" not in answer.err


@pytest.mark.parametrize(
    "words",
    [
        ("ls",),
        ("ls", "runs", "--json"),
        ("datasets", "inspect", "tiny", "--json"),
        ("leaderboard", "show", "--json"),
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_what_reads_goes_on(folder: Path, words: tuple[str, ...]) -> None:
    answer = _ask_read_only(folder, words)
    assert answer.code == 0, answer.err
    assert answer.out == ask(folder, words).out
