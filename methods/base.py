"""The contract of a pruning method: expensive evidence once, a cheap selection per budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from prunebench.datasets.schema import Samples
from prunebench.recommenders.base import Config, Request
from prunebench.recommenders.runtime import Runtime

Evidence = dict[str, NDArray]
"""Named arrays, float32 [n] or [n, d], aligned with ``samples.ids``."""


class MethodError(ValueError):
    """A pruning method broke its contract or cannot work with what it was given."""


@dataclass(frozen=True, eq=False)
class Selection:
    """``ids`` int64 [budget]: unique sample ids, increasing. ``notes``: small JSON-able facts worth keeping in the record."""

    ids: NDArray[np.int64]
    notes: dict[str, float | int | str] = field(default_factory=dict)


@runtime_checkable
class PruningMethod(Protocol):
    """Built as ``Method(config)``."""

    Config: ClassVar[type[Config]]
    version: ClassVar[int]

    def requests(self) -> dict[str, Request]:
        """The signals ``prepare`` will be given, by the name it knows them under. Built, cached and billed by the harness."""
        ...

    def evidence_key(self) -> dict[str, Any]:
        """The settings ``prepare`` depends on, beyond its requests: they enter the evidence's hash."""
        ...

    def prepare(self, samples: Samples, signals: Mapping[str, Any], runtime: Runtime) -> Evidence:
        """Everything expensive and independent of the budget, from the signals asked for; cached by the harness."""
        ...

    def select(self, samples: Samples, evidence: Evidence, budget: int, runtime: Runtime) -> Selection:
        """Exactly ``budget`` sample ids, the same for the same seed whatever the order of ``samples``."""
        ...
