"""A sequential recommender as a function of a dictionary of tensors, so that torch.func differentiates by any of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from prunebench.recommenders.derivatives import Vector
from prunebench.recommenders.surrogates import layers, losses
from prunebench.recommenders.surrogates.config import SequenceConfig
from prunebench.recommenders.surrogates.layers import Dropout, Parameters, Pass
from prunebench.recommenders.surrogates.windows import Batch

State = tuple[Tensor, ...]
"""What one step hands to the next: tensors [b, l, width], left-padded, each cell of which a later step may look at."""
Step = Callable[[Parameters, State, Pass], State]


class _Asked(NamedTuple):
    hidden: Tensor
    targets: Tensor
    weight: Tensor


class Network(ABC):
    """Item ids to hidden states to losses. See ``base.SequenceSurrogate`` for what a concrete network supplies."""

    items: ClassVar[str] = "item_embeddings.weight"
    """The table [≥ n_items + 1, d] in the prepared parameters that inputs are looked up in and scores are made with."""

    def __init__(self, config: SequenceConfig, n_items: int) -> None:
        self.config, self.n_items = config, n_items
        self.steps = self.make_steps()

    @abstractmethod
    def fresh(self, generator: torch.Generator) -> Vector:
        """Freshly drawn parameters by name; items are rows 1 … n_items of their table, row 0 is padding."""

    @abstractmethod
    def make_steps(self) -> tuple[Step, ...]:
        """The forward pass, from the inputs' vectors (one tensor [b, l, d]) to hidden states (one tensor [b, l, d])."""

    @abstractmethod
    def scopes(self) -> dict[str, tuple[str, ...]]:
        """Names of the parameters in ``block`` and in ``last_layer``."""

    def prepared(self, p: Parameters) -> Parameters:
        """``p`` with what all samples share and some parameters make, e.g. a propagated table (``layers.with_table``)."""
        return p

    def auxiliary_loss(self, p: Parameters, batch: Batch, hidden: Tensor, given: Pass) -> Tensor | None:
        """A scalar that training adds to the mean per-sample loss: ``hidden`` [b, l, d], of prepared parameters ``p``."""
        return None

    def run(self, p: Parameters, state: State, given: Pass, first: int = 0, stop: int | None = None) -> State:
        """Steps ``first`` … ``stop`` - 1 of the forward pass, with prepared parameters."""
        for step in self.steps[first:stop]:
            state = step(p, state, given)
        return state

    def sample_losses(self, p: Parameters, batch: Batch, kept: State = (), first: int = 0) -> Tensor:
        """L(s) in evaluation mode, [b], of prepared parameters; ``kept`` is the state before step ``first``, if known."""
        _, asked, vectors = self._asked(p, batch, Pass(batch.inputs), kept, first)
        if vectors:
            per_cell = losses.bce(asked.hidden, *vectors)
        else:
            logits = layers.item_logits(p, asked.hidden, self.items, self.n_items)
            per_cell = losses.cross_entropy(logits, asked.targets)
        return (per_cell * asked.weight).sum(1)

    def training_loss(self, p: Parameters, batch: Batch, dropout: Dropout) -> Tensor:
        """Mean over the batch of L(s) under dropout, plus ``auxiliary_loss``; a scalar."""
        p, given = self.prepared(p), Pass(batch.inputs, dropout)
        hidden, asked, vectors = self._asked(p, batch, given)
        if vectors:
            loss = (losses.bce(asked.hidden, *vectors) * asked.weight).sum()
        else:
            counts = asked.weight > 0
            loss = losses.summed_cross_entropy(
                asked.hidden[counts], self.catalogue(p), asked.targets[counts], asked.weight[counts]
            )
        extra = self.auxiliary_loss(p, batch, hidden, given)
        mean = loss / len(batch.rows)
        return mean if extra is None else mean + extra

    def catalogue(self, p: Parameters) -> Tensor:
        """Rows 0 … n_items of the items' table in prepared parameters, [n_items + 1, d]."""
        table = p[self.items]
        return table if len(table) == self.n_items + 1 else table[: self.n_items + 1]

    def _asked(
        self, p: Parameters, batch: Batch, given: Pass, kept: State = (), first: int = 0
    ) -> tuple[Tensor, _Asked, list[Tensor]]:
        """Hidden states; those of the cells that count, [b, m, d], with targets and weights; BCE: both items' vectors."""
        columns = batch.asked()

        def focused(x: Tensor) -> Tensor:
            return x if columns is None else x.gather(1, columns)

        targets, weight = focused(batch.targets), focused(batch.weight)
        wanted = [] if kept else [batch.inputs]
        if batch.negatives is not None:
            wanted += [targets, focused(batch.negatives)]
        vectors: list[Tensor] = []
        if wanted:
            # One look-up for all, because its backward pass fills a matrix of the catalogue's size.
            looked_up = layers.look_up(p, torch.cat(wanted, 1), self.items)
            vectors = list(looked_up.split([ids.shape[1] for ids in wanted], 1))
        state = kept or (vectors.pop(0),)
        (hidden,) = self.run(p, state, given, first)
        there = hidden
        if columns is not None:
            there = hidden.gather(1, columns[..., None].expand(-1, -1, hidden.shape[2]))
        return hidden, _Asked(there, targets, weight), vectors
