"""Moderate coreset: samples whose distance to their cluster's centre is nearest the median (Xia et al., ICLR 2023)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from prunebench.datasets.schema import Samples
from prunebench.methods.base import Evidence, Explanation, Scores, Selection, Step
from prunebench.methods.clustering import Clusters, kmeans
from prunebench.methods.explanations import highest, number
from prunebench.methods.selection import selection, top
from prunebench.methods.vectors import VectorConfig, VectorMethod
from prunebench.recommenders.runtime import Runtime


class Moderate(VectorMethod):
    """Moderate coreset (Xia et al., ICLR 2023), with K-means clusters of user vectors in place of classes.

    A sample's score is the distance to the mean of its cluster; those whose score is nearest the median of all scores
    are kept. The median is one for all classes, as in the released code, which takes the middle ranks and centres of
    feature-wise medians where the paper has the nearest values and means. A smaller budget's selection is part of a
    larger one's.
    """

    class Config(VectorConfig):
        """Moderate's one hyper-parameter."""

        clusters: int = Field(
            default=10, ge=1, le=1_000_000, description="clusters that stand in for the paper's classes"
        )

    def select(self, samples: Samples, evidence: Evidence, budget: int, runtime: Runtime) -> Selection:
        """The ``budget`` samples nearest the median distance; ties by the hash of (seed, id)."""
        clusters, distance, median = self._distances(samples, evidence, runtime)
        chosen = top(-np.abs(distance - median), samples.ids, budget, runtime.derive("moderate ties"))
        return selection(samples, chosen, median_distance=median, empty_clusters=clusters.empty)

    def _distances(
        self, samples: Samples, evidence: Evidence, runtime: Runtime
    ) -> tuple[Clusters, NDArray[np.float64], float]:
        """The clusters, each sample's distance to the mean of its own, and the median of those."""
        vectors = evidence["user_vectors"]
        clusters = kmeans(vectors, samples.ids, self.config.clusters, runtime.derive("moderate clusters"))
        distance = clusters.distances(vectors)
        return clusters, distance, float(np.median(distance)) if len(distance) else 0.0

    def scores(self, samples: Samples, evidence: Evidence, chosen: Selection, runtime: Runtime) -> Scores:
        """The distances, of which those nearest the median are kept."""
        return Scores("distance to the centre", self._distances(samples, evidence, runtime)[1])

    def explain(
        self, samples: Samples, evidence: Evidence, chosen: Selection, runtime: Runtime, position: int
    ) -> Explanation:
        """Its cluster, its distance to the centre against the median, and the rank that gives."""
        clusters, distance, median = self._distances(samples, evidence, runtime)
        own, of = float(distance[position]), int(clusters.sizes[clusters.labels[position]])
        says = f"{number(own)} from the mean of its cluster of {of:,} users; the median of all such distances is {number(median)}"
        step = Step("distance to the centre", says, {"distance": own, "cluster_size": of, "median": median})
        seed, off = runtime.derive("moderate ties"), -np.abs(distance - median)
        rest = highest(off, samples.ids, len(chosen.ids), seed, position, "nearness to the median (0 is at it)")
        return Explanation(rest.kept, (step, *rest.steps))
