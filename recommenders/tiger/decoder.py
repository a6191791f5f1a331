"""T5's decoder one token at a time, for many prefixes of many users at once.

The prefixes of a user are the query positions of one row: what they attend to in the history is projected once per user
and layer, and never copied per prefix. What a prefix attends to in itself is looked up where its ancestors left it, so
that a beam search carries indices along and no states. The weights are the model's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from prunebench.recommenders.base import RecommenderError

KeysValues = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Memory:
    """What a batch's decoder may look at: keys and values of the histories per layer, [u, heads, t, head width].

    ``mask`` bool [u, 1, 1, t]: False in padding.
    """

    layers: tuple[KeysValues, ...]
    mask: Tensor

    @property
    def users(self) -> int:
        return len(self.mask)


@dataclass(frozen=True, eq=False)
class Trail:
    """The tokens read so far: for each step, what its prefixes left behind and who descends from whom.

    ``steps[s][layer]``: keys and values [u, prefixes of step s, heads × head width]; ``ancestors[s]`` int64 [u, b]: the
    prefix of step s that each of the current ones continues.
    """

    steps: tuple[tuple[KeysValues, ...], ...] = ()
    ancestors: tuple[Tensor, ...] = ()


class Decoder:
    """Reads a T5ForConditionalGeneration in evaluation mode; its logits are those of the model's own forward pass."""

    def __init__(self, model: Any, steps: int) -> None:
        """``steps``: most tokens of a sequence. Raises RecommenderError for a model in training mode (dropout)."""
        if model.training:
            raise RecommenderError("decoding in training mode would drop units at random: call model.eval() first")
        self._model = model
        self._heads, self._width = model.config.num_heads, model.config.d_kv
        self._scale = model.config.d_model**-0.5 if model.config.scale_decoder_outputs else 1.0
        # [steps, heads, steps]: what the distance of two positions adds to their attention, the same in every layer.
        first = model.decoder.block[0].layer[0].SelfAttention
        self._bias = first.compute_bias(steps, steps)[0].detach().transpose(0, 1)

    @property
    def vocabulary(self) -> int:
        return int(self._model.config.vocab_size)

    def read(self, batch: Mapping[str, Tensor]) -> Memory:
        """Encode a batch's ``input_ids`` by its ``attention_mask``, int64 [u, t], and project that for every layer."""
        mask = batch["attention_mask"]
        encoded = self._model.encoder(input_ids=batch["input_ids"], attention_mask=mask).last_hidden_state
        attentions = [block.layer[1].EncDecAttention for block in self._model.decoder.block]
        layers = [(self._by_head(each.k(encoded)), self._by_head(each.v(encoded))) for each in attentions]
        return Memory(tuple(layers), mask.bool()[:, None, None])

    def start(self, memory: Memory) -> tuple[Tensor, Trail]:
        """Logits float32 [u, 1, vocabulary] of the first token."""
        token = torch.full((memory.users, 1), self._model.config.decoder_start_token_id, device=memory.mask.device)
        return self.step(memory, Trail(), token, torch.zeros_like(token))

    def step(self, memory: Memory, trail: Trail, tokens: Tensor, parents: Tensor) -> tuple[Tensor, Trail]:
        """Logits float32 [u, b, vocabulary] of the next token, after ``tokens`` int64 [u, b].

        ``parents`` int64 [u, b]: the prefix of the step before that each token continues; any number of them, in any
        order, so b may differ from step to step.
        """
        ancestors = tuple(line.gather(1, parents) for line in trail.ancestors)
        bias = self._bias[len(ancestors), :, : len(ancestors) + 1]
        x = self._model.decoder.embed_tokens(tokens)
        left = []
        for index, (block, seen) in enumerate(zip(self._model.decoder.block, memory.layers, strict=True)):
            own, cross, feed_forward = block.layer
            normed = own.layer_norm(x)
            attention = own.SelfAttention
            left.append((attention.k(normed), attention.v(normed)))
            past = [
                (_rows(step[index][0], line), _rows(step[index][1], line))
                for step, line in zip(trail.steps, ancestors, strict=True)
            ]
            x = x + attention.o(self._among_ancestors(attention.q(normed), [*past, left[-1]], bias))
            attention = cross.EncDecAttention
            x = x + attention.o(self._over_history(attention.q(cross.layer_norm(x)), seen, memory.mask))
            x = feed_forward(x)
        x = self._model.decoder.final_layer_norm(x) * self._scale
        itself = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
        return self._model.lm_head(x).float(), Trail((*trail.steps, tuple(left)), (*ancestors, itself))

    def _among_ancestors(self, query: Tensor, line: list[KeysValues], bias: Tensor) -> Tensor:
        # A handful of positions per prefix: products of their own would be too small for a matrix multiplication.
        shape = (*query.shape[:2], self._heads, self._width)
        match = [(query * key).view(shape).sum(-1) for key, _ in line]
        weights = (torch.stack(match, -1) + bias).softmax(-1)
        mixed = [value.unflatten(-1, shape[2:]) * weights[..., i, None] for i, (_, value) in enumerate(line)]
        return torch.stack(mixed).sum(0).flatten(2)

    def _over_history(self, query: Tensor, seen: KeysValues, mask: Tensor) -> Tensor:
        mixed = F.scaled_dot_product_attention(self._by_head(query), *seen, attn_mask=mask, scale=1.0)
        return mixed.transpose(1, 2).flatten(2)

    def _by_head(self, projected: Tensor) -> Tensor:
        return projected.unflatten(-1, (self._heads, self._width)).transpose(1, 2)


def _rows(values: Tensor, index: Tensor) -> Tensor:
    """values [u, p, c] at index [u, b]: [u, b, c]; the only one of p = 1 is left for all b to share."""
    if values.shape[1] == 1:
        return values
    flat = index + torch.arange(len(values), device=index.device)[:, None] * values.shape[1]
    return values.flatten(0, 1).index_select(0, flat.flatten()).view(*index.shape, -1)
