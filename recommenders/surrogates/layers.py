"""Operations on parameters by name, which a watch notices: linear maps, layer norms, look-ups, the softmax's product."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from prunebench.recommenders.gradients import PullBack, Use, Watched

Parameters = Mapping[str, Tensor]
Dropout = Callable[[Tensor], Tensor]

EPSILON = 1e-12
MASKED = -10000.0


def linear(p: Parameters, x: Tensor, *names: str) -> Tensor:
    """x Wᵀ + b, [b, …, in] to [b, …, out]; of several maps of the same input the outputs stand side by side.

    A map is ``name.weight`` [out, in] (or [out, in, 1], as a convolution of width one stores it) and ``name.bias`` [out].
    """
    weights = [p[f"{name}.weight"].flatten(1) for name in names]
    biases = [p[f"{name}.bias"] for name in names]
    if len(names) == 1:
        y = F.linear(x, weights[0], biases[0])
    else:
        y = F.linear(x, torch.cat(weights), torch.cat(biases))
    if not isinstance(p, Watched):
        return y
    entered, factors, start = x.detach(), {}, 0
    for name, bias in zip(names, biases, strict=True):
        part = slice(start, start + len(bias))
        factors[f"{name}.weight"] = lambda gradient, part=part: Use(gradient[..., part], entered)
        factors[f"{name}.bias"] = lambda gradient, part=part: Use(gradient[..., part])
        start = part.stop
    return p.notice(y, factors)


def layer_norm(p: Parameters, x: Tensor, name: str) -> Tensor:
    """Each vector's mean and variance removed, then ``name.weight`` [d] as gain and ``name.bias`` [d]."""
    y = F.layer_norm(x, x.shape[-1:], p[f"{name}.weight"], p[f"{name}.bias"], EPSILON)
    if not isinstance(p, Watched):
        return y
    plain = F.layer_norm(x.detach(), x.shape[-1:], eps=EPSILON)
    return p.notice(y, {f"{name}.weight": lambda gradient: Use(gradient * plain), f"{name}.bias": Use})


def look_up(p: Parameters, ids: Tensor, name: str) -> Tensor:
    """Rows of the table ``name`` [rows, d], [b, …] to [b, …, d]. Use once for all the rows wanted: it is quicker."""
    y = F.embedding(ids, p[name])
    if not isinstance(p, Watched):
        return y
    return p.notice(y, {name: lambda gradient: Use(ids, gradient)})


def add_positions(p: Parameters, x: Tensor, name: str) -> Tensor:
    """x [b, l, d] plus the last l rows of the table ``name``: a left-padded batch stands at the right end of the window."""
    table = p[name]
    first = len(table) - x.shape[1]
    y = x + table[first:]
    if not isinstance(p, Watched):
        return y
    rows = torch.arange(first, len(table), device=x.device).expand(x.shape[:2])
    return p.notice(y, {name: lambda gradient: Use(rows, gradient)})


def item_logits(p: Parameters, hidden: Tensor, name: str, n_items: int) -> Tensor:
    """Inner products with rows 1 … n_items of the table ``name`` (row 0 is padding), [b, …, d] to [b, …, n_items]."""
    y = hidden @ p[name][1 : n_items + 1].T
    if not isinstance(p, Watched):
        return y
    entered = hidden.detach()
    return p.notice(y, {name: lambda gradient: Use(gradient, entered, first=1)})


def with_table(p: Parameters, name: str, table: Tensor, parameter: str, pull_back: PullBack) -> Parameters:
    """``p`` with one more table [rows, d], a linear function of ``parameter`` that all samples share: table = M parameter.

    ``pull_back`` turns a ``Use`` of the table into one of the parameter: left M in place of left (whose one-hot rows,
    if it holds ids, are those of the identity).
    """
    return p.deriving(name, table, parameter, pull_back) if isinstance(p, Watched) else {**p, name: table}


class Pass:
    """What the steps of one forward pass share: input ids [b, l], which of them are real, bool [b, l], and dropout.

    ``aside``: what a step sets aside for ``auxiliary_loss``.
    """

    def __init__(self, ids: Tensor, dropout: Dropout | None = None) -> None:
        self.ids, self.real, self.dropout = ids, ids > 0, dropout or no_dropout
        self.aside: dict[str, Tensor] = {}

    @cached_property
    def causal_bias(self) -> Tensor:
        """-10000 where the key is padding or in the future, [b, 1, l, l] (or [1, 1, l, l] without padding)."""
        length = self.real.shape[1]
        seen = torch.ones(length, length, dtype=torch.bool, device=self.real.device).tril()[None, None]
        if not bool(self.real.all()):
            seen = seen & self.real[:, None, None, :]
        return torch.zeros(seen.shape, device=self.real.device).masked_fill_(~seen, MASKED)

    @cached_property
    def padding_bias(self) -> Tensor:
        """-10000 where the key is padding, [b, 1, 1, l]: attention in both directions."""
        bias = torch.zeros(self.real.shape, device=self.real.device).masked_fill_(~self.real, MASKED)
        return bias[:, None, None, :]


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
