"""What foreign code may change for the whole process is put back when it is done: folder, torch's settings, who we are."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def undisturbed() -> Iterator[None]:
    """Put the working directory and torch's threads, precision and gradient mode back; a forked child ends here.

    A child that a part forked and left running would otherwise do the rest of our work a second time.
    """
    process, folder = os.getpid(), _folder()
    torch = sys.modules.get("torch")  # imported by whoever needs it, not by us
    if torch is not None:
        threads, precision, gradients = torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
    try:
        yield
    finally:
        if os.getpid() != process:
            os._exit(1)
        if folder is not None and _folder() != folder:
            os.chdir(folder)
        if torch is not None:
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
            torch.set_default_dtype(precision)
            torch.set_grad_enabled(gradients)


def _folder() -> str | None:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None
