"""The catalogue LLM: its text, its training and what it leaves behind."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from prunebench.datasets.schema import Sequences
from prunebench.recommenders.base import RecommenderError
from prunebench.recommenders.bigrec.catalogue import (
    CatalogueConfig,
    TiedCrossEntropy,
    pretrain,
    train_tokenizer,
)
from prunebench.recommenders.bigrec.documents import Documents, WalkConfig
from prunebench.recommenders.bigrec.prompts import PROMPT_FILE, choose_template
from prunebench.recommenders.runtime import Cancelled, Runtime

NAMES, PLACES = ("Iron", "Oak", "Star", "Wolf", "Mist"), ("PC", "Xbox", "Wii")
TITLES = tuple(f"{name} {number} - {place}" for name in NAMES for number in range(1, 5) for place in PLACES)
TINY = CatalogueConfig(
    tokens=24_000,
    vocabulary=320,
    hidden=32,
    layers=1,
    heads=2,
    feed_forward=64,
    window=128,
    walk=WalkConfig(neighbours=6, longest=6),
    sequence=32,
    batch=8,
    lr=1e-2,
    precision="fp32",
    checkpoint_every=10,
)


def unit_vectors(n: int, d: int = 8) -> np.ndarray:
    vectors = np.random.default_rng(5).normal(size=(n, d)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


VECTORS = unit_vectors(len(TITLES))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("catalogue")
    return folder / "llm", pretrain(TITLES, VECTORS, TINY, Runtime(), folder / "llm", folder / "scratch")


def test_a_saved_catalogue_is_a_hugging_face_model_with_a_template(trained: tuple[Path, dict]) -> None:
    folder, facts = trained
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert facts["parameters"] == model.num_parameters()
    assert facts["tokens"] <= TINY.tokens
    assert model.config.tie_word_embeddings
    assert model.config.vocab_size == len(tokenizer)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert len({tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}) == 3
    for title in (*TITLES, "Pokémon ☆ 新"):
        assert tokenizer.decode(tokenizer(title)["input_ids"]) == title
    template = choose_template("auto", "item", folder)
    assert template.model_dump() == json.loads((folder / PROMPT_FILE).read_text())
    for part in (template.separator, template.suffix, template.end):
        assert tokenizer(part)["input_ids"] == [tokenizer.eos_token_id]


def test_it_learns_more_than_token_frequencies(trained: tuple[Path, dict]) -> None:
    folder, _ = trained
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    rows = Sequences.from_rows(tokenizer(list(TITLES))["input_ids"])
    fresh = Documents(rows, VECTORS, 0, 1, TINY.walk).stream(32 * 64, np.random.default_rng(99)).astype(np.int64)
    with torch.no_grad():
        batch = torch.from_numpy(fresh.reshape(64, 32))
        loss = model(input_ids=batch, labels=batch).loss.item()
    share = np.bincount(fresh) / len(fresh)
    unigram = -sum(p * math.log(p) for p in share if p)
    assert loss < 0.7 * unigram


def test_the_same_seed_gives_the_same_weights_and_another_does_not(trained: tuple[Path, dict], tmp_path: Path) -> None:
    short = TINY.model_copy(update={"tokens": 2_560})
    state = torch.get_rng_state()
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        pretrain(TITLES, VECTORS, short, Runtime(seed), tmp_path / name, tmp_path / f"{name}-scratch")
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))
    assert torch.equal(state, torch.get_rng_state())


def test_item_numbers_and_repeated_titles_mean_nothing(tmp_path: Path) -> None:
    short = TINY.model_copy(update={"tokens": 2_560})
    order = np.random.default_rng(3).permutation(len(TITLES))
    shuffled = [TITLES[place] for place in order] + [TITLES[0]] * 5
    pretrain(TITLES, VECTORS, short, Runtime(), tmp_path / "a", tmp_path)
    pretrain(shuffled, VECTORS[[*order, *[0] * 5]], short, Runtime(), tmp_path / "b", tmp_path)
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_a_killed_run_continues_to_the_same_weights(trained: tuple[Path, dict], tmp_path: Path) -> None:
    polls = iter(range(1000))
    dying = Runtime(cancelled=lambda: next(polls) > 37)
    with pytest.raises(Cancelled):
        pretrain(TITLES, VECTORS, TINY, dying, tmp_path / "llm", tmp_path / "scratch")
    assert not (tmp_path / "llm").exists()
    done: list[int] = []
    again = Runtime(report=lambda step, total, what: done.append(step))
    facts = pretrain(TITLES, VECTORS, TINY, again, tmp_path / "llm", tmp_path / "scratch")
    assert done[0] == 30, "the last checkpoint before the kill"
    assert facts == trained[1]
    assert same(weights(tmp_path / "llm"), weights(trained[0]))


def test_a_checkpoint_of_another_run_is_not_continued(tmp_path: Path) -> None:
    short = TINY.model_copy(update={"tokens": 5_120})
    pretrain(TITLES, VECTORS, short, Runtime(1), tmp_path / "other", tmp_path / "scratch")
    assert list((tmp_path / "scratch").iterdir()), "there is a checkpoint to mistake for one's own"
    pretrain(TITLES, VECTORS, short, Runtime(), tmp_path / "a", tmp_path / "scratch")
    pretrain(TITLES, VECTORS, short, Runtime(), tmp_path / "b", tmp_path / "clean")
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_one_title_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecommenderError, match="two distinct titles"):
        pretrain(["Doom", "Doom"], VECTORS[:2], TINY, Runtime(), tmp_path, tmp_path)


def test_the_cross_entropy_and_its_gradients_are_torchs() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2500, 16, generator=generator, requires_grad=True)
    weight = torch.randn(40, 16, generator=generator, requires_grad=True)
    target = torch.randint(0, 40, (2500,), generator=generator)
    ours = TiedCrossEntropy.apply(hidden, weight, target)
    gradients = torch.autograd.grad(3 * ours, (hidden, weight))
    reference = torch.nn.functional.cross_entropy(hidden @ weight.T, target)
    torch.testing.assert_close(ours, reference)
    for found, expected in zip(gradients, torch.autograd.grad(3 * reference, (hidden, weight)), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)


def test_the_budget_is_kept_and_the_rate_warms_up_and_falls() -> None:
    config = CatalogueConfig(tokens_per_title=1_000)
    steps = config.steps(1_000)
    rates = [config.rate(step, steps) for step in range(steps)]
    peak = int(np.argmax(rates))
    assert 1_000_000 - config.batch * config.sequence < steps * config.batch * config.sequence <= 1_000_000
    assert CatalogueConfig(tokens=1_000_000).steps(7) == steps
    assert rates[peak] == pytest.approx(config.lr, rel=1e-3)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[-1] == pytest.approx(config.lr / 20, rel=0.1)


def nearest_free(centre: np.ndarray, vectors: np.ndarray, taken: list[int]) -> list[int]:
    """Rows by falling inner product with ``centre``, without those taken: the obvious reference."""
    return [row for row in np.argsort(-(vectors @ centre), kind="stable").tolist() if row not in taken]


@pytest.mark.parametrize("gather", [0.0, 1.0])
def test_walks_go_to_free_neighbours_of_a_title_or_of_the_mean(gather: float) -> None:
    vectors = unit_vectors(80)
    config = WalkConfig(neighbours=8, jump=0.0, gather=gather, recency=1.0, window=3, longest=6, rank_power=1.0)
    walks = Documents(Sequences.from_rows([[3]] * 80), vectors, 0, 1, config).walks(600, np.random.default_rng(0))
    ranks = []
    for walk in walks.tolist():
        assert len(set(walk)) == 6
        for step in range(1, 6):
            before = walk[:step]
            centre = vectors[before[-3:] if gather else before[-1:]].mean(axis=0)
            ranks.append(nearest_free(centre, vectors, before).index(walk[step]))
    share = np.bincount(ranks, minlength=8) / len(ranks)
    weights = 1 / np.arange(1.0, 9)
    np.testing.assert_allclose(share, weights / weights.sum(), atol=0.03)


def test_jumps_go_anywhere_and_few_titles_are_enough_for_a_walk() -> None:
    vectors = unit_vectors(80)
    rows = Sequences.from_rows([[3]] * 80)
    jumping = WalkConfig(gather=0.0, jump=1.0, longest=2)
    walks = Documents(rows, vectors, 0, 1, jumping).walks(20_000, np.random.default_rng(0))
    counts = np.bincount(walks[:, 1], minlength=80)
    assert abs(counts - 250).max() < 5 * 250**0.5
    three = Documents(Sequences.from_rows([[3]] * 3), vectors[:3], 0, 1, WalkConfig(jump=0.0))
    assert all(sorted(walk) == [0, 1, 2] for walk in three.walks(50, np.random.default_rng(0)).tolist())


def test_a_stream_is_whole_documents_end_to_end() -> None:
    tokenizer = train_tokenizer(TITLES, 320)
    rows = Sequences.from_rows(tokenizer(list(TITLES))["input_ids"])
    config = WalkConfig(shortest=2, longest=4, neighbours=6)
    stream = Documents(rows, VECTORS, 0, 1, config).stream(20_000, np.random.default_rng(0))
    assert len(stream) == 20_000
    documents = tokenizer.decode(stream).split("<s>")[1:-1]
    titles = [document.split("</s>") for document in documents]
    assert all(parts[-1] == "" and set(parts[:-1]) <= set(TITLES) for parts in titles)
    assert {len(parts) - 1 for parts in titles} == {2, 3, 4}
