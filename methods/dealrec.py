"""DEALRec: influence plus effort scores, and a coverage-enhanced draw (Lin et al., SIGIR 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, model_validator

from prunebench.datasets.schema import Samples
from prunebench.methods import selection
from prunebench.methods.base import Evidence, Method, MethodError, Selection
from prunebench.methods.influence import InfluenceConfig
from prunebench.recommenders.base import Request
from prunebench.recommenders.runtime import Runtime


class DEALRec(Method):
    """Data-efficient fine-tuning for LLM-based recommendation (Lin et al., SIGIR 2024, arXiv 2401.17197).

    A sample's score is minmax(influence) + λ · minmax(effort). Influence (Eq. 11) is how much the loss of a surrogate
    over all the data depends on the sample; effort (Eq. 12) is the norm of the LLM's gradient on it. The draw (Alg. 2)
    covers the whole range of scores in strata of equal width.
    """

    partial = frozenset({"effort"})

    class Config(InfluenceConfig):
        """DEALRec's hyper-parameters and the paper's ablations; defaults are those of Games.

        ``lambda`` is accepted for ``lam``. The influence's own settings are inherited.
        """

        model_config = ConfigDict(populate_by_name=True)

        lam: float = Field(
            default=0.3,
            ge=0,
            allow_inf_nan=False,
            alias="lambda",
            description="λ, weight of the effort score; Games 0.3, MicroLens-50K and Book 1.0 (searched in 0.1 … 2)",
        )
        groups: int = Field(
            default=50, ge=1, le=1_000_000, description="K, strata of equal score width (searched in 25, 50, 75)"
        )
        hard_prune: float = Field(
            default=0.1,
            ge=0,
            lt=1,
            description="share of samples with the highest overall scores dropped before the draw",
        )
        selection: Literal["coverage", "greedy"] = Field(
            default="coverage",
            description="coverage: Alg. 2; greedy: the highest scores, without hard pruning (ablation)",
        )
        use_influence: bool = Field(default=True, description="false: effort alone (ablation)")
        use_effort: bool = Field(default=True, description="false: influence alone (ablation)")
        effort_candidates: int | None = Field(
            default=None,
            ge=1,
            description="only this many most influential samples get an effort score and can be chosen; null: all",
        )

        @model_validator(mode="after")
        def _scores_remain(self) -> DEALRec.Config:
            if not (self.use_influence or self.use_effort):
                raise ValueError(
                    "use_influence and use_effort are both off: nothing is left to score by (use method random)"
                )
            if self.effort_candidates is not None and not (self.use_influence and self.use_effort):
                raise ValueError("effort_candidates needs use_influence and use_effort")
            return self

    def requests(self) -> dict[str, Request]:
        """``influence`` float32 [n]; ``effort`` float32 [n], NaN for samples outside ``effort_candidates``."""
        config = self.config
        influence = config.model_dump(mode="json", include=set(InfluenceConfig.model_fields))
        candidates = config.effort_candidates
        narrowed = {} if candidates is None else {"candidates": candidates, "by": influence}
        wanted: dict[str, Request] = {}
        if config.use_influence:
            wanted["influence"] = Request("influence", influence)
        if config.use_effort:
            wanted["effort"] = Request("effort", narrowed)
        return wanted

    def evidence_key(self) -> dict[str, Any]:
        """Nothing beyond the requests: λ, K, hard pruning and the draw belong to the selection."""
        return {}

    def prepare(self, samples: Samples, signals: Mapping[str, Any], runtime: Runtime) -> Evidence:
        """The two scores as they are, float32 [n] each: λ, K, hard pruning and the draw are left to ``select``."""
        return {name: np.asarray(signals[name], np.float32) for name in self.requests()}

    def select(self, samples: Samples, evidence: Evidence, budget: int, runtime: Runtime) -> Selection:
        """Alg. 2 on the overall score. Raises MethodError where the candidates are too few or a score is missing.

        Hard pruning drops fewer samples than asked for where the budget could not be met otherwise; the notes say
        how many.
        """
        config = self.config
        candidates = self._candidates(samples, evidence)
        if budget > len(candidates):
            raise MethodError(
                f"a budget of {budget} exceeds the {len(candidates)} candidates: raise effort_candidates to it"
            )
        ids = samples.ids[candidates]
        score = np.zeros(len(ids))
        for name, weight in (("influence", 1.0), ("effort", config.lam)):
            if name in evidence:
                score += weight * selection.minmax(evidence[name][candidates], ids, name)
        seed = runtime.derive("dealrec selection")
        if config.selection == "greedy":
            return selection.selection(samples, candidates[selection.top(score, ids, budget, seed)])
        kept = selection.hard_prune(score, ids, config.hard_prune, budget, seed)
        score, ids = score[kept], ids[kept]
        chosen = selection.stratified(score, ids, budget, config.groups, seed)
        notes = {
            "hard_pruned": len(candidates) - len(kept),
            "strata": len(np.unique(selection.strata(score, config.groups))),
        }
        return selection.selection(samples, candidates[kept[chosen]], **notes)

    def _candidates(self, samples: Samples, evidence: Evidence) -> NDArray[np.int64]:
        if self.config.effort_candidates is None:
            return np.arange(len(samples), dtype=np.int64)
        return np.flatnonzero(~np.isnan(evidence["effort"])).astype(np.int64)
