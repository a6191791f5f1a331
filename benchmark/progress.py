"""Progress of a run, stage by stage: live on a terminal, plain lines elsewhere, always on standard error."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from prunebench.benchmark.interrupts import stop_if_told
from prunebench.benchmark.store import Artefact

Report = Callable[[int, int | None, str], None]
PLAIN_EVERY_S = 15.0
"""Seconds between two plain progress lines of one stage."""


class Reporter(Protocol):
    def stage(self, name: str) -> AbstractContextManager[Report]: ...
    def built(self, artefact: Artefact) -> None: ...
    def say(self, line: str) -> None: ...


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 100 else f"{value / 60:.1f} min"


class ConsoleReporter:
    """One bar per running stage on a terminal; otherwise a line when a stage starts, every 15 s, and when it ends."""

    def __init__(self, console: Console, quiet: bool = False) -> None:
        self.console = console
        self.quiet = quiet
        self.live = console.is_terminal and not quiet
        self._depth = 0

    def say(self, line: str) -> None:
        if not self.quiet:
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def built(self, artefact: Artefact) -> None:
        if not artefact.hit and artefact.bill.wall_s < 0.5:
            return
        verb = "kept from before" if artefact.hit else "done"
        self.say(
            f"  {artefact.stage:<14} {verb}, {_seconds(artefact.bill.wall_s)}, {artefact.bill.peak_rss_mb:,.0f} MB  [{artefact.hash[:8]}]"
        )

    @contextmanager
    def stage(self, name: str) -> Iterator[Report]:
        if self.live and self._depth == 0:
            yield from self._bar(name)
        else:
            yield self._plain(name)

    def _bar(self, name: str) -> Iterator[Report]:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._depth += 1
        try:
            with Progress(*columns, console=self.console, transient=True) as progress:
                task = progress.add_task(name, total=None)

                def report(done: int, total: int | None, what: str) -> None:
                    stop_if_told()
                    progress.update(task, completed=done, total=total, description=f"{name}: {what}")

                yield report
        finally:
            self._depth -= 1

    def _plain(self, name: str) -> Report:
        last = time.monotonic()

        def report(done: int, total: int | None, what: str) -> None:
            nonlocal last
            stop_if_told()
            now = time.monotonic()
            if now - last >= PLAIN_EVERY_S:
                last = now
                self.say(f"  {name}: {what}, {done}" + (f" of {total}" if total else ""))

        return report
