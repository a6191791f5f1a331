"""TF-DCon: of each K-means cluster of users the most central, by user vector and text (Wu et al. 2023)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from prunebench.datasets.schema import Int64, Samples
from prunebench.methods.base import Evidence, Explanation, Selection, Step
from prunebench.methods.clustering import Clusters, kmeans
from prunebench.methods.explanations import number
from prunebench.methods.selection import allocate, check_budget, selection
from prunebench.methods.vectors import VectorConfig, VectorMethod
from prunebench.recommenders.base import Request
from prunebench.recommenders.runtime import Runtime
from prunebench.recommenders.user_texts import TextReader


class TFDCon(VectorMethod):
    """The user level of training-free dataset condensation (Wu et al. 2023, arXiv 2310.09874), as pruning.

    Users are clustered by K-means on the recommender's vectors u. Of each cluster those with the smallest
    ‖u − centre‖₂ + α ‖t − mean t‖₂ are kept, t = the vector of the user's text. The condensation of titles and the
    merging of the kept users' histories, which synthesise new data, are left out. One user of each of K = budget clusters is
    what Lin et al. 2024 compare with; with fewer clusters, as many of each (the authors' script keeps two of each).
    Both distances are in their vectors' own units, as in that script. SASRec's users of Games are 11.6 from their centre on
    average and unit texts at most 2 from their mean, so there the default α hardly lets the text speak.
    """

    class Config(VectorConfig):
        """TF-DCon's hyper-parameters."""

        alpha: float = Field(
            default=0.5,
            ge=0,
            allow_inf_nan=False,
            description="α, weight of the text's distance; 0 leaves the text out (the default of the authors' script)",
        )
        text: TextReader = Field(
            default="encoder",
            description="what reads the user's titles: the sentence encoder, all at once or (titles) as the mean of single ones, or the LLM",
        )
        clusters: int | None = Field(default=None, ge=1, le=1_000_000, description="K; null: as many as the budget")

    def requests(self) -> dict[str, Request]:
        """``user_vectors``; and with α > 0 ``user_text_vectors``, float32 [n, d] each."""
        text = {"user_text_vectors": Request("user_text_vectors", {"source": self.config.text})}
        return {**super().requests(), **(text if self.config.alpha else {})}

    def select(self, samples: Samples, evidence: Evidence, budget: int, runtime: Runtime) -> Selection:
        """The most central of each cluster; a cluster with too few members gives its share to larger ones (``allocate``)."""
        clusters, distance, taken = self._clusters(samples, evidence, budget, runtime)
        kept = clusters.ranks(distance) < taken[clusters.labels]
        return selection(samples, np.flatnonzero(kept), clusters=len(taken), empty_clusters=clusters.empty)

    def _clusters(
        self, samples: Samples, evidence: Evidence, budget: int, runtime: Runtime
    ) -> tuple[Clusters, NDArray[np.float64], Int64]:
        """The clusters, each sample's distance to the middle of its own, and how many each cluster gives."""
        check_budget(budget, len(samples))
        config, users = self.config, evidence["user_vectors"]
        k = config.clusters or max(budget, 1)
        clusters = kmeans(users, samples.ids, k, runtime.derive("tf_dcon clusters"))
        distance = clusters.distances(users)
        if config.alpha:
            distance += config.alpha * clusters.distances(evidence["user_text_vectors"])
        return clusters, distance, allocate(clusters.sizes, budget)

    def explain(
        self, samples: Samples, evidence: Evidence, chosen: Selection, runtime: Runtime, position: int
    ) -> Explanation:
        """Its cluster, its distance to the middle of it, and its place among the members."""
        clusters, distance, taken = self._clusters(samples, evidence, len(chosen.ids), runtime)
        cluster = clusters.labels[position]
        size, given, own = int(clusters.sizes[cluster]), int(taken[cluster]), float(distance[position])
        rank = int(clusters.ranks(distance)[position]) + 1
        parts = "user vector" + (f" + {number(self.config.alpha)} × text" if self.config.alpha else "")
        steps = (
            Step(
                "cluster",
                f"one of {size:,} users in its cluster of {len(taken):,}, which gives {given:,}",
                {"clusters": len(taken), "cluster_size": size, "drawn": given},
            ),
            Step(
                "distance to the centre",
                f"{number(own)} from the middle of its cluster ({parts}): rank {rank:,} of {size:,}, the nearest first, {'among' if rank <= given else 'not among'} the first {given:,}",
                {"distance": own, "rank": rank, "of": size},
            ),
        )
        return Explanation(rank <= given, steps)
