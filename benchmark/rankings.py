"""Rankings: made by a fine-tuned model, put together again, and as files, parts that a killed run goes on from too."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from prunebench.benchmark.blame import checked_rankings
from prunebench.datasets.schema import Queries
from prunebench.recommenders.base import Fitted, HasDiagnostics, Rankings, RanksUsers
from prunebench.recommenders.runtime import Runtime


def ranked(
    backbone: str, model: Fitted, queries: Queries, rows: np.ndarray, deepest: int, n_items: int, runtime: Runtime
) -> Rankings:
    """The rankings of some users, as deep as the largest cut-off and the user's own history together."""
    if not len(rows):
        return Rankings.concatenate([])
    users, histories = queries.users[rows], queries.histories.take(rows)
    depth = np.minimum(deepest + histories.lengths, n_items)
    if isinstance(model, RanksUsers):
        given = model.recommend_users(users, histories, depth.copy(), runtime)
    else:
        given = model.recommend(histories, depth.copy(), runtime)
    return checked_rankings(backbone, given, depth, n_items)


def diagnosis(model: Fitted, queries: Queries, runtime: Runtime) -> dict[str, float | int | str]:
    """What the model has to say of itself, if anything."""
    return model.diagnose(queries.users, queries.histories, runtime) if isinstance(model, HasDiagnostics) else {}


def dealt_back(parts: list[Rankings]) -> Rankings:
    """The rankings of users that were dealt out like cards to as many processes as there are parts, in their order."""
    if len(parts) == 1:
        return parts[0]
    users = np.arange(sum(map(len, parts)))
    dealt = [users[rank :: len(parts)] for rank in range(len(parts))]
    return Rankings.concatenate(parts).take(np.argsort(np.concatenate([users[:0], *dealt])))


def save_rankings(path: Path, rankings: Rankings) -> None:
    """Written under another name first: a killed process leaves no half-written part behind."""
    half = path.with_suffix(".half")
    with half.open("wb") as file:
        np.savez(file, items=rankings.items, scores=rankings.scores, offsets=rankings.offsets)
    half.replace(path)


def load_rankings(path: Path) -> Rankings:
    with np.load(path) as arrays:
        return Rankings(arrays["items"], arrays["scores"], arrays["offsets"])
