"""`bench sweep`: a study's plan, then its runs, each recorded as it ends; a failure stops no other run."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import click
import torch
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from prunebench.benchmark.commands import workbench
from prunebench.benchmark.config import NO_METHOD, ConfigError
from prunebench.benchmark.engines import Ended, Engine, Here, Processes, Setup
from prunebench.benchmark.output import clean_output, print_json
from prunebench.benchmark.plan import Plan, Planned, plan
from prunebench.benchmark.progress import PLAIN_EVERY_S
from prunebench.benchmark.study import read_study
from prunebench.benchmark.workbench import Workbench
from prunebench.leaderboard.tables import duration

OnExists = Literal["resume", "new", "always", "never"]
Join = Callable[[Setup, int | None], AbstractContextManager[Engine]]
"""Opens an engine of several machines for so many runs at once; None: as many as it has room for."""
NAMED = 3
"""Failed runs named in the last line; the others are in the log."""


def sweep(
    home: Path,
    *,
    study_file: Path,
    plan_only: bool,
    jobs: int | None,
    on_exists: OnExists,
    as_json: bool,
    device: str,
    join: Join | None = None,
    threads: int | None = None,
) -> None:
    """Plan, and unless ``plan_only`` run, on this machine or where ``join`` leads.

    ``threads`` of a run, default its share of this machine's. Exit code 1 or 2 where a run failed: 2 if bad input is all
    there was.
    """
    with clean_output() as out:
        study = read_study(study_file)
        threads = threads or max(torch.get_num_threads() // (jobs or 1), 1)
        torch.set_num_threads(threads)
        plugins = tuple(map(Path, study.plugins))
        bench = workbench(home, "auto" if join else device, plugins)  # a cluster may have what this machine has not
        planned = plan(bench, study, study_file.stem)
        log = Log(home / "sweeps" / f"{planned.name}.jsonl")
        todo = _chosen(planned, on_exists, log)
        if plan_only:
            if as_json:
                print_json(out, plan_facts(planned, todo))
            else:
                show(Console(file=out), planned, todo, jobs)
            return
        setup = Setup(bench.home, device, plugins, threads, on_exists == "always")
        console = Console(stderr=True)
        show(console, planned, todo, jobs)
        ended: dict[int, Ended] = {}
        if todo:
            with join(setup, jobs) if join else _here(bench, setup, jobs) as engine:
                ended = _execute(engine, todo, Progressing(console, todo, engine.jobs, isinstance(engine, Here)), log)
        failed = [run for run in todo if ended[run.number].error is not None]
        if as_json:
            print_json(out, results(planned, todo, ended))
        else:
            there = len(planned.runs) - len(todo)
            out.write(
                f"{planned.name}: {len(todo) - len(failed)} of {len(planned.runs)} runs done now, {there} left as they"
                f" were, {len(failed)} failed; `bench leaderboard show` compares them\n"
            )
    if failed:
        click.echo(f"bench: {_summary(failed, ended, log, len(todo))}", err=True)
        raise SystemExit(2 if all(ended[run.number].code == 2 for run in failed) else 1)


def _chosen(planned: Plan, on_exists: OnExists, log: Log) -> list[Planned]:
    """The runs to do. Raises ConfigError where there is a record and there must be none."""
    recorded = [run for run in planned.runs if run.record]
    if on_exists == "never" and recorded:
        raise ConfigError(
            f"study {planned.name}: {len(recorded)} of {len(planned.runs)} runs are recorded already, {recorded[0].record}"
            f" ({recorded[0].words}) first; leave out --on-exists never to do what is missing"
        )
    if on_exists == "always":
        return list(planned.runs)
    failed = log.failed() if on_exists == "new" else set()
    return [run for run in planned.todo if shlex.join(run.task.words()) not in failed]


@contextmanager
def _here(bench: Workbench, setup: Setup, jobs: int | None) -> Iterator[Engine]:
    yield Processes(setup, jobs) if jobs and jobs > 1 else Here(bench, setup)


def _execute(engine: Engine, todo: list[Planned], progress: Progressing, log: Log) -> dict[int, Ended]:
    """How each run ended, by its number."""
    ended: dict[int, Ended] = {}
    runs = {run.number: run for run in todo}
    with progress, closing(engine.execute(todo, progress)) as ending:  # type: ignore[type-var]
        for one in ending:
            ended[one.number] = one
            if one.error is not None:
                log.add(runs[one.number], one)
            progress.ended(runs[one.number], one)
    return ended


def _summary(failed: list[Planned], ended: dict[int, Ended], log: Log, todo: int) -> str:
    named = "; ".join(f"{run.words}: {ended[run.number].error}" for run in failed[:NAMED])
    more = f"; and {len(failed) - NAMED} more" if len(failed) > NAMED else ""
    return (
        f"{len(failed)} of {todo} runs failed: {named}{more}. The same command tries them again; {log.path} has the"
        " command of each"
    )


class Log:
    """A study's failures, a JSON line each: when, the command that repeats the run alone, and the message."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, run: Planned, ended: Ended) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        facts = {
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "run": shlex.join(run.task.words()),
            "error": ended.error,
            "code": ended.code,
        }
        with self.path.open("ab+") as file:
            size = file.seek(0, os.SEEK_END)
            if size and os.pread(file.fileno(), 1, size - 1) != b"\n":
                file.write(b"\n")  # after a line that a kill cut short
            file.write(json.dumps(facts).encode() + b"\n")

    def failed(self) -> set[str]:
        """Runs that ever failed."""
        found = set()
        lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines() if self.path.exists() else []
        for line in lines:
            with suppress(ValueError, LookupError, TypeError):
                found.add(str(json.loads(line)["run"]))
        return found


