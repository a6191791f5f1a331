"""RecRanker: a draw by activity and one by cluster size, joined, repeats penalised (Luo et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydantic import Field

from prunebench.datasets.schema import Int64, Samples
from prunebench.methods.base import Evidence, Explanation, Selection, Step
from prunebench.methods.clustering import Clusters, kmeans
from prunebench.methods.explanations import cut, number, place
from prunebench.methods.selection import check_budget, priorities, selection, weighted
from prunebench.methods.vectors import VectorConfig, VectorMethod
from prunebench.recommenders.runtime import Runtime


@dataclass(frozen=True, eq=False)
class Draws:
    """The draws laid out. Places are int64 [n], from 0, the first ``drawn`` of each are taken; ``times`` int64 [n], how
    many draws took a sample; ``final``: positions of those taken, in the order of the final draw."""

    clusters: Clusters
    by_importance: Int64
    by_cluster: Int64
    drawn: int
    times: Int64
    final: Int64


class RecRanker(VectorMethod):
    """Adaptive user sampling of RecRanker (Luo et al. 2023, arXiv 2312.16018), as a coreset of unique users.

    Two draws of 0.6 · budget users each, as in the released code: by importance w_u = ln(n_u), n_u = the user's training
    interactions; and by K-means clusters of user vectors, from each in proportion to its size, uniformly within. They
    are joined; a user drawn by both has weight 0.95^(2 − 1), others 1; the final draw of ``budget`` follows the weights.
    The released code draws with replacement throughout; here no draw takes a user twice, and both grow until together
    they hold the budget.
    """

    class Config(VectorConfig):
        """RecRanker's hyper-parameters, as released."""

        clusters: int = Field(default=10, ge=1, le=1_000_000, description="clusters of the second draw")
        share: float = Field(
            default=0.6, gt=0, le=1, description="size of each of the two draws, as part of the budget"
        )
        penalty: float = Field(
            default=0.95, gt=0, le=1, allow_inf_nan=False, description="weight of a user that both draws took"
        )

    def select(self, samples: Samples, evidence: Evidence, budget: int, runtime: Runtime) -> Selection:
        """The final draw. The notes say how large the two draws were and how many users both took."""
        draws = self._draws(samples, evidence, budget, runtime)
        notes = {
            "drawn_each": draws.drawn,
            "drawn_twice": int((draws.times == 2).sum()),
            "empty_clusters": draws.clusters.empty,
        }
        return selection(samples, draws.final[:budget], **notes)

    def _draws(self, samples: Samples, evidence: Evidence, budget: int, runtime: Runtime) -> Draws:
        check_budget(budget, len(samples))
        config, ids = self.config, samples.ids
        seeds = {what: runtime.derive("recranker", what) for what in ("importance", "clusters", "members", "final")}
        clusters = kmeans(evidence["user_vectors"], ids, config.clusters, seeds["clusters"])
        # A draw without replacement is an order, of which it takes the first.
        importance = np.log(samples.histories.lengths + 1.0)
        by_importance = _ranks(weighted(importance, ids, len(ids), seeds["importance"]))
        by_importance[importance == 0] = len(ids)
        # Sainte-Laguë: the first m users of this order are those of the clusters in proportion, whatever m.
        members = priorities(ids, seeds["members"])
        quotient = (clusters.ranks(members) + 0.5) / clusters.sizes[clusters.labels]
        by_cluster = _ranks(np.lexsort((members, quotient)))
        reached = np.sort(np.minimum(by_importance, by_cluster))
        # The tolerance keeps 0.6 · 5 at 3.
        drawn = max(int(config.share * budget + 1e-9), int(reached[budget - 1]) + 1) if budget else 0
        times = (by_importance < drawn).astype(np.int64) + (by_cluster < drawn)
        candidates = np.flatnonzero(times)
        weights = config.penalty ** (times[candidates] - 1.0)
        final = candidates[weighted(weights, ids[candidates], len(candidates), seeds["final"])]
        return Draws(clusters, by_importance, by_cluster, drawn, times, final)

    def explain(
        self, samples: Samples, evidence: Evidence, chosen: Selection, runtime: Runtime, position: int
    ) -> Explanation:
        """Its place in both draws, and in the final one where one of them took it."""
        draws, budget, n = self._draws(samples, evidence, len(chosen.ids), runtime), len(chosen.ids), len(samples)
        items = int(samples.histories.lengths[position]) + 1
        size = int(draws.clusters.sizes[draws.clusters.labels[position]])
        steps = []
        for name, places, why in (
            ("draw by activity", draws.by_importance, f"weight ln {items:,} interactions"),
            ("draw by clusters", draws.by_cluster, f"its cluster has {size:,} of {n:,} users"),
        ):
            rank = int(places[position]) + 1
            is_drawn = rank <= draws.drawn
            says = f"{why}; place {rank:,}, {'among' if is_drawn else 'not among'} the first {draws.drawn:,}"
            if rank > n:
                says = f"{why}, which is 0: not drawn"
            steps.append(Step(name, says, {"place": min(rank, n), "drawn": draws.drawn, "is_drawn": is_drawn}))
        times = int(draws.times[position])
        if not times:
            steps.append(Step("final draw", "neither draw took it, so it is not in the final one", {"times_drawn": 0}))
            return Explanation(False, tuple(steps))
        rank, weight = place(draws.final, position) + 1, self.config.penalty ** (times - 1.0)
        says = f"weight {number(weight)} among {len(draws.final):,} users; place {rank:,}"
        steps.append(Step("final draw", says, {"times_drawn": times, "weight": weight, "place": rank}))
        return Explanation(rank <= budget, (*steps, cut(rank, budget, len(draws.final))))


def _ranks(order: Int64) -> Int64:
    """Place of each sample in an order of positions, int64 [n]."""
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order))
    return ranks
