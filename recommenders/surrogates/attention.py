"""Post-norm self-attention layers under the released SASRec's names, as steps of a surrogate's forward pass."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from prunebench.recommenders.derivatives import Vector
from prunebench.recommenders.surrogates import layers
from prunebench.recommenders.surrogates.config import AttentionConfig
from prunebench.recommenders.surrogates.layers import Parameters, Pass
from prunebench.recommenders.surrogates.network import State, Step

ITEMS, POSITIONS = "item_embeddings.weight", "position_embeddings.weight"


def initial_parameters(rows: int, positions: int, config: AttentionConfig, generator: torch.Generator) -> Vector:
    """Freshly drawn parameters under the released names; the item table has ``rows`` rows, of which 0 is padding.

    Embeddings and linear maps N(0, 0.02²), convolutions uniform in ±1/√d as PyTorch initialises them, LayerNorm identity.
    """
    d = config.d

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * 0.02

    def uniform(*shape: int) -> Tensor:
        return (torch.rand(*shape, generator=generator) * 2 - 1) / d**0.5

    items = normal(rows, d)
    items[0] = 0
    made = {ITEMS: items, POSITIONS: normal(positions, d)}
    for number in range(config.layers):
        layer = layer_name(number)
        for name in ("query", "key", "value", "dense"):
            made[f"{layer}.attention.{name}.weight"] = normal(d, d)
            made[f"{layer}.attention.{name}.bias"] = torch.zeros(d)
        for name in ("conv1d_1", "conv1d_2"):
            made[f"{layer}.intermediate.{name}.weight"] = uniform(d, d, 1)
            made[f"{layer}.intermediate.{name}.bias"] = uniform(d)
        for name in (f"{layer}.attention.LayerNorm", f"{layer}.intermediate.LayerNorm"):
            made[f"{name}.weight"], made[f"{name}.bias"] = torch.ones(d), torch.zeros(d)
    made["LayerNorm.weight"], made["LayerNorm.bias"] = torch.ones(d), torch.zeros(d)
    return made


def layer_name(number: int) -> str:
    return f"item_encoder.layer.{number}"


def scopes(config: AttentionConfig, parameters: Parameters) -> dict[str, tuple[str, ...]]:
    """``block``: the last attention's output projection, as DEALRec's released code has it; ``last_layer``: that layer."""
    last = layer_name(config.layers - 1)
    in_last = tuple(name for name in parameters if name.startswith(f"{last}."))
    return {"block": (f"{last}.attention.dense.weight",), "last_layer": in_last}


def steps(config: AttentionConfig, bias: Callable[[Pass], Tensor]) -> tuple[Step, ...]:
    """Embedding, then two steps a layer: its attention and the rest; ``bias`` says what a position may see."""
    made: list[Step] = [embed]
    for number in range(config.layers):
        made += [_attend(layer_name(number), config.heads, bias), _finish(layer_name(number))]
    return tuple(made)


def embed(p: Parameters, state: State, batch: Pass) -> State:
    """Item vectors [b, l, d] to the first layer's input [b, l, d]."""
    (items,) = state
    return (batch.dropout(layers.layer_norm(p, layers.add_positions(p, items, POSITIONS), "LayerNorm")),)


def _attend(layer: str, heads: int, bias: Callable[[Pass], Tensor]) -> Step:
    def attend(p: Parameters, state: State, batch: Pass) -> State:
        """x to (multi-head self-attention before its output projection, x), each [b, l, d]."""
        (x,) = state
        b, length, d = x.shape
        joint = layers.linear(p, x, *(f"{layer}.attention.{part}" for part in ("query", "key", "value")))
        query, key, value = joint.view(b, length, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
        scores = query @ key.transpose(-1, -2) / (d // heads) ** 0.5 + bias(batch)
        mixed = batch.dropout(scores.softmax(-1)) @ value
        return mixed.transpose(1, 2).reshape(b, length, d), x

    return attend


def _finish(layer: str) -> Step:
    def finish(p: Parameters, state: State, batch: Pass) -> State:
        """The rest of a layer, token by token: output projection, residual, feed-forward, each with post-norm."""
        context, x = state
        name = f"{layer}.attention"
        projected = batch.dropout(layers.linear(p, context, f"{name}.dense"))
        x = layers.layer_norm(p, projected + x, f"{name}.LayerNorm")
        name = f"{layer}.intermediate"
        inner = F.relu(layers.linear(p, x, f"{name}.conv1d_1"))
        outer = F.relu(layers.linear(p, inner, f"{name}.conv1d_2"))
        return (layers.layer_norm(p, batch.dropout(outer) + x, f"{name}.LayerNorm"),)

    return finish
