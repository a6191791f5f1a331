"""How hard each sample is to learn: the norm of its gradient by every parameter of the encoder-decoder."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers.models.t5.modeling_t5 import T5Attention, T5LayerNorm

from prunebench.recommenders.base import Float32, RecommenderError
from prunebench.recommenders.gradients import (
    Factors,
    Use,
    Watch,
    embedding_factors,
    linear_factors,
    squared_norms,
)
from prunebench.recommenders.runtime import Runtime
from prunebench.recommenders.tiger.model import Spelt, sample_losses


def efforts(model: Any, spelt: Spelt, batch_tokens: int, runtime: Runtime) -> Float32:
    """‖∇_φ L(s)‖₂ by all parameters φ of a T5, L(s) = −Σ_l log P(c_l | c_<l, history), float32 [n] (Eq. 12 of DEALRec).

    Without dropout, in batches of like length of at most ``batch_tokens`` padded tokens on either side, in one forward
    and one backward pass each (a longer history is a batch of its own). The model is left as it was. Raises
    RecommenderError for samples without answers, and for a model with parameters of a kind not known here.
    """
    if spelt.answers is None:
        raise RecommenderError("effort needs the answers of its samples: spell them with their targets")
    norms = np.empty(len(spelt), np.float32)
    rows = max(1, batch_tokens // spelt.answers.shape[1])
    done = 0
    with _evaluating(model):
        for positions in spelt.batches(rows, batch_tokens):
            runtime.checkpoint()
            squares = squares_by_parameter(model, spelt.batch(positions, runtime.device))
            norms[positions] = torch.stack(list(squares.values())).sum(0).sqrt().cpu().numpy()
            done += len(positions)
            runtime.report(done, len(spelt), "effort")
    return norms


def squares_by_parameter(model: Any, batch: Mapping[str, Tensor]) -> dict[Hashable, Tensor]:
    """‖∇_w L(s)‖₂² by each parameter w for the samples of one batch that the model takes, float32 [b] each.

    In the mode the model is in. Raises RecommenderError for a model with parameters of a kind not known here.
    """

    def losses() -> Tensor:
        return sample_losses(model(**batch, use_cache=False).logits, batch["labels"])

    return squared_norms(model, losses, lambda watch: _hooks(model, watch))[1]


def _gain_factors(norm: Any, x: Tensor) -> Factors:
    """Of T5's layer norm: the root mean square of each vector is removed, then every dimension has a gain."""

    def use(gradient: Tensor) -> Use:
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + norm.variance_epsilon)
        return Use(gradient * (wide * scale))

    return {norm.weight: use}


def _no_factors(module: nn.Module, x: Tensor) -> Factors:
    return {}


_FACTORS: Mapping[type[nn.Module], Callable[[Any, Tensor], Factors]] = {
    nn.Linear: linear_factors,
    nn.Embedding: embedding_factors,
    T5LayerNorm: _gain_factors,
}


def _hooks(model: nn.Module, watch: Watch) -> Iterator[RemovableHandle]:
    """Hooks on every module that has parameters of its own; RecommenderError for one of which a rule is not known."""
    tables = set()
    for module in model.modules():
        if isinstance(module, T5Attention) and module.has_relative_attention_bias:
            tables.add(module.relative_attention_bias)
            yield _watch_positions(module, watch)
    for name, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        if not own or module in tables:
            continue
        rule = _FACTORS.get(type(module), _no_factors)
        known = rule(module, torch.empty(0))
        for parameter, value in own.items():
            if value not in known:
                where = f"{name}.{parameter}".lstrip(".")
                raise RecommenderError(
                    f"effort: no rule for the gradient of {where} ({type(module).__name__}): "
                    "its kind needs one in tiger/effort.py"
                )
        yield watch.attach(module, rule)


def _watch_positions(attention: T5Attention, watch: Watch) -> RemovableHandle:
    """A hook that gives each sample its own copy of the bias of relative positions, which all samples and layers share.

    The table [buckets, heads] adds to the logits of attention; a sample's gradient by its copy [heads, q, k] is summed
    over the cells of each bucket.
    """
    table = attention.relative_attention_bias

    def entering(_: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Any]) -> tuple[Any, Any] | None:
        if named.get("position_bias") is not None:
            return None
        rows, length = inputs[0].shape[:2]
        seen: list[Tensor] = []
        with table.register_forward_hook(lambda _, buckets, __: seen.append(buckets[0])):
            bias = attention.compute_bias(length, length, device=inputs[0].device)
        member = F.one_hot(seen[0].flatten(), table.num_embeddings).float()
        bias = bias.expand(rows, -1, -1, -1)
        factors = {table.weight: lambda gradient: Use((gradient.float().flatten(2) @ member).flatten(1)[:, None])}
        return inputs, {**named, "position_bias": watch.notice(bias, factors)}

    return attention.register_forward_pre_hook(entering, with_kwargs=True)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode: no dropout. Every module is put back into the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
