"""Importance scores by name: what each is asked for as, and the methods that keep the highest of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from prunebench.datasets.schema import Samples
from prunebench.methods import explanations, selection
from prunebench.methods.base import Evidence, Explanation, Method, Scores, Selection
from prunebench.methods.influence import InfluenceConfig
from prunebench.recommenders.base import Config, Request
from prunebench.recommenders.runtime import Runtime

Score = Literal["el2n", "grand", "forgetting", "influence", "effort"]
Source = Literal["surrogate", "backbone"]


class EL2NConfig(Config):
    """Settings of EL2N on the surrogate."""

    runs: int = Field(default=1, ge=1, description="trainings of the surrogate, each from its own seed, averaged over")
    epochs: int = Field(default=10, ge=1, description="first epochs of each training, averaged over")


class GraNdConfig(Config):
    """Settings of GraNd on the surrogate."""

    runs: int = Field(default=10, ge=1, description="trainings of the surrogate, each from its own seed, averaged over")
    epochs: int = Field(default=10, ge=1, description="length of each training; its last epoch is scored")
    scope: Literal["block", "last_layer", "all"] = Field(default="all", description="surrogate parameters that count")


class ForgettingConfig(Config):
    """Settings of the forgetting score."""

    epochs: int = Field(default=40, ge=1, description="length of the surrogate's training")
    top: int = Field(default=10, ge=1, description="a sample is right where its target ranks this high")


SETTINGS: dict[str, type[Config]] = {
    "el2n": EL2NConfig,
    "grand": GraNdConfig,
    "forgetting": ForgettingConfig,
    "influence": InfluenceConfig,
    "effort": Config,
}
"""The settings each score has, by its name; effort takes the backbone's own."""

ON_BACKBONE = {"el2n": "token_errors", "grand": "effort"}
"""What a score is called where the LLM itself is asked, before fine-tuning, in place of a surrogate."""


def score_request(score: Score, settings: Config, source: Source = "surrogate") -> Request:
    """The request of a score. ``settings`` may hold more than the score's own; the backbone's variants take none."""
    if source == "backbone" and score in ON_BACKBONE:
        return Request(ON_BACKBONE[score])
    return Request(score, settings.model_dump(mode="json", include=set(SETTINGS[score].model_fields)))


class HighestFirst(Method):
    """Base of the methods that keep the samples with the highest score; ties are broken by a hash of (seed, sample id).

    The selection at a budget is part of the selection at any larger one.
    """

    score: ClassVar[Score]

    def requests(self) -> dict[str, Request]:
        """``score`` float32 [n]."""
        return {"score": score_request(self.score, self.config, getattr(self.config, "signal", "surrogate"))}

    def evidence_key(self) -> dict[str, Any]:
        """Nothing beyond the request."""
        return {}

    def prepare(self, samples: Samples, signals: Mapping[str, Any], runtime: Runtime) -> Evidence:
        return {"score": np.asarray(signals["score"], np.float32)}

    def select(self, samples: Samples, evidence: Evidence, budget: int, runtime: Runtime) -> Selection:
        """Raises MethodError naming a sample whose score is not finite."""
        return selection.selection(samples, selection.top(evidence["score"], samples.ids, budget, self._seed(runtime)))

    def scores(self, samples: Samples, evidence: Evidence, chosen: Selection, runtime: Runtime) -> Scores:
        return Scores(self.score, np.asarray(evidence["score"], np.float64))

    def explain(
        self, samples: Samples, evidence: Evidence, chosen: Selection, runtime: Runtime, position: int
    ) -> Explanation:
        """The score's rank against the budget."""
        seed = self._seed(runtime)
        return explanations.highest(evidence["score"], samples.ids, len(chosen.ids), seed, position, self.score)

    def _seed(self, runtime: Runtime) -> int:
        return runtime.derive(f"{self.score} selection")
