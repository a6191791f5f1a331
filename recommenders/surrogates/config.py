"""Settings that the surrogates share, and SASRec's; the defaults are the released surrogate's, with early stopping."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from prunebench.recommenders.base import Config


class SequenceConfig(Config):
    """What every sequential surrogate is told: its width, what it sees, and how it is trained."""

    d: int = Field(default=64, ge=1, description="width of embeddings and layers")
    max_length: int = Field(default=50, ge=1, description="longest history seen, items")
    dropout: float = Field(
        default=0.5,
        ge=0,
        lt=1,
        allow_inf_nan=False,
        description="share of values dropped in training, to the nearest 1/256",
    )
    loss: Literal["bce", "ce"] = Field(
        default="bce", description="one sampled negative per position, or softmax over all items"
    )
    learning_rate: float = Field(default=1e-3, gt=0, allow_inf_nan=False, description="of Adam")
    batch_size: int = Field(default=500, ge=1, description="samples per step")
    epochs: int = Field(default=200, ge=0, description="upper bound; 0 leaves the initial weights")
    patience: int = Field(default=5, ge=1, description="epochs without improvement on validation before stopping")
    stop_on: Literal["rank", "ndcg", "loss"] = Field(
        default="rank",
        description="what validation watches: mean log rank of the targets, NDCG@10, or the training loss",
    )


class AttentionConfig(SequenceConfig):
    """Settings of a stack of self-attention layers."""

    layers: int = Field(default=2, ge=1, description="self-attention layers")
    heads: int = Field(default=2, ge=1, description="attention heads; they divide d")

    @model_validator(mode="after")
    def _heads_divide(self) -> AttentionConfig:
        if self.d % self.heads:
            raise ValueError(f"d={self.d} must be a multiple of heads={self.heads}")
        return self


class SASRecConfig(AttentionConfig):
    """Released: d = 64, 2 layers, 2 heads, window 50, BCE with one sampled negative, Adam 1e-3, batch 500, 200 epochs."""
