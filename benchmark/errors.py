"""From an exception to one clear line and an exit code: 2 for bad input, 1 for the environment or a defect of ours."""

from __future__ import annotations

from filelock import Timeout

from prunebench.benchmark.config import ConfigError
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
    if isinstance(error, MemoryError):
        return "out of memory; use a smaller model or data set, or a machine with more", 1
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or line}", 1
    return f"unexpected {type(error).__name__}: {line}; run `bench --debug …` again for the traceback and report it", 1
