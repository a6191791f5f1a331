"""TIGER's decoding against the model's own forward pass, one prefix at a time."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from prunebench.datasets.schema import Sequences
from prunebench.recommenders.base import Rankings, RecommenderError
from prunebench.recommenders.runtime import Runtime
from prunebench.recommenders.tiger.beams import exact_scores, invalid_rate, rank_all, rank_items
from prunebench.recommenders.tiger.config import TIGERConfig
from prunebench.recommenders.tiger.decoder import Decoder
from prunebench.recommenders.tiger.model import Spelt, new_model, sample_losses, spell
from prunebench.recommenders.tiger.semantic_ids import SemanticIDs
from prunebench.recommenders.tiger.trie import Trie

CLOSE = 1e-5
RUNTIME = Runtime()
SMALL = {"layers": 2, "heads": 3, "head_width": 5, "width": 16, "feed_forward": 24}
SHAPES = [SMALL, {"layers": 1, "heads": 2, "head_width": 8, "width": 16, "feed_forward": 8, "user_tokens": 3}]
HISTORIES = Sequences.from_rows([[], [3], [1, 2, 3, 4], [7, 7], list(range(30)), [11, 5, 9]])
USERS = np.array([0, 5, 900_000, 3, 17, 4])


def some_ids(items: int = 40, sizes: tuple[int, ...] = (5, 4, 3, 3)) -> SemanticIDs:
    every = np.array(list(itertools.product(*map(range, sizes))), np.int32)
    return SemanticIDs(RUNTIME.rng("ids").permutation(every)[:items], sizes)


def world(ids: SemanticIDs | None = None, **shape: int) -> tuple[SemanticIDs, Any, Spelt]:
    """IDs, an untrained model, and histories: an empty one, repeats, one longer than is read."""
    ids, config = ids or some_ids(), TIGERConfig.model_validate(shape or SMALL)
    known = Sequences((HISTORIES.items % len(ids.tokens)).astype(np.int32), HISTORIES.offsets)
    return ids, new_model(config, ids, RUNTIME), spell(ids, known, config, users=USERS)


@torch.no_grad()
def next_token(model: Any, spelt: Spelt, user: int, prefix: tuple[int, ...]) -> NDArray[np.float32]:
    """Log-probability of each token after a prefix, by the model's own forward pass, a batch of its own."""
    batch = {name: part for name, part in spelt.batch(np.array([user])).items() if name != "labels"}
    logits = model(**batch, decoder_input_ids=torch.tensor([[0, *prefix]])).logits[0, -1]
    return logits.log_softmax(0).numpy()


def slow_beams(
    model: Any, spelt: Spelt, user: int, levels: int, beams: int, allowed: Callable[[tuple[int, ...]], list[int]]
) -> dict[tuple[int, ...], float]:
    """Beam search one prefix at a time."""
    live = {(): 0.0}
    for _ in range(levels):
        grown = {}
        for prefix, score in live.items():
            after = next_token(model, spelt, user, prefix)
            grown |= {(*prefix, token): score + float(after[token]) for token in allowed(prefix)}
        best = sorted(grown, key=lambda sequence: -grown[sequence])[:beams]
        live = {sequence: grown[sequence] for sequence in best}
    return live


def children(ids: SemanticIDs) -> Callable[[tuple[int, ...]], list[int]]:
    rows = ids.tokens.tolist()
    return lambda prefix: sorted({row[len(prefix)] for row in rows if tuple(row[: len(prefix)]) == prefix})


@torch.no_grad()
def brute_force(model: Any, ids: SemanticIDs, spelt: Spelt) -> NDArray[np.float32]:
    """Teacher-forced log-probability of every item: minus the training loss with the item as the answer."""
    labels = torch.from_numpy(ids.tokens.astype(np.int64))
    scores = []
    for user in range(len(spelt)):
        batch = spelt.batch(np.array([user]))
        tiled = {name: batch[name].expand(len(labels), -1) for name in ("input_ids", "attention_mask")}
        scores.append(-sample_losses(model(**tiled, labels=labels).logits, labels).numpy())
    return np.stack(scores)


