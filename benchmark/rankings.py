"""Rankings as files: the parts a killed run goes on from, and the whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from prunebench.recommenders.base import Rankings


def save_rankings(path: Path, rankings: Rankings) -> None:
    """Written under another name first: a killed process leaves no half-written part behind."""
    half = path.with_suffix(".half")
    with half.open("wb") as file:
        np.savez(file, items=rankings.items, scores=rankings.scores, offsets=rankings.offsets)
    half.replace(path)


def load_rankings(path: Path) -> Rankings:
    with np.load(path) as arrays:
        return Rankings(arrays["items"], arrays["scores"], arrays["offsets"])
