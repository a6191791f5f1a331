"""Draws every method shares: top-k, uniform, weighted and coverage-enhanced stratified selection.

All functions take scores and sample ids that belong together, in any order, and return positions into them. Randomness
is a hash of (seed, sample id), so that the chosen ids never depend on the order of the samples, nor do ties.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prunebench.datasets.schema import Samples
from prunebench.methods.base import MethodError, Selection

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
UInt64 = NDArray[np.uint64]


def minmax(scores: NDArray, ids: Int64, what: str = "score") -> Float64:
    """Scores [n] mapped to [0, 1] by their extremes, float64 [n]; zeros where all are equal.

    Raises MethodError naming the first sample whose score is not finite.
    """
    scores = _finite(scores, ids, what)
    if not len(scores):
        return scores
    low, high = scores.min(), scores.max()
    # Halves, so that the width of two extreme scores cannot overflow.
    width = high / 2 - low / 2
    return (scores / 2 - low / 2) / width if width > 0 else np.zeros_like(scores)


def priorities(ids: Int64, seed: int) -> UInt64:
    """A random-looking, collision-free rank key per sample id, uint64 [n] (SplitMix64, Steele et al. 2014)."""
    mixed = np.asarray(ids, np.int64).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed += np.uint64(seed % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))


def top(scores: NDArray, ids: Int64, budget: int, seed: int) -> Int64:
    """Positions of the ``budget`` highest scores, best first; ties by the hash of (seed, id)."""
    check_budget(budget, len(ids))
    return np.lexsort((priorities(ids, seed), -_finite(scores, ids, "score")))[:budget]


def uniform(ids: Int64, budget: int, seed: int) -> Int64:
    """Positions of ``budget`` samples drawn uniformly without replacement."""
    check_budget(budget, len(ids))
    return np.argsort(priorities(ids, seed))[:budget]


def weighted(weights: NDArray, ids: Int64, budget: int, seed: int) -> Int64:
    """Positions of ``budget`` samples drawn one after the other, without replacement, in proportion to weights ≥ 0.

    By exponential clocks (Efraimidis & Spirakis 2006). Samples of weight 0 are taken only once all others are.
    """
    check_budget(budget, len(ids))
    weights = _finite(weights, ids, "weight")
    if len(weights) and weights.min() < 0:
        raise MethodError(f"weight of sample {int(ids[np.argmin(weights)])} is negative: {weights.min():g}")
    hashes = priorities(ids, seed)
    # 53 high bits, shifted off zero: log(u) is finite.
    u = ((hashes >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    clocks = np.full(len(ids), np.inf)
    # In logarithms, so that tiny weights cannot overflow.
    np.subtract(
        np.log(-np.log(u)), np.log(weights, where=weights > 0, out=clocks.copy()), where=weights > 0, out=clocks
    )
    return np.lexsort((hashes, clocks))[:budget]


def hard_prune(scores: NDArray, ids: Int64, share: float, budget: int, seed: int) -> Int64:
    """Positions left, increasing, after dropping the ``share`` of samples with the highest scores.

    ⌊share · n⌋ are dropped, or fewer where ``budget`` samples would not remain (CCS, Zheng et al. 2023; DEALRec's
    released code drops 10%).
    """
    check_budget(budget, len(ids))
    # The tolerance keeps 0.29 · 100 at 29.
    dropped = min(int(share * len(ids) + 1e-9), len(ids) - budget)
    kept = np.ones(len(ids), bool)
    kept[top(scores, ids, dropped, seed)] = False
    return np.flatnonzero(kept)


def strata(scores: NDArray, groups: int) -> Int64:
    """Stratum 0 … groups − 1 of each score: equal width from the lowest to the highest, which is in the last one."""
    scores = np.asarray(scores, np.float64)
    scaled = minmax(scores, np.arange(len(scores), dtype=np.int64))
    return np.minimum((scaled * groups).astype(np.int64), groups - 1)


def allocate(sizes: Int64, budget: int) -> Int64:
    """How many to draw from each group of these sizes: ascending allocation of Alg. 2, int64 [groups].

    Empty groups are dropped first; then repeatedly the smallest group left gives min(⌊budget left / groups left⌋, its
    size). The sum is ``budget`` exactly.
    """
    check_budget(budget, int(np.sum(sizes)))
    taken = np.zeros(len(sizes), np.int64)
    order = np.argsort(sizes, kind="stable")
    order = order[sizes[order] > 0]
    for done, group in enumerate(order):
        taken[group] = min((budget - int(taken.sum())) // (len(order) - done), int(sizes[group]))
    return taken


@dataclass(frozen=True, eq=False)
class Strata:
    """A coverage-enhanced draw laid out: all that decides whether a sample is drawn.

    ``stratum`` int64 [n], of each sample; ``place`` int64 [n], in its stratum's random order, from 0; ``sizes`` and
    ``taken`` int64 [groups], how many each stratum has and gives.
    """

    stratum: Int64
    place: Int64
    sizes: Int64
    taken: Int64

    @property
    def chosen(self) -> Int64:
        """Positions of the samples drawn, increasing: of each stratum the first ``taken``."""
        return np.flatnonzero(self.place < self.taken[self.stratum])


def stratify(scores: NDArray, ids: Int64, budget: int, groups: int, seed: int) -> Strata:
    """The coverage-enhanced draw: Alg. 2 of Lin et al. 2024, after Zheng et al. 2023.

    The range of ``scores`` [n] is cut into ``groups`` strata of equal width; ``allocate`` says how many come from each,
    and within a stratum the draw is uniform.
    """
    check_budget(budget, len(ids))
    stratum = strata(_finite(scores, ids, "score"), groups)
    sizes = np.bincount(stratum, minlength=groups).astype(np.int64)
    place = np.empty(len(ids), np.int64)
    place[np.lexsort((priorities(ids, seed), stratum))] = np.arange(len(ids)) - np.repeat(
        np.cumsum(sizes) - sizes, sizes
    )
    return Strata(stratum, place, sizes, allocate(sizes, budget))


def stratified(scores: NDArray, ids: Int64, budget: int, groups: int, seed: int) -> Int64:
    """Positions of the coverage-enhanced draw, increasing: ``stratify``'s."""
    return stratify(scores, ids, budget, groups, seed).chosen


