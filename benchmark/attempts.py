"""The diary of an unfinished stage: what each attempt cost and left behind, true to a few seconds even after a kill."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from prunebench.benchmark.meter import Bill, Meter

logger = logging.getLogger(__name__)

Event = Literal["start", "beat", "keep", "lost", "end"]


@dataclass
class _Diary:
    """What the readable lines say: each attempt's bill at its last ``keep`` and at its last sign of life, the process of
    the last one, and size and sha256 of every file kept, by its path inside the checkpoints."""

    attempts: list[tuple[Bill, Bill]]
    files: dict[str, list[Any]]
    process: int | None = None


class Attempts:
    """A folder with a diary, ``attempts.jsonl``, and ``checkpoints``, which belong to the attempt that is running.

    One attempt at a time writes here; others may have been cut off anywhere. What survives of them is what lay in
    ``checkpoints`` at their last ``keep``, to the byte: that much is in the bill, and nothing half-written or damaged is
    continued. ``heartbeat_s``: seconds between two readings of the running attempt's bill.
    """

    def __init__(self, folder: Path, heartbeat_s: float) -> None:
        self.checkpoints = folder / "checkpoints"
        self._path = folder / "attempts.jsonl"
        self._heartbeat_s = heartbeat_s
        self._lock = threading.Lock()
        self._seen: dict[str, tuple[int, int, int]] = {}

    def write(self, event: Event, bill: Bill, files: dict[str, list[Any]] | None = None) -> None:
        """Append a line, whole or not at all, with the running attempt's bill so far and the files it vouches for."""
        entry = {"event": event, "time": time.time(), "pid": os.getpid(), "bill": bill.to_json(), "files": files or {}}
        line = json.dumps({**entry, "check": _check(entry)}) + "\n"
        with self._lock, self._path.open("a") as file:
            file.write(line)

    def keep(self, bill: Bill) -> None:
        """What lies in ``checkpoints`` now is to survive, and what it cost is spent well. Unchanged files are not reread."""
        changed = {}
        for name, path in self._kept_files().items():
            status = path.stat()
            mark = (status.st_size, status.st_mtime_ns, status.st_ino)
            if self._seen.get(name) != mark:
                changed[name], self._seen[name] = _fingerprint(path), mark
        self.write("keep", bill, changed)

    def resume(self) -> tuple[Bill, Bill]:
        """What earlier attempts cost, up to each one's last ``keep`` and after it; ``checkpoints`` as that left it.

        The files of a folder inside ``checkpoints`` belong together: where one was taken away since, the others go too.
        Where one has another content, all work counts as lost.
        """
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        diary = self._read()
        present = self._kept_files()
        for name in present.keys() - diary.files.keys():
            present.pop(name).unlink()
        for name in diary.files.keys() - present.keys():
            if "/" in name:
                shutil.rmtree(self.checkpoints / Path(name).parent, ignore_errors=True)
        damaged = [name for name, path in self._kept_files().items() if _fingerprint(path) != diary.files[name]]
        if damaged:
            logger.warning("unfinished work is damaged (%s); doing it again", self.checkpoints / damaged[0])
            shutil.rmtree(self.checkpoints)
            self.checkpoints.mkdir()
            self.write("lost", Bill.zero())
            diary = self._read()
        for folder in sorted((path for path in self.checkpoints.rglob("*") if path.is_dir()), reverse=True):
            with contextlib.suppress(OSError):  # not empty
                folder.rmdir()
        kept = sum((saved for saved, _ in diary.attempts), Bill.zero())
        return kept, sum((last.since(saved) for saved, last in diary.attempts), Bill.zero())

    def process(self) -> int | None:
        """Who is at it, or was last."""
        return self._read().process

    def _kept_files(self) -> dict[str, Path]:
        paths = (path for path in self.checkpoints.rglob("*") if not path.is_dir())
        return {path.relative_to(self.checkpoints).as_posix(): path for path in paths}

    def _read(self) -> _Diary:
        diary = _Diary([], {})
        lines = self._path.read_text(errors="replace").splitlines() if self._path.exists() else []
        for line in lines:
            try:
                entry = json.loads(line)
                if entry.pop("check") != _check(entry):
                    continue
            except (ValueError, LookupError, TypeError, AttributeError):
                continue  # blank, damaged, or being written when the process died
            event, bill = entry["event"], Bill.from_json(entry["bill"])
            if event == "start":
                diary.attempts.append((Bill.zero(), bill))
                diary.process = entry["pid"]
            elif event == "lost":
                diary.attempts = [(Bill.zero(), last) for _, last in diary.attempts]
                diary.files = {}
            elif diary.attempts:
                diary.attempts[-1] = (bill if event == "keep" else diary.attempts[-1][0], bill)
                diary.files |= entry["files"]
        return diary

    @contextlib.contextmanager
    def running(self, meter: Meter) -> Iterator[None]:
        """Measure the work in the block, writing readings down from a thread, and the last one at the end."""
        stop = threading.Event()

        def beat() -> None:
            while not stop.wait(self._heartbeat_s):
                with contextlib.suppress(OSError):  # a full disk stops the work itself; a missed beat need not
                    self.write("beat", meter.bill)

        with meter:
            if self._path.exists() and not self._path.read_bytes().endswith(b"\n"):
                with self._path.open("a") as file:
                    file.write("\n")  # the attempt before died within a line
            self.write("start", meter.bill)
            thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
            thread.start()
            try:
                yield
            finally:
                stop.set()
                thread.join()
                self.write("end", meter.bill)


def _check(entry: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(entry).encode())


def _fingerprint(path: Path) -> list[Any]:
    with path.open("rb") as file:
        return [path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()]