class Progressing:
    """The whole and each job: a bar and a line per job on a terminal, lines elsewhere. ``alone``: the stages of the only
    job are shown by itself."""

    def __init__(self, console: Console, todo: list[Planned], jobs: int, alone: bool) -> None:
        self.console, self.total, self.alone = console, len(todo), alone
        self.done = self.failed = self.begun = 0
        self._at_work: dict[int, int] = {}
        self._last = [time.monotonic()] * jobs
        self._whole, self._each = _bars(console)
        self._runs = self._whole.add_task("runs", total=self.total)
        self._jobs = [self._each.add_task("starts", total=None, job=job) for job in range(1, jobs + 1)]
        shown = Group(self._whole, self._each, "")  # the last line is for the ^C that a terminal shows
        self._live = Live(shown, console=console, transient=True, refresh_per_second=4, redirect_stdout=False)
        self._shown = console.is_terminal and not alone

    def __enter__(self) -> Progressing:
        if self._shown:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._shown:
            self._live.stop()

    def _say(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def started(self, job: int, run: Planned) -> None:
        self.begun += 1
        self._at_work[run.number] = job
        self._each.reset(self._jobs[job], description="starts")
        self._say(f"[{self.begun}/{self.total}]{'' if self.alone else f' job {job + 1}:'} {run.words}")

    def stage(self, job: int, text: str) -> None:
        self._each.update(self._jobs[job], description=text)
        if not self._shown and time.monotonic() - self._last[job] >= PLAIN_EVERY_S:
            self._last[job] = time.monotonic()
            self.said(job, text)

    def said(self, job: int, line: str) -> None:
        self._say(f"  job {job + 1}: {line}")

    def ended(self, run: Planned, ended: Ended) -> None:
        self.failed += ended.error is not None
        self.done += ended.error is None
        left = self.total - self.done - self.failed
        how = f"failed: {ended.error}" if ended.error is not None else f"recorded as {ended.record}"
        self._each.update(self._jobs[self._at_work.pop(run.number)], description="waits")
        self._whole.update(self._runs, completed=self.done + self.failed)
        self._say(f"  {run.words} {how}  ({self.done} done, {self.failed} failed, {left} left)")


def _bars(console: Console) -> tuple[Progress, Progress]:
    """How far the whole is, and what each job does; a line of its own each, however narrow the terminal."""
    whole = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn())
    stage = Column(no_wrap=True, overflow="ellipsis", ratio=1)
    each = (
        TextColumn("job {task.fields[job]}"),
        TextColumn("{task.description}", markup=False, table_column=stage),
        TimeElapsedColumn(),
    )
    return Progress(*whole, console=console), Progress(*each, console=console, expand=True)


# -- the plan as a table and as facts ----------------------------------------------------------------------------------


