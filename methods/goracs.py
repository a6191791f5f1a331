"""GORACS: the subset nearest to validation users by optimal transport; reads validation data, `select` (Mei et al. 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field
from scipy.spatial.distance import cdist

from prunebench.datasets.schema import Samples
from prunebench.methods import selection
from prunebench.methods.base import Evidence, Explanation, Method, MethodError, Selection, Step
from prunebench.methods.explanations import number
from prunebench.methods.transport import cost_matrix, cover, refine
from prunebench.recommenders.base import Config as BaseConfig
from prunebench.recommenders.base import Request
from prunebench.recommenders.runtime import Runtime
from prunebench.recommenders.user_texts import TextReader

NEIGHBOURS = 256
"""Samples whose distances to all validation users are in memory at once, for an explanation."""


class GORACS(Method):
    """Group-level optimal-transport-guided coreset selection (Mei et al., KDD 2025, arXiv 2506.04015).

    **Reads validation data** (the `select` users: their histories and targets), where most methods see the training part
    only; compare it with methods that read it too. S minimises OT(uniform on S, uniform on V; c) with
    c_ij = ‖z_i − v_j‖ / max − λ g_i / max g, then min-max (Eq. 10): z and v are text vectors of training samples and of
    validation users, g the LLM's gradient norms. Greedy start, then swaps proven by exact transports (Algorithm 1, ITRA).

    After the released code (github.com/Mithas-114/GORACS), whose defaults these are, but for: a row's price in Theorem 4.3
    is the maximiser of its dual, the ⌈|V| / |S|⌉-th *smallest* reduced cost (the code takes that from the top); candidate
    pairs are tried by their bound, not by position, skipping those proven not to improve; at most ``patience`` in a row
    are tried, not all; samples that no validation user is nearest to are filled in by further coverings.
    """

    shared = frozenset({"validation"})

    class Config(BaseConfig):
        """GORACS' hyper-parameters; ``lambda`` is accepted for ``lam``."""

        model_config = ConfigDict(populate_by_name=True)

        lam: float = Field(
            default=0.1,
            ge=0,
            allow_inf_nan=False,
            alias="lambda",
            description="λ, weight of the effort score in the cost; 0: distances alone, and no LLM is needed",
        )
        text: TextReader = Field(
            default="encoder",
            description="what reads the users' titles: the sentence encoder, all at once or (titles) as the mean of single ones, or the LLM",
        )
        validation_users: int | None = Field(
            default=None,
            ge=1,
            description="as many of the validation users that may be read, at random; null: all. Memory is 4 bytes × n × these",
        )
        exchanges: int = Field(default=100, ge=0, description="most swaps of the refinement; 0: the greedy start alone")
        candidates: int = Field(
            default=30, ge=1, description="samples considered for leaving, and as many for entering, at each swap"
        )
        patience: int = Field(
            default=50,
            ge=1,
            description="candidate pairs that may fail in a row, each an exact transport, before it ends",
        )

    def requests(self) -> dict[str, Request]:
        """``vectors`` float32 [n, d], ``validation`` float32 [m, d] and, where λ > 0, ``effort`` float32 [n]."""
        source = {"source": self.config.text}
        wanted = {
            "vectors": Request("user_text_vectors", source),
            "validation": Request("validation_text_vectors", source),
        }
        if self.config.lam > 0:
            wanted["effort"] = Request("effort", {})
        return wanted

    def evidence_key(self) -> dict[str, Any]:
        """Nothing beyond the requests: λ and the search belong to the selection."""
        return {}

    def prepare(self, samples: Samples, signals: Mapping[str, Any], runtime: Runtime) -> Evidence:
        """The signals as they are, float32; what is chosen together depends on the budget, so the search is in ``select``."""
        return {name: np.asarray(signals[name], np.float32) for name in self.requests()}

    def select(self, samples: Samples, evidence: Evidence, budget: int, runtime: Runtime) -> Selection:
        """Greedy start and refinement. Time grows as n·m, memory is 4 n·m bytes and some 5 copies of 8 budget·m.

        The notes have the transport's cost after the start and at the end, the swaps made and the transports solved.
        Raises MethodError where there are no validation users or a vector or an effort is not finite.
        """
        selection.check_budget(budget, len(samples))
        if budget in (0, len(samples)):
            return selection.selection(samples, np.arange(budget))
        _check(samples, evidence)
        config, validation = self.config, self._validation(evidence, runtime)
        # Positions by id: rounding in products and ties within the solver then never depend on the samples' order.
        order = np.argsort(samples.ids)
        effort = evidence["effort"][order] if "effort" in evidence else None
        cost = cost_matrix(evidence["vectors"][order], validation, effort, config.lam, runtime)
        priorities = selection.priorities(samples.ids[order], runtime.derive("goracs ties"))
        start = cover(cost, budget, priorities, runtime)
        refined = refine(cost, start, config.exchanges, config.candidates, config.patience, priorities, runtime)
        return selection.selection(
            samples,
            order[refined.chosen],
            transport_start=refined.values[0],
            transport=refined.values[-1],
            swaps=len(refined.values) - 1,
            transports_solved=refined.solved,
        )

    def _validation(self, evidence: Evidence, runtime: Runtime) -> NDArray:
        """The validation users' vectors that are read."""
        validation, most = evidence["validation"], self.config.validation_users
        if most is None:
            return validation
        drawn = runtime.rng("goracs", "validation users").permutation(len(validation))[:most]
        return validation[np.sort(drawn)]

    def explain(
        self, samples: Samples, evidence: Evidence, chosen: Selection, runtime: Runtime, position: int
    ) -> Explanation:
        """How it lies to the validation users beside the samples kept; the search itself is not run again."""
        vectors, validation = evidence["vectors"], self._validation(evidence, runtime)
        kept = samples.positions(chosen.ids)
        is_kept = bool((kept == position).any())
        steps = []
        if len(validation) and len(kept):
            own = cdist(vectors[[position]], validation)[0]
            best, others = np.full(len(validation), np.inf), kept[kept != position]
            for start in range(0, len(others), NEIGHBOURS):
                best = np.minimum(best, cdist(vectors[others[start : start + NEIGHBOURS]], validation).min(axis=0))
            closer, mean = int((own < best).sum()), float(own.mean())
            says = f"its text is {number(mean)} from a validation user's on average, and nearer to {closer:,} of {len(own):,} than any other kept sample"
            steps.append(Step("distance", says, {"mean": mean, "nearest_to": closer, "validation_users": len(own)}))
        says = "the samples are kept together, for their transport to the validation users: a greedy start, then swaps that lower its cost; no sample has a rank of its own"
        steps.append(Step("search", says, dict(chosen.notes)))
        return Explanation(is_kept, tuple(steps))


def _check(samples: Samples, evidence: Evidence) -> None:
    vectors, validation = evidence["vectors"], evidence["validation"]
    if not len(validation):
        raise MethodError(
            "goracs needs validation users (the `select` part) and the data set has none: use another method"
        )
    if vectors.shape[1:] != validation.shape[1:]:
        raise MethodError(f"training vectors {vectors.shape} and validation vectors {validation.shape} differ in width")
    if not np.isfinite(validation).all():
        raise MethodError("a validation user's text vector is not finite: check the text encoder")
    for name, what in (("vectors", "text vector"), ("effort", "effort")):
        if name in evidence:
            _check_rows(samples, evidence[name], what)
    if "effort" in evidence and evidence["effort"].min() < 0:
        row = int(np.argmin(evidence["effort"]))
        raise MethodError(f"effort of sample {int(samples.ids[row])} is negative: {evidence['effort'][row]:g}")


def _check_rows(samples: Samples, values: NDArray, what: str) -> None:
    finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if not finite.all():
        raise MethodError(
            f"{what} of sample {int(samples.ids[np.argmin(finite)])} is not finite ({int((~finite).sum())} such samples)"
        )
