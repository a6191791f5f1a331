"""Contracts of what learns: rankings, backbones, surrogates, and the signals a pruning method may ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from prunebench.datasets.schema import Queries, RecDataset, Samples, Sequences
from prunebench.recommenders.derivatives import Objective
from prunebench.recommenders.runtime import Runtime

Float32 = NDArray[np.float32]
Stage = Literal["effort", "errors", "vectors", "alignment", "fit", "recommend"]
"""What a backbone is asked to do: score or read samples before fine-tuning (the first four, where it can), fit, rank."""


class RecommenderError(ValueError):
    """Bad input to a recommender; the message says what, where, and what to do."""


class Config(BaseModel):
    """Base of every configuration: typed, immutable, unknown keys and infinite numbers refused, JSON round-trip."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


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

    def take(self, rows: NDArray[np.int64]) -> Rankings:
        """The given rows, in the given order (repeats allowed)."""
        lengths = np.diff(self.offsets)[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        source = np.repeat(self.offsets[rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Rankings(self.items[source], self.scores[source], offsets)

    @classmethod
    def from_scores(cls, scores: Float32, depth: NDArray[np.int64]) -> Rankings:
        """From dense scores [n, n_items], to ``depth`` int64 [n] (at least 1) plus ties. Ties are listed by item id.

        Raises RecommenderError for a score that is not a number: it has no place in a ranking.
        """
        if np.isnan(scores).any():
            raise RecommenderError("a score is NaN, so its item cannot be ranked: the model diverged or was given none")
        n, n_items = scores.shape
        kept = np.clip(np.asarray(depth, np.int64), 1, n_items)
        deepest = int(kept.max(initial=1))
        top = np.sort(np.partition(scores, n_items - deepest, axis=1)[:, n_items - deepest :], axis=1)
        edge = top[np.arange(n), deepest - kept]
        rows, items = np.divmod(np.flatnonzero(scores >= edge[:, None]), n_items)
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
class Request:
    """An artefact asked for by name (an entry point of ``prunebench.signals``) and by its configuration.

    Methods, backbones and signals declare what they need as requests, so that the harness knows every dependency, and
    therefore every hash and bill, before anything is computed.
    """

    name: str
    config: Mapping[str, Any] = field(default_factory=dict)


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
class RanksUsers(Protocol):
    """A trained recommender that knows users by more than their history."""

    def recommend_users(
        self, users: NDArray[np.int64], histories: Sequences, depth: NDArray[np.int64], runtime: Runtime
    ) -> Rankings:
        """As ``Fitted.recommend``, which the harness calls where there is no such method; ``users`` int64 [n]."""
        ...


@runtime_checkable
class HasDiagnostics(Protocol):
    """A trained recommender with something to say of itself beside its rankings."""

    def diagnose(
        self, users: NDArray[np.int64], histories: Sequences, runtime: Runtime
    ) -> dict[str, float | int | str]:
        """Notes for the record of the inference stage, e.g. the share of generated items that do not exist."""
        ...


@runtime_checkable
class HasTargetLosses(Protocol):
    """A trained recommender that can say how likely it finds an item to be a user's next one."""

    def target_losses(
        self, users: NDArray[np.int64], histories: Sequences, targets: NDArray[np.int32], runtime: Runtime
    ) -> Float32:
        """−log P(target | history) of each row in nats, float32 [n]: Eq. 1 of the paper, summed over the answer's tokens.

        Histories are read as in ``recommend``; a user with several targets has as many rows.
        """
        ...


@runtime_checkable
class Backbone(Protocol):
    """What is fine-tuned on the selected samples. Built by the harness as ``Backbone(config, resources)``."""

    Config: ClassVar[type[Config]]
    version: ClassVar[int]
    uses_samples: ClassVar[bool]
    """False for references that no selection can change, e.g. `popular`: they get no pruning stage."""

    @property
    def reads(self) -> tuple[str, ...]:
        """Parts of the data ``fit`` looks at, for the record: ``titles``, ``train``, ``valid``, ``samples``, ``stop``."""
        ...

    def needs(self, stage: Stage) -> dict[str, Request]:
        """The resources a stage uses, e.g. ``{"llm": Request("llm", {"name": "catalogue"})}``."""
        ...

    def key(self, stage: Stage) -> dict[str, Any]:
        """The part of the configuration a stage's result depends on, JSON-able: it enters the stage's hash."""
        ...

    def fit(self, samples: Samples, stop: Queries, runtime: Runtime, folder: Path) -> Fitted:
        """Train on ``samples`` (none: zero-shot), stopping early on the loss over ``stop``.

        ``folder`` is scratch space: what lay there at the last ``runtime.saved()`` survives a kill, to the byte, and
        nothing else does; a checkpoint found there is continued.

        A run may have several processes. One with ``joint = True`` is then called so in all of them, for each to do its
        share with ``runtime.team`` and the leader to write; so is its ``recommend``, each for users of its own. Any other
        backbone works in the first process alone.
        """
        ...

    def load(self, folder: Path, runtime: Runtime) -> Fitted: ...


@runtime_checkable
class ChecksMachine(Protocol):
    """A backbone that knows what the machine must have before its LLM can be loaded."""

    def check_machine(self, runtime: Runtime) -> None:
        """Raises RecommenderError for what is lacking here, so that nothing is built in vain."""
        ...


@runtime_checkable
class HasEffort(Protocol):
    """A backbone whose per-sample gradient norm can be asked for."""

    def effort(self, samples: Samples, runtime: Runtime) -> Float32:
        """‖∇_φ L(s)‖₂ for each sample, float32 [n], in the order of ``samples.ids`` (Eq. 12 of the paper)."""
        ...


@runtime_checkable
class HasUserVectors(Protocol):
    """A backbone that can say in one vector what it makes of a user, before any fine-tuning."""

    def user_vectors(self, histories: Sequences, runtime: Runtime) -> Float32:
        """One vector per history, float32 [n, d]: of an LLM, the last layer at the last token of the user's text."""
        ...


@runtime_checkable
class HasTokenErrors(Protocol):
    """A backbone whose per-token errors can be asked for: EL2N of a language model."""

    def token_errors(self, samples: Samples, runtime: Runtime) -> Float32:
        """Mean over the answer's tokens of ‖softmax − onehot‖₂ before any fine-tuning, float32 [n]."""
        ...


class AlignmentConfig(Config):
    """Settings of gradient alignment: LESS (Xia et al., ICML 2024, arXiv 2402.04333); defaults are the paper's."""

    share: float = Field(default=0.05, gt=0, le=1, description="of the samples, drawn at random, for the warm-up")
    epochs: int = Field(default=4, ge=1, description="of the warm-up; a checkpoint, and a pass over the data, for each")
    lr: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="of the warm-up's first step; null: the backbone's own"
    )
    schedule: Literal["linear", "constant"] = Field(default="linear", description="linear: down to 0 at the end")
    validation_users: int | None = Field(
        default=None, ge=1, description="as many of the validation users that may be read, at random; null: all"
    )
    projection: int | None = Field(
        default=8192, ge=1, description="dimensions gradients are projected to; null: none, the exact cosine"
    )
    epsilon: float = Field(default=1e-8, gt=0, allow_inf_nan=False, description="ε of Γ = m̂ / √(v̂ + ε)")


@runtime_checkable
class HasAlignment(Protocol):
    """A backbone that can say how far a step on a sample would lower the loss of validation users."""

    def alignment(
        self, samples: Samples, validation: Queries, settings: AlignmentConfig, runtime: Runtime, folder: Path
    ) -> Float32:
        """LESS's influence of each sample on the mean loss of ``validation``, float32 [n], in [−1, 1].

        ``folder`` is scratch space that survives a kill: checkpoints and scores found there are not made again.
        """
        ...


class Surrogate(Protocol):
    """A small trained recommender with the derivatives pruning methods need; built as ``Surrogate(config, n_items)``.

    Sampled negatives depend on (seed, sample id, position) only, so that every pass over the data sees the same ones.
    ``load(folder, runtime)`` is a class method that restores what ``save`` wrote. ``Config`` has the field ``epochs``.
    """

    Config: ClassVar[type[Config]]
    version: ClassVar[int]
    report: FitReport

    def fit(
        self,
        samples: Samples,
        valid: Queries | None,
        runtime: Runtime,
        after_epoch: Callable[[int], None] | None = None,
    ) -> FitReport:
        """Train; the best epoch on ``valid`` is kept, or without ``valid`` the last of exactly ``epochs``.

        ``after_epoch(epoch)`` is called with 0, 1, … while the weights of that epoch are in place.
        """
        ...

    def gradient_norms(self, samples: Samples, scope: str, runtime: Runtime) -> Float32:
        """‖∇L(s)‖₂ of each sample's loss over a scope's parameters, evaluation mode, float32 [n]."""
        ...

    def losses(self, samples: Samples, runtime: Runtime) -> Float32:
        """Per-sample loss in evaluation mode, float32 [n]."""
        ...

    def objective(self, samples: Samples, scope: str, runtime: Runtime) -> Objective:
        """The same losses as a function of a scope's parameters (``block``: the released one; wider ones by name; ``all``).

        Means, Hessian products and directional derivatives of it are in ``derivatives``.
        """
        ...

    def user_vectors(self, histories: Sequences, runtime: Runtime) -> Float32:
        """What scores a history's next item, float32 [n, d]; zeros for an empty history."""
        ...

    def item_vectors(self) -> Float32:
        """Float32 [n_items, d]: an item's score (logit) is its inner product with the user vector."""
        ...

    def save(self, folder: Path) -> None: ...


class Resources(Protocol):
    """Shared, cached artefacts a backbone may use beyond its samples: those it named in ``needs``, else RecommenderError."""

    dataset: RecDataset

    def llm(self) -> Path | str:
        """The base LLM: a local folder, or a Hub id."""
        ...

    def encode(self, texts: Sequence[str]) -> Float32:
        """Unit-length sentence embeddings of any texts by the encoder of ``title_vectors``, float32 [len(texts), d]."""
        ...

    def title_vectors(self) -> Float32:
        """Unit-length sentence embeddings of all item titles, float32 [n_items, d]."""
        ...

    def get(self, name: str) -> Any:
        """Whatever the request of that name in ``needs`` gives."""
        ...
