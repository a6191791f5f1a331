"""LESS: samples whose adapter step would lower validation users' loss most (Xia et al., ICML 2024); reads validation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from prunebench.datasets.schema import Samples
from prunebench.methods import explanations, selection
from prunebench.methods.base import Evidence, Explanation, Method, Scores, Selection
from prunebench.recommenders.base import AlignmentConfig, Request
from prunebench.recommenders.runtime import Runtime


class LESS(Method):
    """Selecting influential data for targeted instruction tuning (Xia et al., ICML 2024, arXiv 2402.04333).

    After a warm-up of the LLM's adapter on a small share of the samples, a sample's score is the cosine of its Adam
    step and the mean gradient of the `select` validation users, summed over checkpoints by learning rate; the highest
    are kept. **It reads validation data**, which most methods do not, and costs as many passes of forward and backward
    over all samples as the warm-up has epochs. It needs a backbone with an adapter; no surrogate.
    """

    Config = AlignmentConfig

    def requests(self) -> dict[str, Request]:
        return {"less": Request("less", self.config.model_dump(mode="json"))}

    def evidence_key(self) -> dict[str, Any]:
        """Nothing beyond the request."""
        return {}

    def prepare(self, samples: Samples, signals: Mapping[str, Any], runtime: Runtime) -> Evidence:
        return {"less": np.asarray(signals["less"], np.float32)}

    def select(self, samples: Samples, evidence: Evidence, budget: int, runtime: Runtime) -> Selection:
        """The highest scores, ties by a hash of the sample id."""
        return selection.selection(samples, selection.top(evidence["less"], samples.ids, budget, _seed(runtime)))

    def scores(self, samples: Samples, evidence: Evidence, chosen: Selection, runtime: Runtime) -> Scores:
        return Scores("alignment with validation users", np.asarray(evidence["less"], np.float64))

    def explain(
        self, samples: Samples, evidence: Evidence, chosen: Selection, runtime: Runtime, position: int
    ) -> Explanation:
        """The score's rank against the budget."""
        seed, what = _seed(runtime), "alignment with validation users"
        return explanations.highest(evidence["less"], samples.ids, len(chosen.ids), seed, position, what)


def _seed(runtime: Runtime) -> int:
    return runtime.derive("less selection")