def show(console: Console, planned: Plan, todo: list[Planned], jobs: int | None) -> None:
    """Runs (those that differ in seeds alone in one row), what is shared, what is left to do."""
    datasets = list(dict.fromkeys(run.run.dataset for run in planned.runs))
    names = [
        "method",
        "backbone",
        *(["data set"] if len(datasets) > 1 else []),
        "samples",
        "settings",
        "seeds",
        "there",
    ]
    title = f"study {planned.name}: {len(planned.runs)} runs{f' on {datasets[0]}' if len(datasets) == 1 else ''}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for name in names:
        wraps = name in ("settings", "seeds")
        table.add_column(name, justify="right" if name == "samples" else "left", no_wrap=not wraps, overflow="fold")
    rows: dict[tuple[str, ...], list[Planned]] = {}
    for run in planned.runs:
        method = run.run.method if run.run.method != NO_METHOD else "–"
        where = (run.run.dataset,) if len(datasets) > 1 else ()
        key = (method, run.run.backbone, *where, f"{run.run.budget:,}", "\n".join(run.varied))
        rows.setdefault(key, []).append(run)
    for key, runs in rows.items():
        seeds = " ".join(run.seeds.removeprefix("seeds ").removeprefix("seed ").replace(" and ", "/") for run in runs)
        table.add_row(*key, seeds, f"{sum(run.record is not None for run in runs)} of {len(runs)}")
    console.print(table, highlight=False, markup=False)
    for line in _lines(planned, todo, jobs):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _lines(planned: Plan, todo: list[Planned], jobs: int | None) -> list[str]:
    numbers = {run.number for run in todo}
    merged = sum(run.stands_for for run in planned.runs) - len(planned.runs)
    lines = [f"{merged} combinations come to a run that is there for another one"] if merged else []
    to_build = planned.to_build(todo)
    shared = [piece for piece in to_build if len(numbers.intersection(piece.runs)) > 1]
    if shared:
        counts = Counter(piece.stage for piece in shared)
        lines.append(f"built once for several runs: {', '.join(f'{count} {stage}' for stage, count in counts.items())}")
    used = {address for address, piece in planned.pieces.items() if piece.there and numbers.intersection(piece.runs)}
    if used:
        counts = Counter(planned.pieces[address].stage for address in used)
        lines.append(f"in the store already: {', '.join(f'{count} {stage}' for stage, count in counts.items())}")
    seconds, unknown = planned.estimate(todo)
    left = f"to do: {len(todo)} of {len(planned.runs)} runs, {len(to_build)} artefacts to build"
    if not to_build:
        return [*lines, left]
    known = (
        f"about {duration(seconds)} of work, by what their like took here" if seconds is not None else "time unknown"
    )
    also = f", without {unknown} that have no like in the store" if unknown and seconds is not None else ""
    return [*lines, f"{left}: {known}{also}" + (f"; {jobs} jobs share it" if jobs and jobs > 1 else "")]


def plan_facts(planned: Plan, todo: list[Planned]) -> dict[str, Any]:
    """The plan as JSON."""
    seconds, unknown = planned.estimate(todo)
    return {
        "study": planned.name,
        "runs": [_facts(run) for run in planned.runs],
        "to_do": [run.number for run in todo],
        "artefacts": [
            {
                "stage": piece.stage,
                "hash": piece.hash,
                "there": piece.there,
                "seconds": piece.seconds,
                "runs": [*piece.runs],
            }
            for piece in planned.pieces.values()
        ],
        "estimate": {"seconds": seconds, "artefacts_unknown": unknown},
    }


def results(planned: Plan, todo: list[Planned], ended: dict[int, Ended]) -> dict[str, Any]:
    """What became of every run, as JSON."""
    rows = []
    for run in planned.runs:
        one = ended.get(run.number)
        if one is None:
            state = {"state": "there" if run.record else "left", "record": run.record, "error": None}
        else:
            state = {"state": "failed" if one.error else "done", "record": one.record, "error": one.error}
        rows.append({**_facts(run), **state})
    failed = sum(one.error is not None for one in ended.values())
    return {"study": planned.name, "runs": rows, "done": len(ended) - failed, "failed": failed}


def _facts(run: Planned) -> dict[str, Any]:
    return {
        "number": run.number,
        "command": shlex.join(run.task.words()),
        "method": run.run.method,
        "backbone": run.run.backbone,
        "dataset": run.run.dataset,
        "budget": run.run.budget,
        "settings": run.settings,
        "seeds": run.run.seeds.model_dump(),
        "record": run.record,
        "stands_for": run.stands_for,
    }
