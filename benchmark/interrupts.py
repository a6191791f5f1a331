"""Ctrl-C and SIGTERM: the first stops the work in order, the second ends it at once, even inside a C library."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
RESUME = "the same command continues where this one stopped"


@dataclass
class Interrupted:
    """The signal that came, if any did, and whether KeyboardInterrupt was raised for it."""

    number: int | None = None
    raised: bool = False

    @property
    def line(self) -> str:
        return f"{'terminated' if self.number == signal.SIGTERM else 'interrupted'}; {RESUME}"

    @property
    def code(self) -> int:
        """130, or 143 for SIGTERM: what a shell gives for a process that the signal killed."""
        return 128 + (self.number or signal.SIGINT)


_active: list[Interrupted] = []
"""Those being waited for in this process; a forked child waits for none."""


@contextmanager
def told_once() -> Iterator[Interrupted]:
    """Raise KeyboardInterrupt at the first SIGINT or SIGTERM; at a second one leave the process, with its line.

    Python runs a handler only between two of its own steps, so a thread waits for the second. What was being written
    then is what a kill leaves: found and built again. Signals that the parent process ignores stay ignored.
    """
    interrupted = Interrupted()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return

    def first(number: int, frame: FrameType | None) -> None:
        interrupted.number = interrupted.number or number
        interrupted.raised = True
        raise KeyboardInterrupt

    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = {number: signal.getsignal(number) for number in SIGNALS}
    handled = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    waker = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in handled:
        signal.signal(number, first)
    _active.append(interrupted)
    threading.Thread(target=_watch, args=(reader, interrupted), name="interrupts", daemon=True).start()
    try:
        yield interrupted
    finally:
        if interrupted in _active:
            _active.remove(interrupted)
        signal.set_wakeup_fd(waker)
        for number in handled:
            signal.signal(number, before[number])
        os.close(writer)  # ends the thread


def stop_if_told() -> None:
    """Raise KeyboardInterrupt where one was raised before and the work goes on.

    Python swallows it in callbacks of its own, as when an object is collected.
    """
    if _active and _active[-1].raised:
        raise KeyboardInterrupt


def _watch(reader: int, interrupted: Interrupted) -> None:
    """Count the signals as they come in, one byte each, until the pipe is closed."""
    came = 0
    with os.fdopen(reader, "rb", buffering=0) as pipe:
        while byte := pipe.read(1):
            if byte[0] not in SIGNALS:
                continue
            came += 1
            interrupted.number = interrupted.number or byte[0]
            if came == 2:
                shown = "\x1b[?25h\n" if os.isatty(2) else ""  # the cursor, which a progress bar hides
                os.write(2, f"{shown}bench: {interrupted.line}\n".encode())
                os._exit(interrupted.code)


def _before_fork() -> None:
    if _active:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def _in_parent() -> None:
    if _active:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _in_child() -> None:
    """A forked child shares the pipe: its signals are not the parent's to count, not even the first ones."""
    if _active:
        _active.clear()
        signal.set_wakeup_fd(-1)
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # what came meanwhile ends the child here
        signal.signal(signal.SIGINT, signal.default_int_handler)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_in_parent, after_in_child=_in_child)
