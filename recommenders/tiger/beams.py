"""Items ranked by the log-probability of their semantic IDs: constrained beams, or every item's.

A sequence's log-probability is the sum of its tokens', each normalised over the model's whole vocabulary: what training
maximises, and what the same search without constraint would rank by.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prunebench.recommenders.base import Float32, Rankings, RecommenderError
from prunebench.recommenders.batching import length_batches
from prunebench.recommenders.runtime import Runtime
from prunebench.recommenders.tiger.decoder import Decoder, Memory, Trail
from prunebench.recommenders.tiger.model import Spelt
from prunebench.recommenders.tiger.trie import Trie

CELLS = 2**24
"""Most candidates of one step, or scores of items, held at once."""
NODES = 256
"""Nodes of one user decoded together, at least, where every item is scored."""


def rank_items(
    model: Any, trie: Trie, spelt: Spelt, beams: NDArray[np.int64] | int, batch_beams: int, runtime: Runtime
) -> Rankings:
    """Beam search constrained to the trie: for each history its ``beams`` (int, or int64 [n]) best items, best first.

    With B beams exactly min(B, n_items) distinct items come back: wherever fewer than B prefixes exist all are kept, and
    every prefix in the trie leads to an item. They are the best B of all unless a prefix of theirs was less likely than
    B others (``rank_all`` has no such loss). A user's ranking does not depend on who is decoded together.
    ``batch_beams``: most beams, and most padded tokens, of a batch (one user with more is a batch). Equal scores are
    listed by item id; should the B-th and a further item have exactly the same float32 score, one of them is dropped.
    Raises RecommenderError for a user with no beam, and where the model's probabilities are not numbers.
    """
    asked = np.broadcast_to(np.asarray(beams, np.int64), len(spelt))
    if len(asked) and asked.min() < 1:
        raise RecommenderError(f"beam search with {asked.min()} beams finds nothing: ask for 1 or more")
    kept = np.minimum(asked, len(trie.items))
    parts = []
    batches = _batches(spelt, kept, _bounded(batch_beams, model, trie))
    with torch.inference_mode():
        decoder = Decoder(model, trie.levels)
        for positions in runtime.track(batches, "batches decoded"):
            memory = decoder.read(spelt.batch(positions, runtime.device))
            width = torch.from_numpy(kept[positions]).to(runtime.device)
            parts.append((positions, _ranked(*constrained(decoder, trie, memory, width))))
    return _in_order(parts)


def constrained(decoder: Decoder, trie: Trie, memory: Memory, beams: Tensor) -> tuple[Tensor, Tensor]:
    """The search for one batch: items int64 [u, b] and scores float32 [u, b], −inf beyond a user's ``beams`` int64 [u]."""
    most, rank = int(beams.max()), torch.arange(int(beams.max()), device=beams.device)
    nodes = torch.zeros((memory.users, 1), dtype=torch.int64, device=beams.device)
    scores = torch.zeros((memory.users, 1), device=beams.device)
    logits, trail = decoder.start(memory)
    for level in range(trie.levels):
        children, exist = trie.children(level, nodes)
        logits = logits.gather(2, trie.tokens[level][children]) + _normalised(scores, logits)
        keep = min(most, len(trie.tokens[level]))
        scores, chosen = logits.masked_fill_(~exist, -torch.inf).flatten(1).topk(keep)
        scores = scores.masked_fill_(rank[:keep] >= beams[:, None], -torch.inf)
        nodes = children.flatten(1).gather(1, chosen)
        if level + 1 < trie.levels:
            parents = chosen // trie.widest[level]
            logits, trail = decoder.step(memory, trail, trie.tokens[level][nodes], parents)
    return trie.items[nodes], scores


def unconstrained(decoder: Decoder, steps: int, memory: Memory, beams: int) -> tuple[Tensor, Tensor]:
    """The same with every token of the vocabulary allowed: sequences int64 [u, b, steps] and scores float32 [u, b]."""
    tokens = torch.empty((memory.users, 1, 0), dtype=torch.int64, device=memory.mask.device)
    scores = torch.zeros((memory.users, 1), device=memory.mask.device)
    logits, trail = decoder.start(memory)
    for step in range(steps):
        logits = logits + _normalised(scores, logits)
        keep = min(beams, logits[0].numel())
        scores, chosen = logits.flatten(1).topk(keep)
        parents, token = chosen // decoder.vocabulary, chosen % decoder.vocabulary
        before = tokens.gather(1, parents[..., None].expand(-1, -1, step))
        tokens = torch.cat([before, token[..., None]], 2)
        if step + 1 < steps:
            logits, trail = decoder.step(memory, trail, token, parents)
    return tokens, scores


def invalid_rate(model: Any, trie: Trie, spelt: Spelt, beams: int, batch_beams: int, runtime: Runtime) -> float:
    """Share of the beams of an unconstrained search that spell no item (Rajput et al., 2023, §4.5: 0.1–1.6%).

    0.0 where there is no history to decode.
    """
    wrong = total = 0
    with torch.inference_mode():
        decoder = Decoder(model, trie.levels)
        batches = _batches(spelt, np.full(len(spelt), beams), _bounded(batch_beams, model, trie))
        for positions in runtime.track(batches, "batches decoded without constraint"):
            memory = decoder.read(spelt.batch(positions, runtime.device))
            exist = trie.contains(unconstrained(decoder, trie.levels, memory, beams)[0])
            wrong, total = wrong + int((~exist).sum()), total + exist.numel()
    return wrong / max(total, 1)


