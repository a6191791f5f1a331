"""Herding: keep the mean of the chosen user vectors at the mean of all (Welling, ICML 2009)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prunebench.datasets.schema import Int64, Samples
from prunebench.methods.base import Evidence, Explanation, Selection
from prunebench.methods.clustering import canonical
from prunebench.methods.explanations import greedy
from prunebench.methods.selection import check_budget, selection
from prunebench.methods.vectors import VectorMethod
from prunebench.recommenders.runtime import Runtime


class Herding(VectorMethod):
    """Herding (Welling, "Herding dynamical weights to learn", ICML 2009), without replacement.

    Each step takes the sample that brings the mean of the chosen vectors nearest to the mean of all, as in iCaRL (Rebuffi
    et al., CVPR 2017) and DeepCore (Guo et al. 2022). Of vectors of equal length that is Welling's own rule, the largest
    inner product with what is missing. Vectors are centred, which changes nothing but rounding, and not normalised. A
    smaller budget's selection is part of a larger one's.
    """

    def select(self, samples: Samples, evidence: Evidence, budget: int, runtime: Runtime) -> Selection:
        """The first ``budget`` samples of the herding order; ties by the hash of (seed, id)."""
        return selection(samples, self._order(samples, evidence, budget, runtime))

    def _order(self, samples: Samples, evidence: Evidence, budget: int, runtime: Runtime) -> Int64:
        return herd(evidence["user_vectors"], samples.ids, budget, runtime.derive("herding ties"), runtime)

    def explain(
        self, samples: Samples, evidence: Evidence, chosen: Selection, runtime: Runtime, position: int
    ) -> Explanation:
        """The step that took it, and how it lies to the mean and to the others chosen."""
        vectors, order = evidence["user_vectors"], self._order(samples, evidence, len(chosen.ids), runtime)
        rule = "the one that brings the mean of the chosen nearest to the mean of all"
        return greedy(vectors, samples.ids, order, position, rule)


def herd(vectors: NDArray, ids: Int64, count: int, seed: int, runtime: Runtime) -> Int64:
    """Positions of ``count`` samples in the order of herding, int64; a smaller count gives a prefix.

    ``vectors`` [n, d] belong to ``ids`` [n]. One product of the vectors with the sum of the chosen per step. Raises
    MethodError for vectors that are not finite and for a count beyond n.
    """
    check_budget(count, len(ids))
    rows, order = canonical(vectors, ids, seed)
    if count:
        rows -= rows.mean(axis=0, dtype=np.float64).astype(np.float32)
    squares = np.einsum("ij,ij->i", rows, rows)
    total = np.zeros(rows.shape[1])
    chosen, taken = np.empty(count, np.int64), np.zeros(len(rows), bool)
    for step in runtime.track(range(count), "herding"):
        # ‖total + row‖², less ‖total‖², which is the same for all.
        distance = rows @ (2 * total).astype(np.float32)
        distance += squares
        distance[taken] = np.inf
        chosen[step] = np.argmin(distance)
        taken[chosen[step]] = True
        total += rows[chosen[step]]
    return order[chosen]
