"""DEALRec: influence plus effort scores, and a coverage-enhanced draw (Lin et al., SIGIR 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, model_validator

from prunebench.datasets.schema import Samples
from prunebench.methods import explanations, selection
from prunebench.methods.base import Evidence, Explanation, Method, MethodError, Scores, Selection, Step
from prunebench.methods.explanations import number
from prunebench.methods.influence import InfluenceConfig
from prunebench.recommenders.base import Request
from prunebench.recommenders.runtime import Runtime


@dataclass(frozen=True, eq=False)
class Scored:
    """The m candidates' positions and ids, int64 [m] each, and their scores, float64 [m]: each scaled to [0, 1], and all weighted and added."""

    candidates: NDArray[np.int64]
    ids: NDArray[np.int64]
    scaled: Mapping[str, NDArray[np.float64]]
    overall: NDArray[np.float64]


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
        scored = self._score(samples, evidence)
        if budget > len(scored.ids):
            raise MethodError(
                f"a budget of {budget} exceeds the {len(scored.ids)} candidates: raise effort_candidates to it"
            )
        if self.config.selection == "greedy":
            best = selection.top(scored.overall, scored.ids, budget, _seed(runtime))
            return selection.selection(samples, scored.candidates[best])
        left, draw = self._draw(scored, budget, runtime)
        notes = {"hard_pruned": len(scored.ids) - len(left), "strata": int((draw.sizes > 0).sum())}
        return selection.selection(samples, scored.candidates[left[draw.chosen]], **notes)

    def _score(self, samples: Samples, evidence: Evidence) -> Scored:
        candidates = self._candidates(samples, evidence)
        ids = samples.ids[candidates]
        scaled: dict[str, NDArray[np.float64]] = {
            name: selection.minmax(evidence[name][candidates], ids, name)
            for name in ("influence", "effort")
            if name in evidence
        }
        overall = sum((self._weight(name) * part for name, part in scaled.items()), np.zeros(len(ids)))
        return Scored(candidates, ids, scaled, overall)

    def _weight(self, name: str) -> float:
        return self.config.lam if name == "effort" else 1.0

    def _draw(self, scored: Scored, budget: int, runtime: Runtime) -> tuple[NDArray[np.int64], selection.Strata]:
        """What hard pruning leaves of the candidates, and the draw among that."""
        config, seed = self.config, _seed(runtime)
        left = selection.hard_prune(scored.overall, scored.ids, config.hard_prune, budget, seed)
        return left, selection.stratify(scored.overall[left], scored.ids[left], budget, config.groups, seed)

    def scores(self, samples: Samples, evidence: Evidence, chosen: Selection, runtime: Runtime) -> Scores:
        """The overall score of every candidate, and the strata of Alg. 2."""
        scored = self._score(samples, evidence)
        if self.config.selection == "greedy":
            values = np.full(len(samples), np.nan)
            values[scored.candidates] = scored.overall
            return Scores("overall score", values)
        left, draw = self._draw(scored, len(chosen.ids), runtime)
        return explanations.spread("overall score", scored.overall, scored.candidates, left, draw, len(samples))

    def explain(
        self, samples: Samples, evidence: Evidence, chosen: Selection, runtime: Runtime, position: int
    ) -> Explanation:
        """Its two scores and their sum, whether it was among the highest, its stratum, and its place in the draw."""
        scored, config = self._score(samples, evidence), self.config
        steps: list[Step] = []
        if config.effort_candidates is not None:
            count, is_one = len(scored.ids), bool((scored.candidates == position).any())
            says = f"only the {count:,} most influential samples have an effort score and can be chosen; this {'is one' if is_one else 'is none of them'}"
            steps.append(Step("candidates", says, {"candidates": count, "is_candidate": is_one}))
            if not is_one:
                return Explanation(False, tuple(steps))
        at = int(np.searchsorted(scored.candidates, position))
        steps.append(self._overall(scored, at))
        if config.selection == "greedy":
            rest = explanations.highest(
                scored.overall, scored.ids, len(chosen.ids), _seed(runtime), at, "overall score"
            )
        else:
            left, draw = self._draw(scored, len(chosen.ids), runtime)
            rest = explanations.coverage(scored.overall, left, draw, at, config.hard_prune, "Alg. 2")
        return Explanation(rest.kept, (*steps, *rest.steps))

    def _overall(self, scored: Scored, at: int) -> Step:
        parts = {name: float(part[at]) for name, part in scored.scaled.items()}
        total, count = float(scored.overall[at]), len(scored.ids)
        rank = int((scored.overall > total).sum()) + 1
        terms = [
            f"minmax({name}) {number(part)}" + (f" × λ {number(self.config.lam)}" if name == "effort" else "")
            for name, part in parts.items()
        ]
        says = f"{' + '.join(terms)} = {number(total)}, rank {rank:,} of {count:,}, the highest first"
        facts = {f"minmax_{name}": part for name, part in parts.items()}
        return Step(
            "overall score", says, {**facts, "lambda": self.config.lam, "score": total, "rank": rank, "of": count}
        )

    def _candidates(self, samples: Samples, evidence: Evidence) -> NDArray[np.int64]:
        if self.config.effort_candidates is None:
            return np.arange(len(samples), dtype=np.int64)
        return np.flatnonzero(~np.isnan(evidence["effort"])).astype(np.int64)


def _seed(runtime: Runtime) -> int:
    return runtime.derive("dealrec selection")
