"""GRU4Rec: a recurrent sequential recommender (Hidasi et al., ICLR 2016)."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from prunebench.recommenders.derivatives import Vector
from prunebench.recommenders.surrogates import layers
from prunebench.recommenders.surrogates.base import SequenceSurrogate
from prunebench.recommenders.surrogates.config import SequenceConfig
from prunebench.recommenders.surrogates.layers import Parameters, Pass
from prunebench.recommenders.surrogates.network import State, Step


class GRU4RecConfig(SequenceConfig):
    """One GRU layer of 128 over item vectors of 64; trained on all positions at once, as the other surrogates are."""

    layers: int = Field(default=1, ge=1, description="GRU layers")
    hidden: int = Field(default=128, ge=1, description="width of a GRU layer's state")
    dropout: float = Field(
        default=0.3,
        ge=0,
        lt=1,
        allow_inf_nan=False,
        description="share of the input values dropped in training, to the nearest 1/256",
    )


class GRU4Rec(SequenceSurrogate):
    """Item vectors, GRU layers, a projection back to d, and scores with the same item vectors.

    The paper's loss compares the items of a mini-batch of parallel sessions; here it is that of the other surrogates
    (``loss``), on every position of a sequence, so that surrogates differ in the network alone.
    """

    Config: ClassVar[type[GRU4RecConfig]] = GRU4RecConfig
    version: ClassVar[int] = 1
    name: ClassVar[str] = "gru4rec"
    config: GRU4RecConfig

    def fresh(self, generator: torch.Generator) -> Vector:
        """Items N(0, 0.02²), row 0 zero; all else uniform in ±1/√hidden, as PyTorch initialises a GRU."""
        c = self.config

        def uniform(*shape: int) -> Tensor:
            return (torch.rand(*shape, generator=generator) * 2 - 1) / c.hidden**0.5

        items = torch.randn(self.n_items + 1, c.d, generator=generator) * 0.02
        items[0] = 0
        made = {self.items: items}
        for number in range(c.layers):
            for part, width in (("input", c.d if number == 0 else c.hidden), ("recurrent", c.hidden)):
                made[f"gru.{number}.{part}.weight"] = uniform(3 * c.hidden, width)
                made[f"gru.{number}.{part}.bias"] = uniform(3 * c.hidden)
        made["projection.weight"], made["projection.bias"] = uniform(c.d, c.hidden), uniform(c.d)
        return made

    def make_steps(self) -> tuple[Step, ...]:
        return (_drop, *(_gru(f"gru.{number}") for number in range(self.config.layers)), _project)

    def scopes(self) -> dict[str, tuple[str, ...]]:
        """``block``: the output projection; ``last_layer``: the last GRU layer and the projection."""
        last = ("projection.", f"gru.{self.config.layers - 1}.")
        return {
            "block": ("projection.weight",),
            "last_layer": tuple(name for name in self.parameters if name.startswith(last)),
        }


def _drop(p: Parameters, state: State, given: Pass) -> State:
    return (given.dropout(state[0]),)


def _gru(name: str) -> Step:
    def gru(p: Parameters, state: State, given: Pass) -> State:
        """Hidden states of one layer, [b, l, width] to [b, l, hidden]; zero over padding, so that a row starts afresh.

        r = σ(W_r x + U_r h), z = σ(W_z x + U_z h), n = tanh(W_n x + r ∘ U_n h), h ← (1 - z) ∘ n + z ∘ h, biases aside.
        """
        entering = layers.linear(p, state[0], f"{name}.input")
        real = given.real[..., None].to(entering.dtype)
        h = entering.new_zeros(len(entering), entering.shape[2] // 3)
        outputs = []
        for here, is_real in zip(entering.unbind(1), real.unbind(1), strict=True):
            x_gates, x_new = here.tensor_split([2 * h.shape[1]], 1)
            h_gates, h_new = layers.linear(p, h, f"{name}.recurrent").tensor_split([2 * h.shape[1]], 1)
            reset, keep = (x_gates + h_gates).sigmoid().chunk(2, 1)
            new = (x_new + reset * h_new).tanh()
            h = (new + keep * (h - new)) * is_real
            outputs.append(h)
        return (torch.stack(outputs, 1),)

    return gru


def _project(p: Parameters, state: State, given: Pass) -> State:
    return (layers.linear(p, state[0], "projection"),)
