"""Engines carry out the runs of a plan: in this process, or in several on this machine, over one store.

``ray_engine`` has another, for several machines.
"""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

import torch

from prunebench.benchmark.commands import quiet_libraries
from prunebench.benchmark.errors import explain
from prunebench.benchmark.interrupts import told_once
from prunebench.benchmark.plan import Planned
from prunebench.benchmark.progress import Report, Reporter
from prunebench.benchmark.store import Artefact
from prunebench.benchmark.workbench import Workbench
from prunebench.recommenders.runtime import Cancelled

PROCESSES: BaseContext = multiprocessing.get_context("spawn")
PATIENCE_S = 20.0
"""How long a process that is told to stop may take for it."""
SHOWN_EVERY_S = 0.5


@dataclass(frozen=True)
class Ended:
    """A run that is over: the name of its ``record``, or the ``error`` in one line with its exit ``code``."""

    number: int
    record: str | None = None
    error: str | None = None
    code: int = 0


@dataclass(frozen=True)
class Setup:
    """What a process needs to carry out runs. ``anew``: records that are there are written again."""

    home: Path
    device: str
    plugins: tuple[Path, ...]
    threads: int
    anew: bool


class Audience(Protocol):
    """Who is told of the progress of each job; jobs are numbered from 0."""

    def started(self, job: int, run: Planned) -> None: ...
    def stage(self, job: int, text: str) -> None: ...
    def said(self, job: int, line: str) -> None: ...


class Engine(Protocol):
    """Carries out runs in any order that suits it, each whole, and yields them as they end; what fails stops no other.

    ``jobs``: runs at once, at most."""

    @property
    def jobs(self) -> int: ...
    def execute(self, todo: Sequence[Planned], audience: Audience) -> Iterator[Ended]: ...


def next_run(waiting: Sequence[Planned], at_work: Iterable[Planned], built: AbstractSet[str]) -> Planned | None:
    """The first run that misses nothing which one ``at_work`` is to build and has not ``built`` yet."""
    building = {address for run in at_work for address in run.missing} - built
    return next((run for run in waiting if building.isdisjoint(run.missing)), None)


def perform(bench: Workbench, run: Planned, setup: Setup) -> Ended:
    """One run to its record, under the command that does it alone; what it raises is told in one line."""
    bench.command = shlex.join(run.task.words(setup.device))
    try:
        task = run.task
        _, dataset, defaults = bench.resolve(task.choices, task.set_options, {}, task.seeds)
        record, _ = bench.run(run.run, dataset, defaults, setup.anew)
    except Cancelled:
        raise
    except (Exception, SystemExit) as error:
        return Ended(run.number, None, *explain(error))
    finally:
        gc.collect()  # what one run loaded must not stand in the next one's peak memory
    return Ended(run.number, record.run)


@dataclass
class Here:
    """One run after the other in this process, reported as `bench run` does."""

    bench: Workbench
    setup: Setup
    jobs: int = 1

    def execute(self, todo: Sequence[Planned], audience: Audience) -> Iterator[Ended]:
        for run in todo:
            audience.started(0, run)
            yield perform(self.bench, run, self.setup)


@dataclass
class Worker:
    """A process that carries out runs, ``run`` at the moment. ``printed``: what it or its libraries print, as bytes."""

    process: BaseProcess
    pipe: Connection
    printed: Connection
    run: Planned | None = None
    unfinished: bytes = b""


