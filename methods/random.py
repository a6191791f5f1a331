"""Random: a uniform draw without replacement, the baseline every method has to beat."""

from __future__ import annotations

from prunebench.datasets.schema import Samples
from prunebench.methods import selection
from prunebench.methods.base import Evidence, Method, Selection
from prunebench.recommenders.runtime import Runtime


class Random(Method):
    """Uniform random selection. It needs no evidence, so pruning costs nothing."""

    def select(self, samples: Samples, evidence: Evidence, budget: int, runtime: Runtime) -> Selection:
        chosen = selection.uniform(samples.ids, budget, runtime.derive("random selection"))
        return selection.selection(samples, chosen)
