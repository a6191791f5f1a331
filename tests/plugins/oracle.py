"""Oracles that see the planted labels of a synthetic data set: what selection could gain or lose at most."""

from __future__ import annotations

import numpy as np

from prunebench.datasets.schema import Samples
from prunebench.methods import selection
from prunebench.methods.base import Evidence, Method, MethodError, Selection
from prunebench.recommenders.runtime import Runtime


class _Oracle(Method):
    """A uniform draw among the samples with one label."""

    label: str

    def select(self, samples: Samples, evidence: Evidence, budget: int, runtime: Runtime) -> Selection:
        labels = samples.dataset.labels
        if labels is None:
            raise MethodError(f"data set {samples.dataset.name} has no planted labels for an oracle to see")
        ids = samples.ids[labels[samples.ids] == self.label]
        if len(ids) < budget:
            raise MethodError(f"only {len(ids)} samples are {self.label}; ask for a smaller budget than {budget}")
        order = np.argsort(selection.priorities(ids, runtime.derive("oracle")))
        return Selection(np.sort(ids[order[:budget]]))


class OracleClean(_Oracle):
    """Keeps clean samples only."""

    name = "oracle_clean"
    label = "clean"


class OracleNoise(_Oracle):
    """Keeps noise only."""

    name = "oracle_noise"
    label = "noise"