def rank_all(
    model: Any, trie: Trie, spelt: Spelt, depth: NDArray[np.int64] | int, batch_beams: int, runtime: Runtime
) -> Rankings:
    """The ``depth`` (int, or int64 [n]) best of all items, with ties: exact, for small catalogues."""
    depths = np.broadcast_to(np.asarray(depth, np.int64), len(spelt))
    parts = [
        (at, Rankings.from_scores(scores, depths[at]))
        for at, scores in _exact(model, trie, spelt, batch_beams, runtime)
    ]
    return _in_order(parts)


def exact_scores(model: Any, trie: Trie, spelt: Spelt, batch_beams: int, runtime: Runtime) -> Float32:
    """Log-probability of every item's ID after every history, float32 [n, n_items]."""
    scores = np.empty((len(spelt), len(trie.items)), np.float32)
    for positions, part in _exact(model, trie, spelt, batch_beams, runtime):
        scores[positions] = part
    return scores


def _exact(
    model: Any, trie: Trie, spelt: Spelt, batch_beams: int, runtime: Runtime
) -> Iterator[tuple[NDArray[np.int64], Float32]]:
    """A few users at a time: their positions and the scores of all items."""
    together = _bounded(batch_beams, model, trie)
    rows = min(max(1, together // NODES), max(1, CELLS // len(trie.items)))
    batches = spelt.batches(rows, together)
    for positions in runtime.track(batches, "batches scored on every item"):
        with torch.inference_mode():
            decoder = Decoder(model, trie.levels)
            memory = decoder.read(spelt.batch(positions, runtime.device))
            scores = torch.empty((len(positions), len(trie.items)), device=runtime.device)
            walk = _Walk(decoder, trie, memory, max(1, together // len(positions)), scores)
            root = torch.zeros((len(positions), 1), device=runtime.device)
            walk.below(0, 0, root, *decoder.start(memory))
        yield positions, scores.cpu().numpy()


@dataclass(frozen=True)
class _Walk:
    """Through the whole trie, depth first by chunks of neighbouring nodes, so that few states are held."""

    decoder: Decoder
    trie: Trie
    memory: Memory
    nodes: int
    found: Tensor

    def below(self, level: int, start: int, scores: Tensor, logits: Tensor, trail: Trail) -> None:
        """Score all leaves below the nodes ``start`` … of depth ``level``, whose ``scores`` [u, m] and logits are given."""
        bounds = self.trie.first[level][start : start + scores.shape[1] + 1]
        first, fan_out = int(bounds[0]), bounds.diff()
        parents = torch.repeat_interleave(torch.arange(len(fan_out), device=fan_out.device), fan_out)
        tokens = self.trie.tokens[level][first : first + len(parents)]
        children = (logits + _normalised(scores, logits))[:, parents, tokens]
        if level + 1 == self.trie.levels:
            self.found[:, self.trie.items[first : first + len(parents)]] = children
            return
        for at in range(0, len(parents), self.nodes):
            some = slice(at, at + self.nodes)
            shape = (self.memory.users, -1)
            step = self.decoder.step(self.memory, trail, tokens[some].expand(shape), parents[some].expand(shape))
            self.below(level + 1, first + at, children[:, some], *step)


def _normalised(scores: Tensor, logits: Tensor) -> Tensor:
    """What to add to logits [u, b, vocabulary] for the log-probability of prefix and token together, [u, b, 1]."""
    return (scores - logits.logsumexp(2))[..., None]


def _ranked(items: Tensor, scores: Tensor) -> Rankings:
    if bool(scores.isnan().any()):
        raise RecommenderError("a beam's probability is NaN, so its item cannot be ranked: the model diverged")
    rows, columns = (part.cpu().numpy() for part in torch.nonzero(scores > -torch.inf, as_tuple=True))
    named, values = items.cpu().numpy()[rows, columns], scores.cpu().numpy()[rows, columns]
    order = np.lexsort((named, -values, rows))
    offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(items)))]).astype(np.int64)
    return Rankings(named[order].astype(np.int32), values[order].astype(np.float32), offsets)


def _in_order(parts: list[tuple[NDArray[np.int64], Rankings]]) -> Rankings:
    """One row per user, from batches of users and their rankings."""
    users = np.concatenate([np.empty(0, np.int64), *(positions for positions, _ in parts)])
    return Rankings.concatenate(ranked for _, ranked in parts).take(np.argsort(users))


def _batches(spelt: Spelt, beams: NDArray[np.int64], together: int) -> list[NDArray[np.int64]]:
    """Positions by like number of beams and like length; a batch has at most ``together`` beams and padded tokens."""
    weights = np.maximum(beams, spelt.lengths)
    order = np.argsort(spelt.lengths, kind="stable")
    return [order[part] for part in length_batches(weights[order], max(len(order), 1), together)]


def _bounded(batch_beams: int, model: Any, trie: Trie) -> int:
    """No more beams than candidates of theirs fit."""
    return max(1, min(batch_beams, CELLS // max(model.config.vocab_size, *trie.widest)))
