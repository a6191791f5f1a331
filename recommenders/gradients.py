"""Per-sample gradient norms over linear layers, from batched passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn


def gradient_norms(model: nn.Module, layers: Sequence[nn.Linear], losses: Callable[[], torch.Tensor]) -> torch.Tensor:
    """‖∇L(s)‖₂ over the weights (and biases) of ``layers`` for every sample of a batch, float32 [b].

    ``losses()`` runs ``model`` once and returns per-sample losses [b]; the batch must be the leading dimension of
    what enters each layer, and no sample may influence another (no batch statistics). Each layer's gradient of
    sample s is Σ_t g_t x_tᵀ (x its input, g the gradient of its output), so one forward and one backward pass serve
    the batch, and the batch's own weight gradient is never formed. Equation 12 of the DEALRec paper; the two ways to
    take the norm are those of Goodfellow (2015) and of "ghost clipping" (Li et al., 2022).

    Parameters are left as they are, their ``requires_grad`` and ``grad`` too.
    """
    squares: dict[nn.Module, torch.Tensor] = {}
    calls: dict[nn.Module, int] = dict.fromkeys(layers, 0)
    waiting: dict[nn.Module, list[tuple[torch.Tensor, torch.Tensor]]] = {layer: [] for layer in layers}

    def watch(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        # With all parameters frozen, the graph has to start somewhere: at the first layer asked about.
        if not output.requires_grad:
            output = output.detach().requires_grad_()
        entered = inputs[0].detach()
        calls[layer] += 1

        def arrived(gradient: torch.Tensor) -> None:
            waiting[layer].append((entered, gradient))
            # A layer used twice in a pass has one gradient: the sum over both uses.
            if len(waiting[layer]) == calls[layer]:
                squares[layer] = _squared_norm(layer, waiting[layer])
                waiting[layer].clear()

        output.register_hook(arrived)
        return output

    hooks = [layer.register_forward_hook(watch) for layer in layers]
    try:
        with _frozen(model), torch.enable_grad():
            values = losses()
            values.sum().backward()
    finally:
        for hook in hooks:
            hook.remove()
    total = torch.zeros(len(values), dtype=torch.float32, device=values.device)
    for square in squares.values():
        total += square
    return total.sqrt()


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """No parameter asks for a gradient: only outputs do, so that the backward pass does nothing for weights."""
    asked = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in asked:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asked:
            parameter.requires_grad_(True)


def _squared_norm(layer: nn.Module, uses: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """‖Σ_t g_t x_tᵀ‖_F² per sample (and ‖Σ_t g_t‖² for a bias), float32 [b]."""
    batch = uses[0][0].shape[0]
    entered = torch.cat([x.reshape(batch, -1, x.shape[-1]) for x, _ in uses], 1).float()
    arrived = torch.cat([g.reshape(batch, -1, g.shape[-1]) for _, g in uses], 1).float()
    tokens, width_in, width_out = entered.shape[1], entered.shape[2], arrived.shape[2]
    if width_in * width_out <= tokens * (width_in + width_out):
        square = torch.bmm(arrived.transpose(1, 2), entered).square().sum((1, 2))
    else:
        # Σ_{t,u} (x_t·x_u)(g_t·g_u): cheaper when the weight is larger than the sequence is long.
        inner = torch.bmm(entered, entered.transpose(1, 2)) * torch.bmm(arrived, arrived.transpose(1, 2))
        square = inner.sum((1, 2)).clamp_min(0)
    if getattr(layer, "bias", None) is not None:
        square = square + arrived.sum(1).square().sum(1)
    return square
