"""SASRec: a small self-attentive sequential recommender (Kang and McAuley, 2018), as DEALRec's released code has it."""

from __future__ import annotations

from typing import ClassVar

import torch

from prunebench.recommenders.derivatives import Vector
from prunebench.recommenders.surrogates import attention
from prunebench.recommenders.surrogates.base import SequenceSurrogate
from prunebench.recommenders.surrogates.config import SASRecConfig
from prunebench.recommenders.surrogates.network import Step


class SASRec(SequenceSurrogate):
    """Causal self-attention; every position predicts the next item. Parameters go by their released names.

    Position p of the left-padded window uses position embedding p, so a history of length l uses the last l of them.
    """

    Config: ClassVar[type[SASRecConfig]] = SASRecConfig
    version: ClassVar[int] = 2
    name: ClassVar[str] = "sasrec"
    config: SASRecConfig

    def fresh(self, generator: torch.Generator) -> Vector:
        return attention.initial_parameters(self.n_items + 1, self.config.max_length, self.config, generator)

    def make_steps(self) -> tuple[Step, ...]:
        return attention.steps(self.config, lambda given: given.causal_bias)

    def scopes(self) -> dict[str, tuple[str, ...]]:
        """``block``: the last attention's output projection (released)."""
        return attention.scopes(self.config, self.parameters)
