"""Long computations over many samples, cut into parts that a killed process need not do again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prunebench.recommenders.runtime import Runtime

CHUNK = 8192
"""Samples computed between two points a killed run can continue from."""


def in_chunks(
    folder: Path,
    name: str,
    count: int,
    compute: Callable[[NDArray[np.int64], Runtime], NDArray[np.float32]],
    runtime: Runtime,
    size: int = CHUNK,
) -> NDArray[np.float32]:
    """One value, or row of values, per position 0 … count − 1, float32 [count, …], ``size`` positions at a time.

    ``compute(positions, runtime)`` gives the values of one chunk, and its progress counts as progress of the whole.
    Finished chunks lie in ``folder`` under ``name``; those found there are not computed again.
    """
    parts = []
    for start in range(0, count, size):
        positions = np.arange(start, min(start + size, count), dtype=np.int64)
        part = folder / f"{name}-{start:09d}-{len(positions)}.npy"
        if not part.exists():
            # Under another name first: a killed process leaves no half-written part behind.
            half = part.with_suffix(".half.npy")
            np.save(half, compute(positions, _shifted(runtime, start, count)))
            half.replace(part)
            runtime.saved()
        parts.append(np.load(part))
    return np.concatenate(parts) if parts else np.empty(0, np.float32)


def _shifted(runtime: Runtime, start: int, total: int) -> Runtime:
    return replace(runtime, report=lambda done, _, what: runtime.report(start + done, total, what))
