"""Losses per token: binary cross-entropy against one negative, softmax cross-entropy over the catalogue."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def bce(hidden: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """-log σ(h·e⁺) - log(1 - σ(h·e⁻)) per token, from vectors [..., d] to [...]; stable for large logits."""
    return F.softplus(-(hidden * positive).sum(-1)) + F.softplus((hidden * negative).sum(-1))


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """-log softmax per token: logits [..., n_items], target [...] counted from 1."""
    return logits.logsumexp(-1) - logits.gather(-1, (target - 1).clamp_min(0)[..., None])[..., 0]


def summed_cross_entropy(hidden: Tensor, items: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Σ weight · ``cross_entropy``, for training: hidden [t, d], items [n_items + 1, d] (row 0, padding, is no item),
    target and weight [t]. Logits exist for a few hundred tokens at a time, forward and backward."""
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
