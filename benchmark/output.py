"""Standard output for the answer alone: whatever else is printed meanwhile goes to standard error."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import Any


@contextmanager
def clean_output() -> Iterator[Any]:
    """Yield the real standard output, and send everything else that is printed meanwhile to standard error.

    Down to the file descriptor: a library, a plugin or a process it starts cannot spoil what a program reads, nor close
    what we write to.
    """
    sys.stdout.flush()
    real = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    strangers = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="replace", buffering=1)
    try:
        with redirect_stdout(strangers):
            yield real
            real.flush()
    finally:
        os.dup2(real.fileno(), 1)
        for stream in (real, strangers):
            with suppress(OSError, ValueError):  # a reader that went away was told of when we wrote
                stream.close()


def print_json(out: Any, value: Any) -> None:
    """Indented, one document."""
    json.dump(value, out, indent=1)
    out.write("\n")
