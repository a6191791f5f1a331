"""Dense scores to rankings, a bounded number of scores at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from prunebench.recommenders.base import Float32, Rankings
from prunebench.recommenders.runtime import Runtime

CELLS = 2**24  # scores held at once: 64 MiB


def ranked_in_chunks(
    score: Callable[[NDArray[np.int64]], Float32], n_items: int, depth: NDArray[np.int64], runtime: Runtime
) -> Rankings:
    """Rankings from ``score(rows)`` float32 [len(rows), n_items], a bounded number of scores at a time."""
    rows = np.arange(len(depth), dtype=np.int64)
    step = max(CELLS // n_items, 1)
    chunks = [rows[first : first + step] for first in range(0, len(rows), step)]
    return Rankings.concatenate(
        Rankings.from_scores(score(chunk), depth[chunk]) for chunk in runtime.track(chunks, "users ranked")
    )
