"""SASRec as a function of a dictionary of tensors, so that derivatives by any subset of them are torch.func's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Parameters = Mapping[str, Tensor]
Dropout = Callable[[Tensor], Tensor]

EPSILON = 1e-12
MASKED = -10000.0


def no_dropout(x: Tensor) -> Tensor:
    return x


def make_dropout(rate: float, generator: torch.Generator) -> Dropout:
    """Inverted dropout that draws from ``generator`` and never from the global one; ``rate`` to the nearest 1/256.

    One random byte decides about a value: drawing eight at a time is several times as quick as a Bernoulli draw each.
    """
    dropped = round(rate * 256)
    if dropped == 0:
        return no_dropout

    def dropout(x: Tensor) -> Tensor:
        words = torch.empty((x.numel() + 7) // 8, dtype=torch.int64, device=x.device)
        random_bytes = words.random_(-(2**63), None, generator=generator).view(torch.uint8)[: x.numel()]
        return x * (random_bytes >= dropped).view(x.shape).to(x.dtype).mul_(256 / (256 - dropped))

    return dropout


def initial_parameters(
    n_items: int, d: int, layers: int, max_length: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """Freshly drawn parameters under the released names; items are 1 … n_items, row 0 is padding.

    Embeddings and linear maps N(0, 0.02²), convolutions uniform in ±1/√d as PyTorch initialises them, LayerNorm identity.
    """

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * 0.02

    def uniform(*shape: int) -> Tensor:
        return (torch.rand(*shape, generator=generator) * 2 - 1) / d**0.5

    items = normal(n_items + 1, d)
    items[0] = 0
    made = {"item_embeddings.weight": items, "position_embeddings.weight": normal(max_length, d)}
    for number in range(layers):
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


def normalised(p: Parameters, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], p[f"{name}.weight"], p[f"{name}.bias"], EPSILON)


def embed(p: Parameters, items: Tensor, dropout: Dropout = no_dropout) -> Tensor:
    """Item vectors [b, l, d] of a left-padded batch to the first layer's input [b, l, d].

    The batch stands at the right end of the window: its last column uses the last position embedding.
    """
    positions = p["position_embeddings.weight"]
    return dropout(normalised(p, "LayerNorm", items + positions[len(positions) - items.shape[1] :]))


def attention_bias(real: Tensor, dtype: torch.dtype) -> Tensor:
    """-10000 where the key is padding or in the future, [b, 1, l, l] (or [1, 1, l, l] without padding)."""
    length = real.shape[1]
    seen = torch.ones(length, length, dtype=torch.bool, device=real.device).tril()[None, None]
    if not bool(real.all()):
        seen = seen & real[:, None, None, :]
    return torch.zeros(seen.shape, dtype=dtype, device=real.device).masked_fill_(~seen, MASKED)


def attend(p: Parameters, layer: str, x: Tensor, bias: Tensor, heads: int, dropout: Dropout = no_dropout) -> Tensor:
    """Multi-head self-attention before its output projection, [b, l, d] to [b, l, d]."""
    b, length, d = x.shape
    names = [f"{layer}.attention.{part}" for part in ("query", "key", "value")]
    weight = torch.cat([p[f"{name}.weight"] for name in names])
    offset = torch.cat([p[f"{name}.bias"] for name in names])
    query, key, value = F.linear(x, weight, offset).view(b, length, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
    scores = query @ key.transpose(-1, -2) / (d // heads) ** 0.5 + bias
    mixed = dropout(scores.softmax(-1)) @ value
    return mixed.transpose(1, 2).reshape(b, length, d)


def finish(p: Parameters, layer: str, context: Tensor, x: Tensor, dropout: Dropout = no_dropout) -> Tensor:
    """The rest of a layer, token by token: output projection, residual, feed-forward, each with post-norm. [..., d]."""
    name = f"{layer}.attention"
    projected = dropout(F.linear(context, p[f"{name}.dense.weight"], p[f"{name}.dense.bias"]))
    x = normalised(p, f"{name}.LayerNorm", projected + x)
    name = f"{layer}.intermediate"
    inner = F.relu(F.linear(x, p[f"{name}.conv1d_1.weight"][..., 0], p[f"{name}.conv1d_1.bias"]))
    outer = F.relu(F.linear(inner, p[f"{name}.conv1d_2.weight"][..., 0], p[f"{name}.conv1d_2.bias"]))
    return normalised(p, f"{name}.LayerNorm", dropout(outer) + x)


def layers_forward(
    p: Parameters, x: Tensor, bias: Tensor, heads: int, layers: range, dropout: Dropout = no_dropout
) -> Tensor:
    """Run the given layers on x [b, l, d]."""
    for number in layers:
        layer = layer_name(number)
        x = finish(p, layer, attend(p, layer, x, bias, heads, dropout), x, dropout)
    return x


def bce(hidden: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """-log σ(h·e⁺) - log(1 - σ(h·e⁻)) per token, from vectors [..., d] to [...]; stable for large logits."""
    return F.softplus(-(hidden * positive).sum(-1)) + F.softplus((hidden * negative).sum(-1))


def cross_entropy(hidden: Tensor, items: Tensor, target: Tensor) -> Tensor:
    """-log softmax over all items, per token: hidden [t, d], items [n_items + 1, d] (row 0, padding, is no item), target [t]."""
    logits = hidden @ items[1:].T
    return logits.logsumexp(-1) - logits.gather(-1, (target - 1)[:, None])[:, 0]


def summed_cross_entropy(hidden: Tensor, items: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Σ weight · ``cross_entropy``, for training: logits exist for a few hundred tokens at a time, forward and backward."""
    return _SummedCrossEntropy.apply(hidden, items, target, weight)


class _SummedCrossEntropy(torch.autograd.Function):
    """Gradients are made in the forward pass, where the logits are at hand, and only scaled in the backward one."""

    CELLS = 2**21

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, items: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        catalogue = items[1:]
        by_hidden, by_items = torch.empty_like(hidden), torch.zeros_like(items)
        loss = hidden.new_zeros(())
        step = max(_SummedCrossEntropy.CELLS // len(items), 1)
        # One buffer for all chunks: fresh pages for each would cost more than the product itself.
        buffer = hidden.new_empty(min(step, len(hidden)), len(catalogue))
        for first in range(0, len(hidden), step):
            span = slice(first, min(first + step, len(hidden)))
            logits = torch.mm(hidden[span], catalogue.T, out=buffer[: span.stop - first])
            logits -= logits.amax(1, keepdim=True)
            column = (target[span] - 1)[:, None]
            own = logits.gather(1, column)[:, 0]
            total = logits.exp_().sum(1)
            loss += ((total.log() - own) * weight[span]).sum()
            logits *= (weight[span] / total)[:, None]
            logits.scatter_add_(1, column, -weight[span, None])
            by_hidden[span] = logits @ catalogue
            by_items[1:].addmm_(logits.T, hidden[span])
        ctx.save_for_backward(by_hidden, by_items)
        return loss

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        by_hidden, by_items = ctx.saved_tensors
        return by_hidden * upstream[0], by_items * upstream[0], None, None
