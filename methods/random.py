"""Random: a uniform draw without replacement, the baseline every method has to beat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prunebench.datasets.schema import Samples
from prunebench.methods import selection
from prunebench.methods.base import Evidence, Selection
from prunebench.recommenders import base
from prunebench.recommenders.base import Request
from prunebench.recommenders.runtime import Runtime


class Random:
    """Uniform random selection. It needs no evidence, so pruning costs nothing."""

    class Config(base.Config):
        """Random selection has no knobs."""

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
        chosen = selection.uniform(samples.ids, budget, runtime.derive("random selection"))
        return selection.selection(samples, chosen)
