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
"""Named arrays, float32 [n] or [n, d], aligned with ``samples.ids``; any length for those a method calls ``shared``."""


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


Fact = float | int | str | bool | None


@dataclass(frozen=True)
class Step:
    """One step of a choice, as a sample went through it: what it is called, what came of it in words, and its numbers."""

    name: str
    says: str
    facts: Mapping[str, Fact] = field(default_factory=dict)


@dataclass(frozen=True)
class Explanation:
    """Why a sample was kept or was not. ``kept`` is worked out anew by what draws, not looked up in the selection."""

    kept: bool
    steps: tuple[Step, ...]


@runtime_checkable
class Explains(Protocol):
    """A method that can say why: optional. `bench explain` shows any method's evidence with its ranks."""

    def explain(
        self, samples: Samples, evidence: Evidence, chosen: Selection, runtime: Runtime, position: int
    ) -> Explanation:
        """Why the sample at ``position`` of ``samples`` is in ``chosen``, or is not.

        ``chosen`` is what ``select`` gave for the same samples, evidence, runtime and a budget of ``len(chosen.ids)``.
        """
        ...


@dataclass(frozen=True, eq=False)
class Scores:
    """The one number per sample that a method chooses by, for a picture of how it is spread and what was kept of it.

    ``name``: what it is called; ``values`` float64 [n], aligned with the samples, NaN for those without one; ``strata``:
    boundaries of the strata drawn from, increasing, None where there are none; ``dropped_from``: samples with values
    from here up were dropped before the draw, None where none were.
    """

    name: str
    values: NDArray[np.float64]
    strata: NDArray[np.float64] | None = None
    dropped_from: float | None = None


@runtime_checkable
class HasScores(Protocol):
    """A method that chooses by one number per sample: optional. A run keeps its histogram, and the board draws it."""

    def scores(self, samples: Samples, evidence: Evidence, chosen: Selection, runtime: Runtime) -> Scores:
        """The numbers by which ``select`` gave ``chosen`` for the same samples, evidence, runtime and budget."""
        ...


class Method:
    """Base with the defaults of a method that needs no evidence; a selection is all that is left to write.

    A subclass with evidence overrides ``requests`` and ``prepare``; one with knobs brings its own ``Config``.
    """

    Config: ClassVar[type[Any]] = Config
    version: ClassVar[int] = 1
    shared: ClassVar[frozenset[str]] = frozenset()
    """Evidence that belongs to no sample, e.g. the validation vectors a method transports to."""
    partial: ClassVar[frozenset[str]] = frozenset()
    """Evidence that is NaN for samples without a value, which cannot be chosen; all other evidence is finite."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def requests(self) -> dict[str, Request]:
        return {}

    def evidence_key(self) -> dict[str, Any]:
        """Nothing without evidence; override it with the knobs ``prepare`` reads."""
        return {} if type(self).prepare is Method.prepare else self.config.model_dump(mode="json")

    def prepare(self, samples: Samples, signals: Mapping[str, Any], runtime: Runtime) -> Evidence:
        return {}
