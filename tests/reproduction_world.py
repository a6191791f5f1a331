"""Rows of a study, and the pages made of them and of hand-made records."""

from __future__ import annotations

from typing import Any

from board_world import runs

from prunebench.leaderboard.board import Run
from prunebench.leaderboard.reproduction_page import Reproduction, reproduction
from prunebench.leaderboard.reproductions import Wanted, find

PAIRS = [(seed, seed) for seed in range(3)]


def wanted(method: str, **facts: Any) -> Wanted:
    values: dict[str, Any] = {
        "method": method,
        "backbone": "bigrec",
        "dataset": "a",
        "split": "test",
        "llm": "catalogue",
        "surrogate": "sasrec",
        "budget": 10,
        "share": 0.1,
        "usual": True,
        "config": {},
        "asked": {},
        "seeds": PAIRS,
    }
    return Wanted(**values | facts)


def everything(means: list[float], **facts: Any) -> list[Run]:
    """Runs on all 100 samples."""
    return runs("full", means, budget=100, share=1.0, **facts)


def page(name: str, rows: list[Wanted], made: list[Run], against: str = "random") -> Reproduction:
    return reproduction(name, "A title", f"bench reproduce {name}", find(rows, made, against, resamples=200))


def tables(text: str) -> str:
    """A page without its head and legend."""
    return text.split("samples\n\n", 1)[1].split("\n- R = recall")[0]
