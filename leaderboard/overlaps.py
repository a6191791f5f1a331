"""How much of what they kept the rows of a table have in common."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from prunebench.leaderboard.comparisons import rounded
from prunebench.leaderboard.record import Part

Choice = tuple[int, int]
"""(signal seed, selection seed): what a selection depends on; fine-tuning seeds change nothing of it."""
Selections = Mapping[Choice, NDArray[np.int64]]


class Overlaps(Part):
    """``shared[i][j]``: mean share of the kept samples that rows ``ids[i]`` and ``ids[j]`` have in common.

    The mean is over the seeds that both have, of |A∩B| / min(|A|, |B|); None where they have none in common.
    """

    ids: list[str]
    shared: list[list[float | None]]

    @model_validator(mode="after")
    def _square(self) -> Overlaps:
        if len(self.shared) != len(self.ids) or any(len(line) != len(self.ids) for line in self.shared):
            raise ValueError("overlaps must be a square")
        return self


def overlaps(rows: Mapping[str, Selections]) -> Overlaps | None:
    """Of rows by id, each with the ids it kept, unique and at least one, per seeds; None for fewer than two rows."""
    if len(rows) < 2:
        return None
    kept = list(rows.values())
    shared: list[list[float | None]] = [[1.0] * len(kept) for _ in kept]
    for at, ours in enumerate(kept):
        for other, theirs in enumerate(kept[:at]):
            shared[at][other] = shared[other][at] = _shared(ours, theirs)
    return Overlaps(ids=list(rows), shared=shared)


def _shared(ours: Selections, theirs: Selections) -> float | None:
    shares = [_share(ours[seeds], theirs[seeds]) for seeds in sorted(ours) if seeds in theirs]
    return rounded(fmean(shares)) if shares else None


def _share(ours: NDArray[np.int64], theirs: NDArray[np.int64]) -> float:
    return len(np.intersect1d(ours, theirs, assume_unique=True)) / min(len(ours), len(theirs))
