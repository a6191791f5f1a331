"""CCS: coverage-centric coreset selection, a draw over the whole range of importance (Zheng et al., ICLR 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from prunebench.datasets.schema import Int64, Samples
from prunebench.methods import explanations, selection
from prunebench.methods.base import Evidence, Explanation, Method, Scores, Selection
from prunebench.methods.scores import ON_BACKBONE, SETTINGS, Score, Source, score_request
from prunebench.recommenders.base import Config, Request
from prunebench.recommenders.runtime import Runtime


class CCSConfig(Config):
    """β is the paper's hard cutoff rate, searched for each pruning rate there and growing with it; the released code's
    example prunes 90% of CIFAR10 with 0.3. At this benchmark's budgets 96% and more are pruned, hence 0.3."""

    importance: Score = Field(default="el2n", description="the score that is stratified, high meaning hard")
    importance_config: dict[str, Any] = Field(
        default={}, validate_default=True, description="that score's own settings, e.g. importance_config.epochs"
    )
    signal: Source = Field(default="surrogate", description="surrogate, or backbone: el2n or grand of the LLM")
    beta: float = Field(
        default=0.3, ge=0, lt=1, allow_inf_nan=False, description="β, share of the hardest samples dropped first"
    )
    groups: int = Field(default=50, ge=1, le=1_000_000, description="k, strata of equal width")

    @field_validator("importance_config")
    @classmethod
    def _written_out(cls, values: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        kind = SETTINGS.get(info.data.get("importance", ""))
        if kind is None:
            return values
        try:
            return kind.model_validate(values).model_dump(mode="json")
        except ValidationError as error:
            first = error.errors()[0]
            setting = ".".join(map(str, first["loc"]))
            raise ValueError(
                f"{info.data['importance']} has {', '.join(kind.model_fields) or 'no settings'}; {setting}: {first['msg']}"
            ) from None

    @model_validator(mode="after")
    def _backbone_has_it(self) -> CCSConfig:
        if self.signal == "backbone" and self.importance not in (*ON_BACKBONE, "effort"):
            raise ValueError(f"{self.importance} is a surrogate's score: use signal surrogate, or el2n or grand")
        return self


class CCS(Method):
    """Coverage-centric coreset selection (Zheng et al., ICLR 2023, arXiv 2210.15809, Algorithm 1).

    The ⌊βn⌋ hardest samples are dropped; the range of the others' importance is cut into strata of equal width; from the
    smallest stratum to the largest, each gives an equal share of the budget that is left, drawn uniformly. DEALRec's draw
    is the same one.
    """

    Config = CCSConfig

    def requests(self) -> dict[str, Request]:
        """``importance`` float32 [n]."""
        config = self.config
        settings = SETTINGS[config.importance].model_validate(config.importance_config)
        return {"importance": score_request(config.importance, settings, config.signal)}

    def evidence_key(self) -> dict[str, Any]:
        """Nothing beyond the request: β and k belong to the selection."""
        return {}

    def prepare(self, samples: Samples, signals: Mapping[str, Any], runtime: Runtime) -> Evidence:
        return {"importance": np.asarray(signals["importance"], np.float32)}

    def select(self, samples: Samples, evidence: Evidence, budget: int, runtime: Runtime) -> Selection:
        """Raises MethodError naming a sample whose importance is not finite.

        Fewer than ⌊βn⌋ samples are dropped where the budget could not be met otherwise; the notes say how many.
        """
        left, draw = self._draw(samples, evidence, budget, runtime)
        notes = {"hard_pruned": len(samples) - len(left), "strata": int((draw.sizes > 0).sum())}
        return selection.selection(samples, left[draw.chosen], **notes)

    def _draw(
        self, samples: Samples, evidence: Evidence, budget: int, runtime: Runtime
    ) -> tuple[Int64, selection.Strata]:
        """Positions that hard pruning leaves, and the draw among them."""
        config, ids, score = self.config, samples.ids, evidence["importance"]
        seed = runtime.derive("ccs selection")
        left = selection.hard_prune(score, ids, config.beta, budget, seed)
        return left, selection.stratify(score[left], ids[left], budget, config.groups, seed)

    def scores(self, samples: Samples, evidence: Evidence, chosen: Selection, runtime: Runtime) -> Scores:
        """The importance and the strata of Algorithm 1."""
        left, draw = self._draw(samples, evidence, len(chosen.ids), runtime)
        values, n = np.asarray(evidence["importance"], np.float64), len(samples)
        return explanations.spread(self.config.importance, values, np.arange(n), left, draw, n)

    def explain(
        self, samples: Samples, evidence: Evidence, chosen: Selection, runtime: Runtime, position: int
    ) -> Explanation:
        """Its importance, whether it was among the hardest, its stratum, and its place in that stratum's draw."""
        left, draw = self._draw(samples, evidence, len(chosen.ids), runtime)
        score = np.asarray(evidence["importance"], np.float64)
        return explanations.coverage(score, left, draw, position, self.config.beta, "Algorithm 1")
