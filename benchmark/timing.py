"""One row of `bench perf`: our path and a plain reference, timed in one process, their results compared."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from prunebench.recommenders.base import RecommenderError

AGREEMENT = 1e-3
T = TypeVar("T")


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """Wall seconds and the result."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def row(name: str, ours: tuple[float, Any], reference: tuple[float, Any]) -> dict[str, Any]:
    """Raises RecommenderError where the results differ: numbers by over a thousandth of the largest, choices at all."""
    here, there = np.asarray(ours[1]), np.asarray(reference[1])
    within = 0.0 if np.issubdtype(there.dtype, np.integer) else AGREEMENT * np.abs(there).max()
    if here.shape != there.shape or np.abs(here - there).max() > within:
        raise RecommenderError(f"{name}: our result disagrees with the plain reference, so the times mean nothing")
    return {"name": name, "ours_s": ours[0], "reference_s": reference[0], "ratio": reference[0] / ours[0]}
