"""Boards for tests of the page: several data sets, budgets, kinds of rows, and names that try to be markup."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from board_world import run, runs

from prunebench.leaderboard.board import Board, Run, make_board
from prunebench.leaderboard.record import DatasetFacts, StageBill, total
from prunebench.leaderboard.score_summary import summarise

SAMPLES = 100
RESAMPLES = 100
HOSTILE = (
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(2)>",
    """quotes " ' ` and & <!-- {{data}}""",
    "\u202eright to left \u05e9\u05dc\u05d5\u05dd",
    "emoji 🦊 \u2028 line \u2029 end",
)


def bill(pruning: float, fitting: float, device: str = "cpu A, 2 cores") -> dict[str, Any]:
    """The facts of a record about what it cost, in seconds."""
    stages = (("surrogate", "pruning", pruning), ("fit", "fine-tuning", fitting), ("predictions", "inference", 2.5))
    made = [
        StageBill(stage=stage, hash=stage, phase=phase, wall_s=wall, cpu_s=1, peak_rss_mb=512 + wall, device=device)
        for stage, phase, wall in stages
    ]
    return {"bill": made, "totals": total(made)}


def scored(one: Run, budget: int) -> Run:
    """The run with a selection, and the scores it was made by."""
    rng = np.random.default_rng([one.record.seeds.selection, *one.record.method.encode()])
    scores, kept = rng.normal(size=SAMPLES), np.zeros(SAMPLES, bool)
    kept[rng.permutation(SAMPLES)[:budget]] = True
    summary = summarise("score", scores, kept, np.linspace(-2, 2, 9), 1.5)
    return replace(one, selection=np.flatnonzero(kept), scores=summary)


def family(dataset: str, budgets: tuple[int, ...] = (10, 20)) -> list[Run]:
    """A data set's runs: three methods at each budget, zero-shot, full, a plugin, two references."""
    facts: dict[str, Any] = {"dataset": DatasetFacts(name=dataset, fingerprint="f1")}
    made: list[Run] = []
    for budget in budgets:
        size: dict[str, Any] = {"budget": budget, "share": budget / SAMPLES, **facts}
        higher = budget / 200
        shares = {"random": (0.30, 0.34, 0.32), "dealrec": (0.61, 0.62, 0.66), "ccs": (0.29, 0.36)}
        for at, (method, means) in enumerate(shares.items()):
            there = runs(method, [mean + higher for mean in means], **size, **bill(7.0 * at, budget / 2))
            made += [scored(one, budget) for one in there]
        mixed = bill(3, 4) | {"bill": bill(3, 4)["bill"][:1] + bill(1, 1, "gpu B")["bill"][1:]}
        mixed["totals"] = total(mixed["bill"])
        made += runs("el2n", (0.05, 0.06, 0.05), **size, **mixed)
        made += runs(
            "oracle",
            (0.9, 0.92, 0.91),
            config={"plugins": {"method": "a" * 64}},
            changes={"method.lam": 0.5},
            **size,
            **bill(0, 3),
        )
    made += runs("none", (0.02,), budget=0, share=0, **facts, **bill(0, 0))
    made += runs("full", (0.7, 0.72, 0.74), budget=SAMPLES, share=1, **facts, **bill(0, 90))
    made.append(run("none", 0.11, backbone="popular", llm=None, budget=0, share=0, **facts, **bill(0, 0)))
    made.append(run("full", 0.8, backbone="sasrec", llm=None, budget=SAMPLES, share=1, **facts, **bill(0, 40)))
    return made


@cache
def board() -> Board:
    """Two data sets, the second with one budget."""
    return make_board([*family("games"), *family("mini", (10,))], resamples=RESAMPLES)


@cache
def hostile_board() -> Board:
    """Every name that a record can bring along is one of ``HOSTILE``."""
    made = [
        one
        for name in HOSTILE
        for one in (
            *runs("random", (0.3, 0.4), dataset=DatasetFacts(name=name, fingerprint=name), llm=name),
            *runs(
                name, (0.5, 0.7), dataset=DatasetFacts(name=name, fingerprint=name), llm=name, command=f"bench {name}"
            ),
        )
    ]
    return make_board(made, resamples=RESAMPLES)
