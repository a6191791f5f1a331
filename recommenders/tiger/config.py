"""Every knob of the TIGER backbone; the model's shape is the paper's."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from prunebench.recommenders.base import Config, Stage
from prunebench.recommenders.encoder import EncoderConfig
from prunebench.recommenders.fine_tuning import TRAINING_KEYS, TrainingConfig


class RQVAEConfig(Config):
    """Residual-quantised autoencoder of item vectors (Rajput et al., 2023, §3.1; its figures are the defaults)."""

    hidden: tuple[PositiveInt, ...] = Field(
        (512, 256, 128), description="widths of the encoder's layers; the decoder mirrors them"
    )
    width: int = Field(32, ge=1, description="dimensions that are quantised")
    commitment: float = Field(0.25, ge=0, allow_inf_nan=False, description="β of the commitment loss")
    epochs: int = Field(
        100, ge=1, description="passes over all items (the paper: 20,000): 2 min for 17,000 on one core"
    )
    batch: int = Field(256, ge=1, description="items per optimiser step; the paper: 1024")
    lr: float = Field(1e-3, gt=0, allow_inf_nan=False, description="of Adam; the paper has Adagrad at 0.4")
    revive: float = Field(
        0.25, ge=0, allow_inf_nan=False, description="a code used less than this share of the mean is dead; 0: stays so"
    )


class TokeniserConfig(Config):
    """How items become semantic IDs. Fitted once on all items' vectors, outside any budget of samples and seed."""

    kind: Literal["rkmeans", "rqvae"] = Field(
        "rkmeans", description="residual K-means on the sentence vectors, or the paper's autoencoder"
    )
    codebooks: int = Field(3, ge=1, le=8, description="levels before the collision code")
    codes: int = Field(256, ge=2, description="per codebook; fewer where there are fewer distinct vectors")
    rqvae: RQVAEConfig = Field(default_factory=lambda: RQVAEConfig.model_validate({}))
    encoder: EncoderConfig = Field(default_factory=lambda: EncoderConfig.model_validate({}))


class TIGERConfig(TrainingConfig):
    """The model's shape is the paper's; rate and steps suit a budget of about a thousand samples.

    The paper trains 200,000 steps on all data: ``lr=0.01 schedule=inverse_sqrt warmup_steps=10000 optimizer=adafactor``.
    """

    tokeniser: TokeniserConfig = Field(default_factory=lambda: TokeniserConfig.model_validate({}))
    max_history: int = Field(20, ge=1, description="items; older ones are dropped")
    user_tokens: int = Field(0, ge=0, description="tokens that users are hashed to (the paper: 2000); 0: no user token")

    layers: int = Field(4, ge=1, description="of the encoder, and of the decoder")
    heads: int = Field(6, ge=1, description="of attention")
    head_width: int = Field(64, ge=1, description="dimensions per head")
    width: int = Field(128, ge=1, description="of the model")
    feed_forward: int = Field(1024, ge=1, description="inner width")
    dropout: float = Field(0.1, ge=0, lt=1)
    precision: Literal["fp32", "bf16"] = "fp32"

    optimizer: Literal["adamw", "adafactor"] = "adamw"
    lr: float = Field(1e-3, gt=0, allow_inf_nan=False, description="the paper: 0.01 (on all data)")
    batch: int = Field(256, ge=1, description="samples per optimiser step")
    micro_batch: int = Field(32, ge=1, description="samples per forward and backward; divides batch")

    effort_steps: int = Field(
        0, ge=0, description="optimiser steps on random samples of all before effort; 0: at random weights, all seed"
    )

    decoding: Literal["beam", "exact"] = Field(
        "beam", description="exact: the probability of every item, for small catalogues"
    )
    beams: int = Field(20, ge=1, description="at least; as many as items are asked for where that is more")
    batch_beams: int = Field(4096, ge=1, description="beams decoded together, over all users of a batch")
    batch_tokens: int = Field(1024, ge=1, description="padded tokens per batch where nothing is trained")
    probe_users: int = Field(
        256, ge=0, description="users whose beams are searched without constraint, to count invalid IDs"
    )


_MODEL = (
    *("max_history", "user_tokens", "layers", "heads", "head_width", "width", "feed_forward"),
    *("dropout", "precision"),
)
STAGE_KEYS: dict[Stage, tuple[str, ...]] = {
    "effort": tuple(name for name in _MODEL if name != "dropout"),  # with ``effort_steps`` also those of "fit"
    "fit": (*_MODEL, "optimizer", *TRAINING_KEYS),
    "recommend": ("max_history", "user_tokens", "precision", "decoding", "beams", "probe_users"),
}
"""The knobs each stage's result depends on; the tokeniser's come in with its artefact, the rest decides how fast it is."""