@dataclass
class Processes:
    """``jobs`` runs at once, each in a process of its own with its share of the threads.

    What several runs need is built by one of them while the others do something else, as far as there is anything else.
    """

    setup: Setup
    jobs: int
    _built: set[str] = field(default_factory=set)

    def execute(self, todo: Sequence[Planned], audience: Audience) -> Iterator[Ended]:
        waiting = list(todo)
        os.environ["OMP_NUM_THREADS"] = str(self.setup.threads)  # the libraries of a new process read it as they start
        workers: list[Worker] = []
        try:
            workers += (self._start() for _ in range(min(self.jobs, len(waiting))))
            for job in range(len(workers)):
                self._give(workers, job, waiting, audience)
            while busy := [worker for worker in workers if worker.run]:
                ready = wait([end for worker in busy for end in (worker.pipe, worker.printed)])
                for job, worker in enumerate(workers):
                    if worker.printed in ready:
                        _overhear(worker, job, audience)
                    ended = self._heard(worker, job, audience) if worker.pipe in ready else None
                    if ended is None:
                        continue
                    worker.run = None
                    yield ended
                    if not worker.process.is_alive() and waiting:
                        workers[job] = self._start()
                    self._give(workers, job, waiting, audience)
        finally:
            _stop(workers)

    def _start(self) -> Worker:
        ours, theirs = PROCESSES.Pipe()
        printed, prints = PROCESSES.Pipe(duplex=False)
        process = PROCESSES.Process(target=work, args=(theirs, prints, self.setup))  # type: ignore[attr-defined]
        process.start()
        theirs.close()
        prints.close()
        return Worker(process, ours, printed)

    def _give(self, workers: list[Worker], job: int, waiting: list[Planned], audience: Audience) -> None:
        if not waiting:
            return
        at_work = [worker.run for worker in workers if worker.run]
        run = next_run(waiting, at_work, self._built) or waiting[0]
        waiting.remove(run)
        workers[job].run = run
        audience.started(job, run)
        with suppress(BrokenPipeError):  # it died; that is heard of next
            workers[job].pipe.send(run)

    def _heard(self, worker: Worker, job: int, audience: Audience) -> Ended | None:
        assert worker.run is not None
        try:
            kind, what = worker.pipe.recv()
        except (EOFError, ConnectionResetError):
            worker.process.join(PATIENCE_S)
            _overhear(worker, job, audience)
            code = worker.process.exitcode
            how = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with exit code {code}"
            return Ended(worker.run.number, None, f"its process {how}; where memory is short, use fewer --jobs", 1)
        if kind == "ended":
            assert isinstance(what, Ended)
            return what
        if kind == "built":
            self._built.add(what)
        elif kind == "stage":
            audience.stage(job, what)
        else:
            audience.said(job, what)
        return None


def _overhear(worker: Worker, job: int, audience: Audience) -> None:
    """Tell what the process printed, a line at a time: on a terminal it would tear the progress that is shown there."""
    if worker.printed.poll():
        *lines, worker.unfinished = (worker.unfinished + os.read(worker.printed.fileno(), 2**16)).split(b"\n")
        for line in filter(bytes.strip, lines):
            audience.said(job, line.decode("utf-8", "replace").strip())


def _stop(workers: list[Worker]) -> None:
    """Idle ones leave, busy ones are told to stop in order; who does not is killed."""
    for worker in workers:
        if worker.run is None:
            worker.pipe.close()
        else:
            worker.process.terminate()
    patience = time.monotonic() + PATIENCE_S
    for worker in workers:
        worker.process.join(max(patience - time.monotonic(), 0.1))
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()


# -- in the other process ----------------------------------------------------------------------------------------------


class Messenger(Reporter):
    """Progress sent to the process that plans: what kind of news, and the news."""

    def __init__(self, send: Callable[[tuple[str, str]], None]) -> None:
        self.send = send

    def say(self, line: str) -> None:
        self.send(("said", line.strip()))

    def built(self, artefact: Artefact) -> None:
        self.send(("built", artefact.hash))
        if not artefact.hit and artefact.bill.wall_s >= SHOWN_EVERY_S:
            self.say(f"{artefact.stage} done, {artefact.bill.wall_s:.1f} s  [{artefact.hash[:8]}]")

    @contextmanager
    def stage(self, name: str) -> Iterator[Report]:
        last = time.monotonic()
        self.send(("stage", name))

        def report(done: int, total: int | None, what: str) -> None:
            nonlocal last
            if time.monotonic() - last >= SHOWN_EVERY_S:
                last = time.monotonic()
                self.send(("stage", f"{name}: {what}, {done:,}" + (f" of {total:,}" if total else "")))

        yield report


def work(pipe: Connection, prints: Connection, setup: Setup) -> None:
    """Carry out the runs that come through the pipe until it is closed. SIGTERM stops the one at work in order."""
    for number in (1, 2):
        os.dup2(prints.fileno(), number)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal; ours is told by SIGTERM
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    logging.basicConfig(format="bench: %(levelname)s: %(message)s", level=logging.WARNING)
    with told_once() as interrupted, suppress(EOFError, BrokenPipeError):
        try:
            _work(pipe, setup)
        except KeyboardInterrupt:
            sys.exit(interrupted.code)


def _work(pipe: Connection, setup: Setup) -> None:
    quiet_libraries()
    torch.set_num_threads(setup.threads)
    bench = Workbench(setup.home, Messenger(pipe.send), setup.device)
    for path in setup.plugins:
        bench.load_plugin(path)
    while True:
        run: Any = pipe.recv()
        pipe.send(("ended", perform(bench, run, setup)))


def _end_with_parent() -> None:
    """A sweep that was killed leaves nobody at work: the same command may follow at once."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
