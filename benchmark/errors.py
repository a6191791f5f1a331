"""From an exception to one clear line and an exit code: 2 for bad input, 1 for the environment or a defect of ours."""

from __future__ import annotations

from filelock import Timeout

from prunebench.benchmark.config import ConfigError
from prunebench.benchmark.interrupts import RESUME
from prunebench.benchmark.machine import disk_full, out_of_memory
from prunebench.benchmark.metrics import MetricError
from prunebench.benchmark.plugins import PluginError
from prunebench.benchmark.store import StoreError
from prunebench.datasets.schema import DataError
from prunebench.leaderboard.record import RecordError
from prunebench.methods.base import MethodError
from prunebench.recommenders.base import RecommenderError

BAD_INPUT = (ConfigError, DataError, MethodError, MetricError, PluginError, RecommenderError, RecordError)


def explain(error: BaseException) -> tuple[str, int]:
    """``(line, exit code)``."""
    line = " ".join(str(error).split())
    if isinstance(error, BAD_INPUT):
        return line, 2
    if isinstance(error, (StoreError, Timeout)):
        return line, 1
    if out_of_memory(error):
        return "out of memory; use a smaller model, batch or data set, or a machine with more", 1
    where = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
    if disk_full(error):
        said = (error.strerror if isinstance(error, OSError) else None) or "no space left on the disk"
        return f"{where}{said}; free some space: {RESUME}", 1
    if isinstance(error, OSError):
        return f"{where}{error.strerror or line}", 1
    return f"unexpected {type(error).__name__}: {line}; run `bench --debug …` again for the traceback and report it", 1
