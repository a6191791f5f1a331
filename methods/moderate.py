"""Moderate coreset: samples whose distance to their cluster's centre is nearest the median (Xia et al., ICLR 2023)."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from prunebench.datasets.schema import Samples
from prunebench.methods.base import Evidence, Selection
from prunebench.methods.clustering import kmeans
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
        vectors = evidence["user_vectors"]
        clusters = kmeans(vectors, samples.ids, self.config.clusters, runtime.derive("moderate clusters"))
        distance = clusters.distances(vectors)
        median = float(np.median(distance)) if len(distance) else 0.0
        chosen = top(-np.abs(distance - median), samples.ids, budget, runtime.derive("moderate ties"))
        return selection(samples, chosen, median_distance=median, empty_clusters=clusters.empty)
