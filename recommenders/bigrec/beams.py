"""Beam search in which a prompt's beams share one row and one cache.

``generate`` of transformers repeats each prompt for every beam before it reads it, and then copies the whole cache at
every token to follow the beams. Here a prompt is one row from start to end: its beams are extra columns, told apart by
the attention mask, as in tree attention. Nothing is repeated or copied, and rows that are done leave the batch. The
search itself is ``generate``'s (length penalty 1, ``early_stopping=False``), hypothesis for hypothesis.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

from prunebench.recommenders.bigrec.model import causal_model
from prunebench.recommenders.bigrec.prompts import Batch

NEVER = -1e9
PROBE_TOKENS = 3


@torch.inference_mode()
def beam_search(
    model: Any, batch: Batch, end: int, beams: int, new_tokens: int, wanted: int = 1
) -> list[list[list[int]]]:
    """Token ids of the ``wanted`` best beams after each prompt, likeliest first, the end token not included.

    ``new_tokens``: most tokens of an answer, the end token included; an answer that long is finished, too, so that all
    ``beams`` are. Needs a model ``shares_prefix`` accepts.
    """
    tree = _Tree(model, batch, beams)
    rows, device = len(batch.input_ids), batch.input_ids.device
    live = torch.arange(rows, device=device)
    written = torch.full((rows, beams, new_tokens), end, device=device)
    finished = written.clone()
    finished_score = torch.full((rows, beams), NEVER, device=device)
    is_finished = torch.zeros((rows, beams), dtype=torch.bool, device=device)
    running = torch.zeros((rows, 1), device=device)
    scores = tree.prefill(batch)
    answers: list[list[list[int]]] = [[] for _ in range(rows)]
    for step in range(1, new_tokens + 1):
        # Twice the beams, so that enough remain if every one of the best ends here.
        best, token = scores.topk(min(2 * beams, scores.shape[-1]))
        best += running[:, :, None] - scores.logsumexp(-1, keepdim=True)
        best, chosen = best.flatten(1).topk(2 * beams)
        parent = chosen // token.shape[-1]
        token = token.flatten(1).gather(1, chosen)
        candidates = _gather(written, parent)
        candidates[:, :, step - 1] = token
        ends = (token == end) | (step == new_tokens)
        # Only the best `beams` candidates may end; a score is the mean log-probability per token.
        may_end = ends & (torch.arange(2 * beams, device=device) < beams)
        finished_score, order = torch.cat(
            [finished_score, torch.where(may_end, best / step, best / step + NEVER)], 1
        ).topk(beams)
        finished = _gather(torch.cat([finished, candidates], 1), order)
        is_finished = torch.cat([is_finished, may_end], 1).gather(1, order)

        running, order = torch.where(ends, best + NEVER, best).topk(beams)
        written, parent, token = _gather(candidates, order), parent.gather(1, order), token.gather(1, order)
        hopeless = is_finished.all(1) & (running[:, 0] / step <= finished_score.min(1).values)
        going = ~hopeless if step < new_tokens else torch.zeros_like(hopeless)
        if not bool(going.all()):
            for row in (~going).nonzero()[:, 0].tolist():
                answers[int(live[row])] = [until(end, answer) for answer in finished[row, :wanted].tolist()]
            if not bool(going.any()):
                break
            keep = going.nonzero()[:, 0]
            live, written, finished, finished_score = live[keep], written[keep], finished[keep], finished_score[keep]
            is_finished, running, parent, token = is_finished[keep], running[keep], parent[keep], token[keep]
            tree.keep(keep)
        scores = tree.step(token, parent)
    return answers


def until(end: int, answer: list[int]) -> list[int]:
    """The answer before its first end token."""
    return answer[: answer.index(end)] if end in answer else answer


class _RoomyLayer(DynamicLayer):
    """A growing cache layer that copies itself only when its room is used up, not at every token."""

    GROWTH = 1.5
    keys: torch.Tensor
    values: torch.Tensor

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._room: list[torch.Tensor] = []
        used, added = self.get_seq_length(), key_states.shape[2]
        if not self._room or self._room[0].shape[2] < used + added:
            grown = (*key_states.shape[:2], int((used + added) * self.GROWTH))
            self._room = [new.new_empty(*grown, new.shape[3]) for new in (key_states, value_states)]
            if used:
                for room, old in zip(self._room, (self.keys, self.values), strict=True):
                    room[:, :, :used] = old
        for room, new in zip(self._room, (key_states, value_states), strict=True):
            room[:, :, used : used + added] = new
        self.keys, self.values = (room[:, :, : used + added] for room in self._room)
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        self._room = [room[indices] for room in self._room]
        self.keys, self.values = (room[:, :, : self.get_seq_length()] for room in self._room)


class _Tree:
    """One cache row per prompt: its tokens, then for every step one column per beam."""

    def __init__(self, model: Any, batch: Batch, beams: int) -> None:
        self._model, self._beams = model, beams
        self._cache = Cache(layer_class_to_replicate=_RoomyLayer)
        self._prompt = batch.attention_mask.bool()
        self._next = self._prompt.sum(1, keepdim=True)
        rows, device = len(self._prompt), self._prompt.device
        # seen[r, b, c]: whether beam b of row r descends from generated column c.
        self._seen = torch.zeros((rows, beams, 0), dtype=torch.bool, device=device)

    def prefill(self, batch: Batch) -> torch.Tensor:
        """Logits after the prompts, float32 [rows, 1, vocabulary]."""
        out = self._model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return out.logits.float()

    def step(self, token: torch.Tensor, parent: torch.Tensor) -> torch.Tensor:
        """Logits after one more token per beam, float32 [rows, beams, vocabulary]; both arguments [rows, beams].

        ``parent``: the beam of the step before that each beam continues.
        """
        rows = len(token)
        own = torch.eye(self._beams, dtype=torch.bool, device=token.device).expand(rows, -1, -1)
        before = self._seen if self._seen.shape[2] else own[:, :, :0]
        self._seen = torch.cat([_gather(before, parent) if before.shape[2] else before, own], 2)
        mask = torch.cat([self._prompt[:, None].expand(-1, self._beams, -1), self._seen], 2)[:, None]
        dtype = self._model.dtype
        additive = torch.zeros(mask.shape, dtype=dtype, device=token.device).masked_fill_(~mask, torch.finfo(dtype).min)
        out = self._model(
            input_ids=token,
            attention_mask=additive,
            position_ids=self._next.expand(-1, self._beams),
            past_key_values=self._cache,
            use_cache=True,
        )
        self._next = self._next + 1
        return out.logits.float()

    def keep(self, rows: torch.Tensor) -> None:
        """Drop all rows but these."""
        self._prompt, self._next, self._seen = self._prompt[rows], self._next[rows], self._seen[rows]
        self._cache.batch_select_indices(rows)


def _gather(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """values [r, b, c] at index [r, k]: [r, k, c]."""
    return values.gather(1, index[:, :, None].expand(-1, -1, values.shape[2]))


@torch.inference_mode()
def shares_prefix(model: Any, batch: Batch) -> bool:
    """Whether this LLM reads beams that share a row as it reads them apart, tried on one prompt.

    It needs explicit positions and a mask taken as given: relative position biases fail the trial, recurrent states
    and sliding windows are not tried.
    """
    causal = causal_model(model)
    known = inspect.signature(causal.forward).parameters
    windowed = getattr(causal.config, "sliding_window", None) or causal._is_stateful
    if windowed or not {"position_ids", "past_key_values", "logits_to_keep"} <= set(known):
        return False
    one = Batch(batch.input_ids[:1], batch.attention_mask[:1], batch.labels[:1])
    tree = _Tree(model, one, 2)
    first = tree.prefill(one)
    order = first[0, -1].argsort(descending=True)[: 2 * PROBE_TOKENS].view(PROBE_TOKENS, 1, 2)
    straight = torch.arange(2, device=first.device)[None]
    for token in order:
        together = tree.step(token, straight)
    tails = order[:, 0].T
    ids = torch.cat([one.input_ids.expand(2, -1), tails], 1)
    mask = torch.cat([one.attention_mask.expand(2, -1), torch.ones_like(tails)], 1)
    whole = Batch(ids, mask, ids)
    apart = model(input_ids=ids, attention_mask=mask, position_ids=whole.position_ids, logits_to_keep=1).logits[:, -1]
    scale = float(apart.float().std()) or 1.0
    return float((together[0] - apart.float()).abs().max()) < 1e-2 * scale
