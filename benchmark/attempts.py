"""The diary of an unfinished stage: what each attempt cost, known to a few seconds even after a kill."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from prunebench.benchmark.meter import Bill, Meter

Event = Literal["start", "beat", "keep", "end"]


class Attempts:
    """An append-only file of JSON lines; one attempt at a time writes into it, others may have been cut off anywhere.

    ``heartbeat_s``: seconds between two readings of the running attempt's bill.
    """

    def __init__(self, path: Path, heartbeat_s: float) -> None:
        self._path = path
        self._heartbeat_s = heartbeat_s
        self._lock = threading.Lock()

    def write(self, event: Event, bill: Bill) -> None:
        """Append a line, whole or not at all, with the running attempt's bill so far."""
        entry = {"event": event, "time": time.time(), "pid": os.getpid(), "bill": bill.to_json()}
        with self._lock, self._path.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def earlier(self) -> tuple[Bill, Bill]:
        """What earlier attempts cost: up to each one's last ``keep``, and after it."""
        kept = lost = Bill.zero()
        for saved, last in self._attempts():
            kept += saved
            lost += last.since(saved)
        return kept, lost

    def _attempts(self) -> list[tuple[Bill, Bill]]:
        """Of each earlier attempt, its bill at the last ``keep`` and at the last sign of life."""
        attempts: list[tuple[Bill, Bill]] = []
        if not self._path.exists():
            return attempts
        for line in self._path.read_text(errors="replace").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # the line being written when the process died
            bill = Bill.from_json(entry["bill"])
            if entry["event"] == "start":
                attempts.append((Bill.zero(), bill))
            elif attempts:
                attempts[-1] = (bill if entry["event"] == "keep" else attempts[-1][0], bill)
        return attempts

    @contextlib.contextmanager
    def running(self, meter: Meter) -> Iterator[None]:
        """Measure the work in the block, writing readings down from a thread, and the last one at the end."""
        stop = threading.Event()

        def beat() -> None:
            while not stop.wait(self._heartbeat_s):
                with contextlib.suppress(OSError):  # a full disk stops the work itself; a missed beat need not
                    self.write("beat", meter.bill)

        with meter:
            self.write("start", meter.bill)
            thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
            thread.start()
            try:
                yield
            finally:
                stop.set()
                thread.join()
                self.write("end", meter.bill)
