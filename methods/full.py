"""Full: no pruning, every sample; the reference a pruned run is read against."""

from __future__ import annotations

import numpy as np

from prunebench.datasets.schema import Samples
from prunebench.methods.base import Evidence, Explanation, Method, MethodError, Selection, Step
from prunebench.recommenders.runtime import Runtime


class Full(Method):
    """Keeps every sample, so it knows one budget only: all of them."""

    def select(self, samples: Samples, evidence: Evidence, budget: int, runtime: Runtime) -> Selection:
        """All ids. Raises MethodError where ``budget`` is not the number of samples."""
        if budget != len(samples):
            raise MethodError(
                f"full keeps all {len(samples)} samples: leave the budget out, or use random for {budget}"
            )
        return Selection(np.sort(samples.ids))

    def explain(
        self, samples: Samples, evidence: Evidence, chosen: Selection, runtime: Runtime, position: int
    ) -> Explanation:
        """All are kept."""
        return Explanation(True, (Step("all", f"all {len(samples):,} samples are kept", {"of": len(samples)}),))
