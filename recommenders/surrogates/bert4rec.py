"""BERT4Rec: a bidirectional sequential recommender that fills in masked items (Sun et al., CIKM 2019)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

from prunebench.datasets.schema import Int64, Sequences
from prunebench.recommenders.derivatives import Vector
from prunebench.recommenders.surrogates import attention
from prunebench.recommenders.surrogates.base import SequenceSurrogate
from prunebench.recommenders.surrogates.config import AttentionConfig
from prunebench.recommenders.surrogates.network import Step
from prunebench.recommenders.surrogates.windows import Examples, Windows, hashed_shares


class BERT4RecConfig(AttentionConfig):
    """d = 64, 2 layers, 2 heads and softmax over all items as in the paper; a fifth of the items masked."""

    max_length: int = Field(default=50, ge=2, description="longest sequence seen, items, the appended mask counted")
    mask_share: float = Field(
        default=0.2,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="probability that an item is masked; the last always is",
    )
    dropout: float = Field(
        default=0.2,
        ge=0,
        lt=1,
        allow_inf_nan=False,
        description="share of values dropped in training, to the nearest 1/256",
    )
    loss: Literal["bce", "ce"] = Field(
        default="ce", description="one sampled negative per masked item, or softmax over all items"
    )
    batch_size: int = Field(default=256, ge=1, description="samples per step")


class BERT4Rec(SequenceSurrogate):
    """Self-attention in both directions; L(s) is the mean loss over the masked items of a sample's sequence.

    A sequence is history and target. Each item is masked with probability ``mask_share``, hashed from (seed, sample id,
    position), by other seeds each epoch in training and always by the same one in evaluation. The last item is masked
    always: the task at the end of a history, which the paper adds as sequences of their own, is part of every look, and
    every sample has a loss. A history is scored by a [mask] appended to it, whose hidden state is the user vector; [mask]
    is the item table's last row.

    Unlike the paper: scores are inner products with the item table, without the output projection and the bias per item
    (the contract says so: a score is user vector · item vector); the feed-forward layers are SASRec's (d wide, ReLU, not
    4d and GELU), so that surrogates differ in what they see and are asked, and not in size; Adam without decay or warm-up.
    """

    Config: ClassVar[type[BERT4RecConfig]] = BERT4RecConfig
    version: ClassVar[int] = 1
    name: ClassVar[str] = "bert4rec"
    config: BERT4RecConfig

    def fresh(self, generator: torch.Generator) -> Vector:
        return attention.initial_parameters(self.n_items + 2, self.config.max_length, self.config, generator)

    def make_steps(self) -> tuple[Step, ...]:
        return attention.steps(self.config, lambda given: given.padding_bias)

    def scopes(self) -> dict[str, tuple[str, ...]]:
        """``block``: the last attention's output projection, as SASRec's."""
        return attention.scopes(self.config, self.parameters)

    def windows(self, sequences: Sequences) -> Windows:
        return Windows.whole(sequences, self.config.max_length, self.n_items)

    def examples(self, windows: Windows, ids: Int64, draw: Callable[[str], int]) -> Examples:
        """Masked items are the inputs ``n_items + 1``, and alone they weigh."""
        inputs = windows.inputs
        rows = inputs.rows_of_items()
        masked = hashed_shares(np.asarray(ids, np.int64)[rows], windows.places, draw("masks")) < self.config.mask_share
        masked[inputs.offsets[1:][inputs.lengths > 0] - 1] = True
        count = np.bincount(rows[masked], minlength=len(inputs))
        seen = super().examples(windows, ids, draw)
        return replace(
            seen,
            inputs=np.where(masked, np.int32(self.n_items + 1), seen.inputs),
            weights=(masked / count[rows]).astype(np.float32),
        )

    def inputs(self, histories: Sequences) -> Sequences:
        """The history's tail and a mask."""
        tails = histories.tail(self.config.max_length - 1)
        mask = Sequences.from_flat(np.full(len(tails), self.n_items), np.ones(len(tails), np.int64))
        joined = tails.join(mask)
        return Sequences(joined.items + np.int32(1), joined.offsets)
