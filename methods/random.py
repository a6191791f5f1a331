"""Random: a uniform draw without replacement, the baseline every method has to beat."""

from __future__ import annotations

from prunebench.datasets.schema import Samples
from prunebench.methods import explanations, selection
from prunebench.methods.base import Evidence, Explanation, Method, Selection, Step
from prunebench.recommenders.runtime import Runtime


class Random(Method):
    """Uniform random selection. It needs no evidence, so pruning costs nothing."""

    def select(self, samples: Samples, evidence: Evidence, budget: int, runtime: Runtime) -> Selection:
        return selection.selection(samples, selection.uniform(samples.ids, budget, _seed(runtime)))

    def explain(
        self, samples: Samples, evidence: Evidence, chosen: Selection, runtime: Runtime, position: int
    ) -> Explanation:
        """The sample's place in the draw."""
        budget, ids = len(chosen.ids), samples.ids
        rank = explanations.place(selection.uniform(ids, len(ids), _seed(runtime)), position) + 1
        says = f"place {rank:,} of {len(ids):,} in a random order of all samples; nothing about a sample counts"
        steps = (Step("draw", says, {"place": rank, "of": len(ids)}), explanations.cut(rank, budget, len(ids)))
        return Explanation(rank <= budget, steps)


def _seed(runtime: Runtime) -> int:
    return runtime.derive("random selection")
