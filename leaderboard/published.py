"""The published figures of Lin et al., SIGIR 2024 (tables 2 and 3), to print beside ours."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

BUDGET = 1024
"""Samples kept in all of the paper's pruned rows."""
LAMBDA = {"games": 0.3, "microlens-50k": 1.0, "book": 1.0}
"""λ of the paper's DEALRec rows, per data set."""
_COLUMNS = {"games": "games", "microlens-50k": "microlens", "book": "book"}


def cutoffs(dataset: str) -> tuple[int, int]:
    """The two cut-offs the paper reports for a data set; 10 and 20 where it reports none."""
    return (20, 50) if dataset in ("microlens-50k", "book") else (10, 20)


def figures(
    dataset: str,
    backbone: str,
    method: str,
    budget: int,
    share: float,
    settings: Mapping[str, Any],
    changed: Iterable[str],
) -> dict[str, float]:
    """The paper's figures for a row, as ``{"R@10": 0.0181, …}``; empty where it has none.

    A pruned row must have the paper's budget, and the full row all samples. ``settings`` are the method's own, and
    ``changed`` names those that are not at their defaults: none may be but λ, which must be the paper's.
    """
    if dataset not in _COLUMNS or (share < 1 if method == "full" else budget != BUDGET):
        return {}
    if set(changed) - {"lam"} or settings.get("lam", LAMBDA[dataset]) != LAMBDA[dataset]:
        return {}
    prefix = _COLUMNS[dataset] + "_"
    for row in _rows():
        if (row["backbone"], row["method"]) == (backbone, method):
            named = {key.removeprefix(prefix): text for key, text in row.items() if key.startswith(prefix)}
            return {key: float(text) for key, text in named.items() if text and "@" in key}
    return {}


@cache
def _rows() -> list[dict[str, str]]:
    folder = files(__package__) / "paper"
    overall = list(csv.DictReader((folder / "table2_overall.csv").read_text(encoding="utf-8").splitlines()))
    full = csv.DictReader((folder / "table3_full_vs_dealrec_bigrec.csv").read_text(encoding="utf-8").splitlines())
    return overall + [{"backbone": "bigrec", **row} for row in full if row["method"] == "full"]
