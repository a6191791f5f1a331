"""k-center: always the sample farthest from all chosen so far, on user vectors (Sener & Savarese, ICLR 2018)."""

from __future__ import annotations

from prunebench.datasets.schema import Int64, Samples
from prunebench.methods.base import Evidence, Explanation, Selection
from prunebench.methods.clustering import farthest_first
from prunebench.methods.explanations import greedy
from prunebench.methods.selection import selection
from prunebench.methods.vectors import VectorMethod
from prunebench.recommenders.runtime import Runtime


class KCenter(VectorMethod):
    """Greedy k-center (Sener & Savarese, "Active Learning for CNNs: a core-set approach", ICLR 2018).

    No sample is farther from the nearest chosen one than twice what the best choice of that size allows (Gonzalez 1985).
    The first is the sample nearest to the mean, where the paper starts from given labels. Vectors are taken as they are,
    not normalised. A smaller budget's selection is part of a larger one's.
    """

    def select(self, samples: Samples, evidence: Evidence, budget: int, runtime: Runtime) -> Selection:
        """The first ``budget`` samples of the farthest-first order; ties by the hash of (seed, id)."""
        return selection(samples, _order(samples, evidence, budget, runtime))

    def explain(
        self, samples: Samples, evidence: Evidence, chosen: Selection, runtime: Runtime, position: int
    ) -> Explanation:
        """The step that took it, and how far it was from the chosen ones then, or is from the nearest of all of them."""
        vectors, order = evidence["user_vectors"], _order(samples, evidence, len(chosen.ids), runtime)
        return greedy(vectors, samples.ids, order, position, "the one farthest from all chosen before")


def _order(samples: Samples, evidence: Evidence, budget: int, runtime: Runtime) -> Int64:
    seed = runtime.derive("k_center ties")
    return farthest_first(evidence["user_vectors"], samples.ids, budget, seed, runtime)
