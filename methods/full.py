"""Full: no pruning, every sample; the reference a pruned run is read against."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from prunebench.datasets.schema import Samples
from prunebench.methods.base import Evidence, MethodError, Selection
from prunebench.recommenders import base
from prunebench.recommenders.base import Request
from prunebench.recommenders.runtime import Runtime


class Full:
    """Keeps every sample, so it knows one budget only: all of them."""

    class Config(base.Config):
        """Full selection has no knobs."""

    version = 1

    def __init__(self, config: Config) -> None:
        self.config = config

    def requests(self) -> dict[str, Request]:
        return {}

    def evidence_key(self) -> dict[str, Any]:
        return {}

    def prepare(self, samples: Samples, signals: Mapping[str, Any], runtime: Runtime) -> Evidence:
        return {}

    def select(self, samples: Samples, evidence: Evidence, budget: int, runtime: Runtime) -> Selection:
        """All ids. Raises MethodError where ``budget`` is not the number of samples."""
        if budget != len(samples):
            raise MethodError(
                f"full keeps all {len(samples)} samples: leave the budget out, or use random for {budget}"
            )
        return Selection(np.sort(samples.ids))
