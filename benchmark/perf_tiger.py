"""TIGER: training by length, constrained beams and batched effort timed against plain references, on the same users."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from transformers import GenerationConfig

from prunebench.benchmark.timing import row, timed
from prunebench.datasets.schema import RecDataset
from prunebench.recommenders.base import Float32, Rankings, RecommenderError
from prunebench.recommenders.batching import length_batches
from prunebench.recommenders.runtime import Runtime
from prunebench.recommenders.tiger.beams import invalid_rate, rank_items
from prunebench.recommenders.tiger.config import TIGERConfig
from prunebench.recommenders.tiger.effort import efforts
from prunebench.recommenders.tiger.model import Spelt, new_model, sample_losses, spell
from prunebench.recommenders.tiger.semantic_ids import PADDING, SemanticIDs
from prunebench.recommenders.tiger.trie import Trie

CODES = 256
TIES = 1e-4


def rows(
    dataset: RecDataset, trained: int = 512, users: int = 512, generated: int = 48, effort_samples: int = 96
) -> list[dict[str, Any]]:
    """Rows ``{name, ours_s, reference_s, ratio}`` on random samples of ``dataset``; ratio is reference over ours.

    The model is the default one with random weights, the semantic IDs are random codes, some of them much more frequent
    than others. Results of both sides are compared where they are the same thing: RecommenderError where they disagree.
    """
    runtime, config = Runtime(), TIGERConfig()
    ids = stand_in(dataset.n_items, runtime)
    drawn = runtime.rng("perf tiger").permutation(dataset.samples().ids)
    samples = [dataset.samples().take(drawn[:size]) for size in (trained, effort_samples)]
    queries = dataset.queries("valid")
    asked = queries.take(runtime.rng("perf tiger users").permutation(len(queries))[:users]).histories
    model, trie = new_model(config, ids, runtime), Trie(ids)
    learnt, few = (spell(ids, part.histories, config, part.targets) for part in samples)
    return [
        _training(ids, learnt, config, runtime),
        _constraint(model, trie, spell(ids, asked, config), config, runtime),
        _generation(model, ids, trie, spell(ids, asked.take(np.arange(min(generated, len(asked)))), config), config),
        _effort(model, few, config, runtime),
    ]


def stand_in(n_items: int, runtime: Runtime) -> SemanticIDs:
    """IDs of the default shape, three random codes of 256 and one that tells collisions apart."""
    codes = (CODES * runtime.rng("stand-in codes").random((n_items, 3)) ** 2).astype(np.int64)
    _, cluster = np.unique(codes, axis=0, return_inverse=True)
    order = np.argsort(cluster, kind="stable")
    sizes = np.bincount(cluster)
    last = np.empty(n_items, np.int64)
    last[order] = np.arange(n_items) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return SemanticIDs(np.column_stack([codes, last]).astype(np.int32), (CODES, CODES, CODES, int(sizes.max())))


def _training(ids: SemanticIDs, spelt: Spelt, config: TIGERConfig, runtime: Runtime) -> dict[str, Any]:
    longest = config.max_history * ids.levels

    def batches(whole: bool) -> Iterator[list[dict[str, Tensor]]]:
        for first in range(0, len(spelt), config.batch):
            at = np.arange(first, min(first + config.batch, len(spelt)))
            parts = [at[part] for part in length_batches(spelt.lengths[at], config.micro_batch)]
            yield [_widened(spelt.batch(part), longest) if whole else spelt.batch(part) for part in parts]

    def epoch(whole: bool) -> None:
        model = new_model(config, ids, runtime).train()
        optimiser = torch.optim.AdamW(model.parameters(), lr=config.lr)
        for parts in batches(whole):
            optimiser.zero_grad()
            for batch in parts:
                loss = sample_losses(model(**batch).logits, batch["labels"]).sum() / config.batch
                loss.backward()
            optimiser.step()

    @torch.inference_mode()
    def untrained(whole: bool) -> Float32:
        model = new_model(config, ids, runtime)
        parts = next(batches(whole))
        return torch.cat([sample_losses(model(**batch).logits, batch["labels"]) for batch in parts]).numpy()

    name = f"TIGER's training, {len(spelt)} samples by length, against padding to {longest} tokens"
    with torch.random.fork_rng():
        ours, reference = timed(lambda: epoch(False))[0], timed(lambda: epoch(True))[0]
    return row(name, (ours, untrained(False)), (reference, untrained(True)))


def _widened(batch: dict[str, Tensor], width: int) -> dict[str, Tensor]:
    more = width - batch["input_ids"].shape[1]
    fill = {"input_ids": PADDING, "attention_mask": 0}
    return {name: F.pad(part, (more, 0), value=fill[name]) if name in fill else part for name, part in batch.items()}


def _constraint(model: Any, trie: Trie, spelt: Spelt, config: TIGERConfig, runtime: Runtime) -> dict[str, Any]:
    beams, bound = min(config.beams, len(trie.items)), config.batch_beams
    ours, ranked = timed(lambda: rank_items(model, trie, spelt, beams, bound, runtime))
    reference, _ = timed(lambda: invalid_rate(model, trie, spelt, beams, bound, runtime))
    if len(ranked.items) != beams * len(spelt):
        raise RecommenderError(f"constrained beams: {len(ranked.items)} items for {len(spelt)} users × {beams} beams")
    name = f"TIGER, {len(spelt)} users, {beams} constrained beams, against as many free ones"
    return {"name": name, "ours_s": ours, "reference_s": reference, "ratio": reference / ours}


def _generation(model: Any, ids: SemanticIDs, trie: Trie, spelt: Spelt, config: TIGERConfig) -> dict[str, Any]:
    beams = min(config.beams, len(trie.items))
    items = {tuple(row): item for item, row in enumerate(ids.tokens.tolist())}
    following: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    for known in items:
        for level, token in enumerate(known):
            if token not in (after := following[known[:level]]):
                after.append(token)
    chosen = GenerationConfig(
        num_beams=beams,
        num_return_sequences=beams,
        max_new_tokens=ids.levels,
        length_penalty=0.0,
        do_sample=False,
        decoder_start_token_id=PADDING,
        pad_token_id=PADDING,
        eos_token_id=None,
        use_cache=True,
        return_dict_in_generate=True,
        output_scores=True,
    )

    @torch.inference_mode()
    def generate() -> Rankings:
        out = model.generate(
            **spelt.batch(np.arange(len(spelt))),
            generation_config=chosen,
            prefix_allowed_tokens_fn=lambda _, line: following[tuple(line[1:].tolist())],
        )
        found = np.array([items[tuple(line)] for line in out.sequences[:, 1:].tolist()], np.int32)
        return Rankings(found, out.sequences_scores.numpy(), np.arange(len(spelt) + 1, dtype=np.int64) * beams)

    ours = timed(lambda: rank_items(model, trie, spelt, beams, config.batch_beams, Runtime()))
    reference = timed(generate)
    name = f"TIGER, {len(spelt)} users, {beams} constrained beams, against transformers' generate"
    here, there = (_by_user(ranked, beams) for ranked in (ours[1], reference[1]))
    for mine, other in zip(here, there, strict=True):
        edge = min(mine.values())
        if any((mine | other)[item] > edge + TIES for item in mine.keys() ^ other.keys()):
            raise RecommenderError(f"{name}: items disagree by more than ties, so the times mean nothing")
    scores = [np.sort([list(part.values()) for part in parts]) for parts in (here, there)]
    return row(name, (ours[0], scores[0]), (reference[0], scores[1]))


def _by_user(ranked: Rankings, beams: int) -> list[dict[int, float]]:
    pairs = zip(ranked.items.reshape(-1, beams).tolist(), ranked.scores.reshape(-1, beams).tolist(), strict=True)
    return [dict(zip(items, scores, strict=True)) for items, scores in pairs]


def _effort(model: Any, spelt: Spelt, config: TIGERConfig, runtime: Runtime) -> dict[str, Any]:
    def one_by_one() -> NDArray[np.float32]:
        norms = []
        for position in range(len(spelt)):
            batch = spelt.batch(np.array([position]))
            loss = sample_losses(model(**batch).logits, batch["labels"]).sum()
            parts = torch.autograd.grad(loss, list(model.parameters()))
            norms.append(float(torch.stack([part.square().sum() for part in parts]).sum().sqrt()))
        return np.array(norms, np.float32)

    ours = timed(lambda: efforts(model, spelt, config.batch_tokens, runtime))
    return row(f"TIGER's effort, {len(spelt)} samples, against a one-sample loop", ours, timed(one_by_one))
