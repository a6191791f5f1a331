"""Contracts of what learns: rankings, backbones, surrogates, and the signals a pruning method may ask for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from prunebench.datasets.schema import Queries, RecDataset, Samples, Sequences
from prunebench.recommenders.runtime import Runtime

Float32 = NDArray[np.float32]


class RecommenderError(ValueError):
    """Bad input to a recommender; the message says what, where, and what to do."""


class Config(BaseModel):
    """Base of every configuration: typed, immutable, unknown keys refused, JSON round-trip."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True, eq=False)
class Rankings:
    """Ranked items per query, ragged, best first.

    ``items`` int32 [total] and ``scores`` float32 [total] (higher is better, non-increasing within a row); ``offsets``
    int64 [n + 1]. A row asked for at depth k holds every item whose score is at least the k-th best one: the whole tie
    group at rank k, so that metrics never depend on the order of ties. A row may be shorter when fewer items exist.
    """

    items: NDArray[np.int32]
    scores: Float32
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @classmethod
    def from_scores(cls, scores: Float32, depth: NDArray[np.int64]) -> Rankings:
        """From dense scores [n, n_items], to ``depth`` int64 [n] plus ties. Ties are listed by item id."""
        n, n_items = scores.shape
        kept = np.minimum(np.asarray(depth, np.int64), n_items)
        deepest = int(kept.max(initial=1))
        top = -np.partition(-scores, deepest - 1, axis=1)[:, :deepest] if deepest < n_items else scores
        edge = -np.sort(-top, axis=1)[np.arange(n), np.maximum(kept, 1) - 1]
        rows, items = np.nonzero(scores >= edge[:, None])
        values = scores[rows, items]
        order = np.lexsort((items, -values, rows))
        offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=n))]).astype(np.int64)
        return cls(items[order].astype(np.int32), values[order].astype(np.float32), offsets)

    @classmethod
    def concatenate(cls, parts: Iterable[Rankings]) -> Rankings:
        parts = list(parts)
        lengths = np.concatenate([np.diff(part.offsets) for part in parts]) if parts else np.empty(0, np.int64)
        return cls(
            np.concatenate([part.items for part in parts]) if parts else np.empty(0, np.int32),
            np.concatenate([part.scores for part in parts]) if parts else np.empty(0, np.float32),
            np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        )


@dataclass(frozen=True)
class FitReport:
    """What a fit consumed: optimiser steps, tokens seen (0 where a model has none), samples seen, validation losses."""

    steps: int = 0
    tokens: int = 0
    samples: int = 0
    valid_losses: tuple[float, ...] = ()
    best_step: int = 0


class Fitted(Protocol):
    """A trained recommender."""

    report: FitReport

    def recommend(self, histories: Sequences, depth: NDArray[np.int64], runtime: Runtime) -> Rankings:
        """Rank all items for each history (possibly empty). ``depth`` int64 [n]: how deep each row must go, ties whole.

        Histories are never masked here: the harness asks for as many more items as a history holds and masks itself,
        so that one inference serves both protocols.
        """
        ...

    def save(self, folder: Path) -> None: ...


@runtime_checkable
class Backbone(Protocol):
    """What is fine-tuned on the selected samples. Built by the harness as ``Backbone(config, resources)``."""

    Config: ClassVar[type[Config]]
    version: ClassVar[int]

    def fit(self, samples: Samples, stop: Queries, runtime: Runtime, folder: Path) -> Fitted:
        """Train on ``samples`` (none: zero-shot), stopping early on the loss over ``stop``.

        ``folder`` is scratch space that survives a kill: a checkpoint found there is continued.
        """
        ...

    def load(self, folder: Path, runtime: Runtime) -> Fitted: ...


@runtime_checkable
class HasEffort(Protocol):
    """A backbone whose per-sample gradient norm can be asked for."""

    def effort(self, samples: Samples, runtime: Runtime) -> Float32:
        """‖∇_φ L(s)‖₂ for each sample, float32 [n], in the order of ``samples.ids`` (Eq. 12 of the paper)."""
        ...


class Surrogate(Protocol):
    """A small trained recommender with the derivatives pruning methods need. n samples, P parameters in scope.

    Vectors over parameters are dictionaries of tensors by parameter name. Sampled negatives depend on
    (seed, sample id, position) only, so that every pass over the data sees the same ones.
    """

    def fit(self, samples: Samples, valid: Queries, runtime: Runtime) -> FitReport: ...
    def losses(self, samples: Samples, runtime: Runtime) -> Float32:
        """Per-sample loss in evaluation mode, float32 [n]."""
        ...

    def scope(self, name: str) -> tuple[str, ...]:
        """Parameter names of a scope: ``block`` (the released one), wider ones by name, ``all``."""
        ...

    def mean_gradient(self, samples: Samples, scope: tuple[str, ...], runtime: Runtime) -> dict[str, torch.Tensor]: ...
    def jvp(self, samples: Samples, direction: dict[str, torch.Tensor], runtime: Runtime) -> Float32:
        """⟨∇L(s), direction⟩ for each sample, float32 [n], by one forward-mode pass."""
        ...

    def user_vectors(self, histories: Sequences, runtime: Runtime) -> Float32: ...
    def save(self, folder: Path) -> None: ...


class Signals(Protocol):
    """What a pruning method may ask for. Built, cached and billed by the harness, never by the method."""

    def get(self, name: str, **config: Any) -> Any:
        """A signal by name: ``surrogate`` (a trained Surrogate), ``effort`` (float32 [n]), ``influence`` (float32 [n]), …"""
        ...


class Resources(Protocol):
    """Shared, cached artefacts a backbone may need beyond its samples; every use enters the lineage, hence the bill."""

    dataset: RecDataset

    def title_vectors(self) -> Float32:
        """Unit-length sentence embeddings of all item titles, float32 [n_items, d]."""
        ...
