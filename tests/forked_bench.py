"""`bench` in processes of its own, with a trap laid for it: a signal, or a full disk, at the same point every time."""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any
from unittest import mock

from crashes import PRELOAD

from prunebench.benchmark import cli, exports, progress, store
from prunebench.datasets import library
from prunebench.leaderboard import record

REPORTED = {"fit": "fine-tuning", "predictions": "inference"}
"""What a stage of the store is called where its progress is shown."""
_processes = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class Trap:
    """``at``: a stage of the store, or `record`, `import`, `export`. ``after`` so many signs of progress of that stage,
    ``signal`` is sent, or no file may grow beyond ``room`` bytes from there on."""

    at: str
    after: int = 0
    signal: int | None = None
    room: int | None = None


@dataclass(frozen=True)
class Running:
    """A command that was started. ``out`` is a file; ``err`` a pipe, which no full disk cuts short."""

    process: ForkServerProcess
    out: Path
    err: int

    def wait(self) -> Done:
        self.process.join()
        assert self.process.exitcode is not None
        with os.fdopen(self.err, "rb") as pipe:
            said = pipe.read() or b""
        return Done(self.process.exitcode, self.out.read_text() if self.out.is_file() else "", said.decode())

    def send(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        return (self.err.strip().splitlines() or [""])[-1]


def start(home: Path, words: tuple[str, ...], trap: Trap | None = None, out: Path | None = None) -> Running:
    """`bench WORDS`; its answer goes to a file beside ``home``, or to ``out``."""
    out, said = out or home.with_name("out.txt"), home.with_name("err.pipe")
    said.unlink(missing_ok=True)
    os.mkfifo(said)
    err = os.open(said, os.O_RDONLY | os.O_NONBLOCK)
    _processes.set_forkserver_preload(list(PRELOAD))
    process = _processes.Process(target=_bench, args=(home, words, trap, out, said))
    with mock.patch.dict(os.environ, {"OMP_NUM_THREADS": "1"}):
        process.start()
    return Running(process, out, err)


def bench(home: Path, words: tuple[str, ...], trap: Trap | None = None) -> Done:
    return start(home, words, trap).wait()


def _bench(home: Path, words: tuple[str, ...], trap: Trap | None, out: Path, err: Path) -> None:
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | (0 if path.is_fifo() else os.O_TRUNC)), number)
    os.environ |= {"PRUNEBENCH_HOME": str(home), "COLUMNS": "200"}
    os.chdir(home.parent)
    sys.argv = ["bench", *words]
    if trap is not None:
        _lay(trap)
    try:
        cli.main()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = 99
    sys.stderr.flush()
    os._exit(code)


def _lay(trap: Trap) -> None:
    seen = -1

    def spring() -> None:
        nonlocal seen
        seen += 1
        if seen == trap.after and trap.signal is not None:
            os.kill(os.getpid(), trap.signal)
        if seen == trap.after and trap.room is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (trap.room, resource.RLIM_INFINITY))

    def before(real: Callable[..., Any]) -> Callable[..., Any]:
        def trapped(*given: Any, **named: Any) -> Any:
            spring()
            return real(*given, **named)

        return trapped

    if trap.at == "record":
        record.write_record = before(record.write_record)
    elif trap.at == "import":
        library.write_json = before(library.write_json)
    elif trap.at == "export":
        exports.Target._write_lines = before(exports.Target._write_lines)  # type: ignore[method-assign]
    build, plain = store.Store.get_or_build, progress.ConsoleReporter._plain

    def get_or_build(self: Any, stage: str, version: int, key: Any, make: Any, *rest: Any, **named: Any) -> Any:
        return build(self, stage, version, key, before(make) if stage == trap.at else make, *rest, **named)

    def _plain(self: Any, name: str) -> Any:
        report = plain(self, name)
        return before(report) if name == REPORTED.get(trap.at, trap.at) else report

    store.Store.get_or_build = get_or_build  # type: ignore[method-assign]
    progress.ConsoleReporter._plain = _plain  # type: ignore[method-assign]
