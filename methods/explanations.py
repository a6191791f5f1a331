"""What explanations share: places in an order, scores against the cut, and the steps of a coverage-enhanced draw."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prunebench.datasets.schema import Int64
from prunebench.methods import selection
from prunebench.methods.base import Explanation, Scores, Step


def place(order: Int64, position: int) -> int:
    """Where ``position`` stands in an order of all positions, from 0."""
    return int(np.flatnonzero(order == position)[0])


def number(value: float) -> str:
    """Six significant digits: strata of scores are narrow."""
    return f"{value:.6g}"


def highest(scores: NDArray, ids: Int64, budget: int, seed: int, position: int, what: str) -> Explanation:
    """Why ``selection.top`` keeps the sample at ``position`` or does not: its rank against the budget.

    ``what`` names the score [n] that the highest are kept of.
    """
    order = selection.top(scores, ids, len(ids), seed)
    rank, value = place(order, position) + 1, float(scores[position])
    tied = int((scores == scores[position]).sum()) - 1
    says = f"{what} {number(value)} is rank {rank:,} of {len(ids):,}, the highest first"
    if tied:
        says += f"; {tied:,} others are equal, and a hash of seed and sample id puts them in order"
    steps = (
        Step("rank", says, {"score": value, "rank": rank, "of": len(ids), "tied": tied}),
        cut(rank, budget, len(ids)),
    )
    return Explanation(rank <= budget, steps)


def cut(rank: int, budget: int, available: int) -> Step:
    """The last step of every order of which the first ``budget`` are kept."""
    says = f"the first {budget:,} of {available:,} are kept, and rank {rank:,} is {'among' if rank <= budget else 'not among'} them"
    return Step("cut", says, {"budget": budget, "rank": rank})


def coverage(
    scores: NDArray, left: Int64, draw: selection.Strata, position: int, share: float, rule: str
) -> Explanation:
    """Hard pruning and the coverage-enhanced draw, as the sample at ``position`` of ``scores`` [n] went through them.

    ``left``: positions that hard pruning of ``share`` left; ``draw``: the draw among those; ``rule``: the source of both.
    """
    dropped = np.ones(len(scores), bool)
    dropped[left] = False
    count, is_dropped = int(dropped.sum()), bool(dropped[position])
    lowest = float(scores[dropped].min()) if count else None
    says = f"the {count:,} highest of {len(scores):,} scores ({share:.4g} of all) are dropped first"
    if lowest is None:
        says = f"no score is dropped for being high (a share of {share:.4g} of {len(scores):,}, as far as the budget lets it)"
    else:
        says += f", from {number(lowest)} up: this one {'is dropped' if is_dropped else 'stays'}"
    steps = [Step("hard pruning", says, {"dropped": count, "threshold": lowest, "is_dropped": is_dropped})]
    if is_dropped:
        return Explanation(False, tuple(steps))
    at, groups = int(np.searchsorted(left, position)), len(draw.sizes)
    group, index = int(draw.stratum[at]), int(draw.place[at])
    size, taken = int(draw.sizes[group]), int(draw.taken[group])
    low, width = float(scores[left].min()), float(scores[left].max()) - float(scores[left].min())
    start, end = low + width * group / groups, low + width * (group + 1) / groups
    facts = {"stratum": group + 1, "strata": groups, "low": start, "high": end, "size": size}
    says = f"stratum {group + 1:,} of {groups:,}, scores from {number(start)} to {number(end)}, holds {size:,} of the {len(left):,} samples left"
    steps.append(Step("stratum", says, facts))
    filled = int((draw.sizes > 0).sum())
    says = f"{rule} takes {taken:,} of these {size:,}: the smallest of {filled:,} filled strata first, each gives an equal share of the budget that is left, or all it has"
    steps.append(Step("allocation", says, {"drawn": taken, "size": size, "filled_strata": filled}))
    is_kept = index < taken
    says = f"place {index + 1:,} of {size:,} in the stratum's random order: {'among' if is_kept else 'not among'} the first {taken:,}"
    steps.append(Step("draw", says, {"place": index + 1, "size": size, "drawn": taken}))
    return Explanation(is_kept, tuple(steps))


def spread(
    name: str, scores: NDArray[np.float64], candidates: Int64, left: Int64, draw: selection.Strata, n: int
) -> Scores:
    """The scores of a coverage-enhanced draw among ``n`` samples, with the strata it drew from.

    ``scores`` [m] are those of the samples at ``candidates`` [m]; hard pruning ``left`` these of them, and ``draw`` is theirs.
    """
    values = np.full(n, np.nan)
    values[candidates] = scores
    dropped = np.delete(scores, left)
    strata = np.linspace(scores[left].min(), scores[left].max(), len(draw.sizes) + 1) if len(left) else None
    return Scores(name, values, strata, float(dropped.min()) if len(dropped) else None)


def greedy(vectors: NDArray, ids: Int64, order: Int64, position: int, rule: str) -> Explanation:
    """Why a search that takes one sample after the other took the row ``position`` of ``vectors`` [n, d], or did not.

    ``order``: the positions it took; ``rule``: what a step takes. The distance is to the nearest sample taken before,
    and to the nearest of all where this one was not taken.
    """
    found = np.flatnonzero(order == position)
    at = int(found[0]) if len(found) else None
    steps = [_to_the_mean(vectors, position)]
    if len(before := order[:at]):
        distances = np.linalg.norm(np.asarray(vectors[before], np.float64) - vectors[position], axis=1)
        other, distance = int(ids[before[np.argmin(distances)]]), float(distances.min())
        says = f"{number(distance)} from sample {other}, the nearest of the {len(before):,} chosen{' before it' if at is not None else ''}"
        steps.append(Step("distance to the chosen", says, {"distance": distance, "nearest": other}))
    says = f"each of {len(order):,} steps takes {rule}; this one was "
    says += f"taken in step {at + 1:,}" if at is not None else "never that"
    steps.append(Step("search", says, {"steps": len(order), "step": None if at is None else at + 1}))
    return Explanation(at is not None, tuple(steps))


def _to_the_mean(vectors: NDArray, position: int) -> Step:
    distances = np.linalg.norm(vectors - vectors.mean(axis=0, dtype=np.float64), axis=1)
    own, rank = float(distances[position]), int((distances < distances[position]).sum()) + 1
    says = f"its vector is {number(own)} from the mean of all, rank {rank:,} of {len(vectors):,}, the nearest first"
    return Step("distance to the mean", says, {"distance": own, "rank": rank, "of": len(vectors)})