def check_budget(budget: int, available: int) -> None:
    """Raise MethodError unless 0 ≤ budget ≤ available."""
    if not 0 <= budget <= available:
        raise MethodError(f"a budget of {budget} cannot be met from {available} samples: ask for 0 … {available}")


def selection(samples: Samples, positions: Int64, **notes: float | int | str) -> Selection:
    """The Selection of the samples at these positions, ids increasing."""
    return Selection(np.sort(samples.ids[positions]), notes)


def check_selection(chosen: Selection, samples: Samples, budget: int) -> None:
    """Raise MethodError unless ``chosen`` holds exactly ``budget`` distinct ids of ``samples``, int64, increasing."""
    ids = chosen.ids
    if not isinstance(ids, np.ndarray) or ids.dtype != np.int64 or ids.ndim != 1:
        raise MethodError("the selection's ids must be one int64 array [budget]")
    if len(ids) != budget:
        raise MethodError(f"the method chose {len(ids)} samples where the budget is {budget}")
    steps = np.diff(ids)
    if (np.diff(np.sort(ids)) == 0).any():
        raise MethodError("the method chose a sample twice")
    if (steps < 0).any():
        raise MethodError("the selection's ids must be increasing: sort them")
    foreign = ids[~np.isin(ids, samples.ids)]
    if len(foreign):
        raise MethodError(
            f"the method chose {foreign[:3].tolist()}, which are no sample ids (positions in place of ids?)"
        )


def _finite(values: NDArray, ids: Int64, what: str) -> Float64:
    values = np.asarray(values, np.float64)
    if values.shape != (len(ids),):
        raise MethodError(f"{what}s of shape {values.shape} for {len(ids)} samples")
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise MethodError(f"{what} of sample {int(ids[bad[0]])} is {values[bad[0]]} ({len(bad)} such samples)")
    return values