def row(rankings: Rankings, user: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    part = slice(rankings.offsets[user], rankings.offsets[user + 1])
    return rankings.items[part], rankings.scores[part]


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_of_any_prefixes_are_the_forward_pass(shape: dict[str, int]) -> None:
    """Prefixes that share, skip and swap parents, in numbers that change from step to step, with padding on the left."""
    _, model, spelt = world(**shape)
    rng = RUNTIME.rng("prefixes")
    batch = spelt.batch(np.arange(len(spelt)))
    assert (batch["attention_mask"] == 0).any()
    with torch.no_grad():
        decoder = Decoder(model, 5)
        memory = decoder.read(batch)
        logits, trail = decoder.start(memory)
        lines: list[list[tuple[int, ...]]] = [[()] for _ in range(len(spelt))]
        for width in (4, 7, 1, 3):
            apart = [[next_token(model, spelt, user, line) for line in lines[user]] for user in range(len(spelt))]
            assert np.abs(logits.log_softmax(-1).numpy() - np.array(apart)).max() < CLOSE
            tokens = rng.integers(0, decoder.vocabulary, (len(spelt), width))
            parents = rng.integers(0, len(lines[0]), (len(spelt), width))
            lines = [
                [(*lines[user][parent], int(token)) for parent, token in zip(parents[user], tokens[user], strict=True)]
                for user in range(len(spelt))
            ]
            logits, trail = decoder.step(memory, trail, torch.from_numpy(tokens), torch.from_numpy(parents))


def test_a_model_in_training_mode_is_refused() -> None:
    ids, model, spelt = world()
    with pytest.raises(RecommenderError, match="eval"):
        rank_items(model.train(), Trie(ids), spelt, 5, 64, RUNTIME)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("batch_beams", [1, 30, 4096])
def test_every_item_gets_the_log_probability_that_training_maximises(shape: dict[str, int], batch_beams: int) -> None:
    ids, model, spelt = world(**shape)
    scores = exact_scores(model, Trie(ids), spelt, batch_beams, RUNTIME)
    assert scores.dtype == np.float32
    expected = brute_force(model, ids, spelt)
    assert np.abs(scores - expected).max() < CLOSE
    ranked = rank_all(model, Trie(ids), spelt, np.array([1, 2, 3, 40, 99, 6]), batch_beams, RUNTIME)
    assert np.diff(ranked.offsets).tolist() == [1, 2, 3, 40, 40, 6]
    for user in range(len(spelt)):
        items, found = row(ranked, user)
        assert np.abs(np.sort(expected[user])[::-1][: len(items)] - found).max() < CLOSE
        assert np.abs(expected[user][items] - found).max() < CLOSE


@pytest.mark.parametrize("beams", [1, 3, 8])
def test_constrained_beams_are_the_slow_search(beams: int) -> None:
    ids, model, spelt = world()
    ranked = rank_items(model, Trie(ids), spelt, beams, 25, RUNTIME)
    for user in range(len(spelt)):
        slow = slow_beams(model, spelt, user, ids.levels, beams, children(ids))
        items, scores = row(ranked, user)
        assert [tuple(ids.tokens[item]) for item in items] == list(slow)
        assert np.abs(scores - list(slow.values())).max() < CLOSE


def test_as_many_beams_as_items_is_exact() -> None:
    ids, model, spelt = world()
    expected = rank_all(model, Trie(ids), spelt, 40, 64, RUNTIME)
    for beams in (40, 41, 500):
        found = rank_items(model, Trie(ids), spelt, beams, 64, RUNTIME)
        assert found.items.tolist() == expected.items.tolist()
        assert found.offsets.tolist() == expected.offsets.tolist()
        assert np.abs(found.scores - expected.scores).max() < CLOSE


@pytest.mark.parametrize("items", [1, 2, 17, 180])
def test_beams_are_that_many_different_items(items: int) -> None:
    """One beam each, fewer items than beams, every combination of codes an item."""
    ids, model, spelt = world(some_ids(items))
    wanted = np.array([1, 20, 7, 300, 2, 16])
    ranked = rank_items(model, Trie(ids), spelt, wanted, 50, RUNTIME)
    assert np.diff(ranked.offsets).tolist() == np.minimum(wanted, items).tolist()
    for user in range(len(spelt)):
        found, scores = row(ranked, user)
        assert len(set(found.tolist())) == len(found)
        assert set(found.tolist()) <= set(range(items))
        assert np.isfinite(scores).all()
        assert (np.diff(scores) <= 0).all()


def test_a_user_is_ranked_alike_whoever_shares_the_batch() -> None:
    """Neither longer histories, which pad this one, nor users with more beams, nor the order of users matter."""
    ids, model, spelt = world()
    wanted = np.array([3, 20, 7, 12, 2, 16])
    together = rank_items(model, Trie(ids), spelt, wanted, 4096, RUNTIME)
    order = RUNTIME.rng("order").permutation(len(spelt))
    shuffled = rank_items(model, Trie(ids), Spelt(spelt.tokens.take(order)), wanted[order], 30, RUNTIME)
    scores = exact_scores(model, Trie(ids), spelt, 4096, RUNTIME)
    for user in range(len(spelt)):
        alone = Spelt(spelt.tokens.take(np.array([user])))
        items, found = row(rank_items(model, Trie(ids), alone, int(wanted[user]), 1, RUNTIME), 0)
        for other in (row(together, user), row(shuffled, int(np.flatnonzero(order == user)[0]))):
            assert other[0].tolist() == items.tolist()
            assert np.abs(other[1] - found).max() < CLOSE
        assert np.abs(exact_scores(model, Trie(ids), alone, 1, RUNTIME)[0] - scores[user]).max() < CLOSE


def test_no_user_no_beam_and_no_number() -> None:
    ids, model, spelt = world()
    nobody = Spelt(Sequences.empty(0))
    for ranked in (rank_items, rank_all):
        nothing = ranked(model, Trie(ids), nobody, 5, 64, RUNTIME)
        assert len(nothing) == len(nothing.items) == 0
    assert exact_scores(model, Trie(ids), nobody, 64, RUNTIME).shape == (0, 40)
    assert invalid_rate(model, Trie(ids), nobody, 5, 64, RUNTIME) == 0
    with pytest.raises(RecommenderError, match="0 beams"):
        rank_items(model, Trie(ids), spelt, np.array([1, 2, 0, 4, 5, 6]), 64, RUNTIME)
    torch.nn.init.constant_(model.shared.weight, torch.nan)
    for ranked in (rank_items, rank_all):
        with pytest.raises(RecommenderError, match="diverged"):
            ranked(model, Trie(ids), spelt, 5, 64, RUNTIME)


def test_items_that_collide_are_told_apart() -> None:
    """All codes but the last are shared: with the last one dropped they would be one, and either a hit for the other."""
    codes = np.array([[1, 2, 0, 0], [1, 2, 0, 1], [1, 2, 0, 2], [3, 0, 0, 0]], np.int32)
    ids, model, spelt = world(SemanticIDs(codes, (5, 4, 1, 3)))
    ranked = rank_items(model, Trie(ids), spelt, 4, 64, RUNTIME)
    expected = brute_force(model, ids, spelt)
    for user in range(1, 4):
        items, scores = row(ranked, user)
        assert sorted(items) == [0, 1, 2, 3]
        assert np.abs(np.diff(scores)).min() > 1e-3
        assert np.abs(expected[user][items] - scores).max() < CLOSE


@pytest.mark.parametrize("beams", [1, 6])
def test_invalid_beams_are_those_that_spell_no_item(beams: int) -> None:
    ids, model, spelt = world(some_ids(150), **SHAPES[1])
    known = set(map(tuple, ids.tokens.tolist()))
    teach(model, spelt, ids, 12)
    wrong = [
        sequence not in known
        for user in range(len(spelt))
        for sequence in slow_beams(
            model, spelt, user, ids.levels, beams, lambda _: list(range(model.config.vocab_size))
        )
    ]
    assert len(wrong) == beams * len(spelt)
    assert 0 < np.mean(wrong) < 1
    for batch_beams in (1, 4096):
        assert invalid_rate(model, Trie(ids), spelt, beams, batch_beams, RUNTIME) == pytest.approx(np.mean(wrong))


def test_no_beam_is_invalid_where_every_combination_of_codes_is_an_item() -> None:
    """Of a model that has learnt which level it is at: untrained, it may take a code of another level."""
    ids, model, spelt = world(some_ids(180))
    teach(model, spelt, ids, 200)
    assert invalid_rate(model, Trie(ids), spelt, 5, 64, RUNTIME) == 0


def test_what_the_beam_loses_is_bounded() -> None:
    """On a model that has learnt a pattern: as many beams as items asked for find nearly all of the best ones."""
    ids = some_ids(150)
    config = TIGERConfig.model_validate({**SMALL, "width": 32, "dropout": 0.0})
    model = new_model(config, ids, RUNTIME)
    starts = np.arange(150)
    histories = Sequences.from_rows([[(s + step) % 150 for step in range(3)] for s in starts])
    teach(model, spell(ids, histories, config), ids, 80, ((starts + 3) % 150))
    spelt = spell(ids, histories, config)
    best = rank_all(model, Trie(ids), spelt, 10, 4096, RUNTIME)
    overlaps = {}
    for beams in (10, 30):
        found = rank_items(model, Trie(ids), spelt, beams, 4096, RUNTIME)
        shared = []
        for user in range(len(spelt)):
            (exact_items, exact), (items, scores) = row(best, user), row(found, user)
            assert (exact[:10] - scores[:10] > -CLOSE).all()
            shared.append(len(set(exact_items[:10]) & set(items[:10])) / 10)
        overlaps[beams] = np.mean(shared)
    assert overlaps[10] > 0.95
    assert overlaps[30] > 0.99


def teach(model: Any, spelt: Spelt, ids: SemanticIDs, steps: int, targets: NDArray[np.int64] | None = None) -> None:
    """A few steps of AdamW, in place: on each history's ``targets``, or on items at random."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01)
    batch = spelt.batch(np.arange(len(spelt)))
    rng = RUNTIME.rng("teach")
    for _ in range(steps):
        answers = rng.integers(len(ids.tokens), size=len(spelt)) if targets is None else targets
        labels = torch.from_numpy(ids.tokens[answers].astype(np.int64))
        optimiser.zero_grad()
        sample_losses(model(**batch, labels=labels).logits, labels).mean().backward()
        optimiser.step()
