"""Semantic IDs: codes, collisions, spelling, quality, the two quantisers and their signal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import ValidationError

from prunebench.datasets.schema import Sequences
from prunebench.recommenders.base import RecommenderError
from prunebench.recommenders.runtime import Cancelled, Runtime
from prunebench.recommenders.tiger.config import TokeniserConfig
from prunebench.recommenders.tiger.quantised import different
from prunebench.recommenders.tiger.rqvae import RQVAE, train_rqvae
from prunebench.recommenders.tiger.semantic_ids import PADDING, SemanticIDs
from prunebench.recommenders.tiger.tokeniser import (
    collision_codes,
    fit_semantic_ids,
    load_ids,
    residual_kmeans,
    save_ids,
)

SMALL = {"hidden": [32, 16], "width": 8, "batch": 64, "epochs": 15}
KINDS = ("rkmeans", "rqvae")


def config(kind: str = "rkmeans", codes: int = 16, **rqvae: Any) -> TokeniserConfig:
    return TokeniserConfig.model_validate({"kind": kind, "codes": codes, "rqvae": {**SMALL, **rqvae}})


def blobs(n: int = 400, groups: int = 8, d: int = 12, noise: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Vectors about a few centres, and whose group each is."""
    rng = np.random.default_rng(3)
    group = rng.integers(groups, size=n)
    return (rng.normal(size=(groups, d))[group] + noise * rng.normal(size=(n, d))).astype(np.float32), group


def centred(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows, _, counts = different(vectors - vectors.mean(axis=0))
    return rows, counts


# -- the ID --------------------------------------------------------------------------------------------------------


@given(
    arrays(np.int64, st.tuples(st.integers(1, 40), st.integers(1, 3)), elements=st.integers(0, 2)), st.integers(0, 9)
)
@settings(max_examples=60, deadline=None)
def test_the_collision_code_numbers_those_that_share_a_prefix(prefixes: np.ndarray, seed: int) -> None:
    codes, sharing = collision_codes(prefixes, Runtime(seed))
    for prefix in np.unique(prefixes, axis=0):
        alike = (prefixes == prefix).all(axis=1)
        assert sorted(codes[alike]) == [*range(alike.sum())]
        assert (sharing[alike] == alike.sum()).all()


def test_the_collision_code_is_drawn_not_counted_by_item() -> None:
    prefixes = np.zeros((50, 2), np.int64)
    first, _ = collision_codes(prefixes, Runtime(0))
    assert abs(np.corrcoef(first, np.arange(50))[0, 1]) < 0.5
    assert (first == collision_codes(prefixes, Runtime(0))[0]).all()
    assert (first != collision_codes(prefixes, Runtime(1))[0]).any()


@st.composite
def spelt(draw: st.DrawFn) -> tuple[SemanticIDs, list[list[int]]]:
    sizes = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    every = np.stack(np.unravel_index(np.arange(np.prod(sizes)), sizes), axis=1).astype(np.int32)
    chosen = draw(st.lists(st.integers(0, len(every) - 1), min_size=1, max_size=12, unique=True))
    rows = draw(st.lists(st.lists(st.integers(0, len(chosen) - 1), max_size=5), max_size=5))
    return SemanticIDs(every[chosen], sizes), rows


@given(spelt())
@settings(max_examples=80, deadline=None)
def test_every_token_lies_in_its_level_and_spells_its_item(case: tuple[SemanticIDs, list[list[int]]]) -> None:
    ids, rows = case
    first = ids.first_tokens
    assert len(first) == ids.levels + 1
    assert first[-1] == ids.vocabulary == 1 + sum(ids.sizes)
    assert ((ids.tokens >= first[:-1]) & (ids.tokens < first[1:])).all()
    assert (ids.tokens != PADDING).all()
    by_tokens = {tuple(tokens): item for item, tokens in enumerate(ids.tokens)}
    assert len(by_tokens) == len(ids.codes)
    spelt_rows = ids.spell(Sequences.from_rows(rows))
    for row, tokens in zip(rows, spelt_rows, strict=True):
        assert [by_tokens[tuple(part)] for part in np.reshape(tokens, (-1, ids.levels))] == row


@pytest.mark.parametrize(
    ("codes", "said"), [([[0, 0], [0, 0]], "same semantic ID"), ([[0, 5]], "outside"), ([[0]], "levels")]
)
def test_an_impossible_id_is_refused(codes: list[list[int]], said: str) -> None:
    with pytest.raises(RecommenderError, match=said):
        SemanticIDs(np.array(codes, np.int32), (2, 2))


# -- both kinds ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_collisions_are_told_apart_by_the_last_code_and_counted(kind: str) -> None:
    vectors = np.repeat(blobs(40, 40)[0], 3, axis=0)
    ids = fit_semantic_ids(vectors, config(kind), Runtime())
    prefixes, sharing = np.unique(ids.codes[:, :-1], axis=0, return_counts=True)
    assert len(np.unique(ids.codes, axis=0)) == len(ids.codes) == 120
    assert sharing.min() >= 3
    assert ids.sizes[-1] == sharing.max() == ids.quality["largest_collision"]
    assert (np.ptp(ids.codes[:, :-1].reshape(40, 3, -1), axis=1) == 0).all()
    assert ids.quality["collision_rate"] == 1.0
    assert ids.quality["distinct_prefixes"] == len(prefixes)
    assert ids.quality["items"] == 120
    assert ids.quality["distinct_vectors"] == 40


@pytest.mark.parametrize("kind", KINDS)
def test_the_codebooks_use_is_told(kind: str) -> None:
    ids = fit_semantic_ids(blobs()[0], config(kind, codes=32), Runtime())
    for level in range(3):
        counts = np.unique(ids.codes[:, level], return_counts=True)[1]
        shares = counts / counts.sum()
        assert ids.quality[f"codes_{level + 1}"] == ids.sizes[level] == 32
        assert ids.quality[f"usage_{level + 1}"] == len(counts) / 32
        assert ids.quality[f"perplexity_{level + 1}"] == pytest.approx(np.prod(shares**-shares))
    assert json.loads(json.dumps(dict(ids.quality), allow_nan=False)) == ids.quality


@pytest.mark.parametrize("kind", KINDS)
def test_prefixes_follow_the_vectors_and_not_the_items(kind: str) -> None:
    """Whatever the items' order, the seed of the process or another library's draws."""
    vectors = blobs(120)[0]
    order = np.random.default_rng(1).permutation(len(vectors))
    before = torch.random.get_rng_state()
    ids = fit_semantic_ids(vectors, config(kind, epochs=3), Runtime())
    assert torch.equal(before, torch.random.get_rng_state())
    torch.rand(3)
    again = fit_semantic_ids(vectors, config(kind, epochs=3), Runtime())
    moved = fit_semantic_ids(vectors[order], config(kind, epochs=3), Runtime())
    assert ids.codes.tobytes() == again.codes.tobytes()
    assert ids.quality == again.quality
    assert (moved.codes[:, :-1] == ids.codes[order, :-1]).all()
    other = fit_semantic_ids(vectors, config(kind, epochs=3), Runtime(1))
    assert (other.codes[:, :-1] != ids.codes[:, :-1]).any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "vectors",
    [
        np.ones((1, 4)),
        np.zeros((1, 1)),
        np.eye(2, 4),
        np.full((7, 4), -3.0),
        np.zeros((5, 3)),
        np.array([[0.0, 1], [-0.0, 1], [2, 0]]),
        np.eye(5, 3) * 1e38,
        np.eye(9, 6) * 1e-38,
        blobs(100, 3, 4, 0)[0],
        1e4 + blobs(30, 5)[0],
    ],
    ids=["one", "one zero", "two", "alike", "zeros", "minus zero", "huge", "tiny", "three", "far"],
)
def test_degenerate_vectors(kind: str, vectors: np.ndarray) -> None:
    vectors = vectors.astype(np.float32)
    ids = fit_semantic_ids(vectors, config(kind, epochs=2), Runtime())
    assert len(ids.codes) == len(vectors)
    assert np.isfinite([*ids.quality.values()]).all()
    _, member, _ = different(vectors)
    for row in range(member.max() + 1):
        assert (np.ptp(ids.codes[member == row, :-1], axis=0) == 0).all()
    if kind == "rkmeans" and member.max() < 16:
        assert ids.quality["distinct_prefixes"] == member.max() + 1 == ids.sizes[0]
        assert ids.sizes[1:-1] == (1, 1)
        assert ids.quality["reconstruction_error"] == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        ([[0, 1], [np.nan, 0]], "item 1 is not finite"),
        ([[np.inf, 1]], "item 0 is not finite"),
        (np.empty((0, 4)), "shape"),
        (np.empty((4, 0)), "shape"),
        ([1, 2], "shape"),
    ],
)
def test_bad_vectors_are_refused_in_one_line(kind: str, vectors: Any, said: str) -> None:
    with pytest.raises(RecommenderError, match=said) as error:
        fit_semantic_ids(np.array(vectors, np.float32), config(kind), Runtime())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", KINDS)
def test_progress_is_told_and_a_wish_to_stop_is_heard(kind: str) -> None:
    told: list[tuple[int, int | None]] = []
    fit_semantic_ids(blobs(60)[0], config(kind), Runtime(report=lambda done, total, what: told.append((done, total))))
    assert told[0][0] == 0
    assert told[-1][0] == told[-1][1]
    with pytest.raises(Cancelled):
        fit_semantic_ids(blobs(60)[0], config(kind), Runtime(cancelled=lambda: len(told) > 0))


def test_saved_ids_come_back(tmp_path: Path) -> None:
    ids = fit_semantic_ids(blobs()[0], config(), Runtime())
    save_ids(ids, tmp_path)
    back = load_ids(tmp_path)
    assert back.codes.tobytes() == ids.codes.tobytes()
    assert back.codes.dtype == np.int32
    assert back.sizes == ids.sizes
    assert back.quality == ids.quality
    (tmp_path / "codes.npz").write_bytes(b"")
    with pytest.raises(RecommenderError, match="fit them again"):
        load_ids(tmp_path)


# -- residual K-means ----------------------------------------------------------------------------------------------


def test_residual_kmeans_against_the_nearest_centroid_of_each_residual() -> None:
    rows, counts = centred(blobs(300, 12)[0])
    found = residual_kmeans(rows, counts, config(), Runtime())
    residual, errors = rows.astype(np.float64), [np.square(rows).sum()]
    for level, codebook in enumerate(found.codebooks):
        assert codebook.shape == (16, 12)
        for row, code in enumerate(found.codes[:, level]):
            distances = np.linalg.norm(residual[row] - codebook, axis=1)
            assert distances[code] <= distances.min() + 1e-5
        residual = residual - codebook[found.codes[:, level]]
        errors.append(np.square(residual).sum())
    assert (np.diff(errors) < 0).all()
    assert errors[1] < 0.1 * errors[0]
    np.testing.assert_allclose(found.reconstruction, rows - residual, atol=1e-5)
    assert found.reconstruction_error(rows, counts) == pytest.approx(errors[-1] / errors[0], rel=1e-3)


def test_a_centroid_is_the_mean_of_all_its_items_not_of_its_distinct_vectors() -> None:
    rows = np.array([[0.0], [1.0], [10.0], [11.0]], np.float32)
    found = residual_kmeans(rows, np.array([3, 1, 1, 1]), config(codes=2), Runtime())
    assert sorted(found.codebooks[0][:, 0]) == [0.25, 10.5]


def test_residual_kmeans_does_not_depend_on_the_threads() -> None:
    vectors, before = blobs(3000, 40, 32, 0.5)[0], faiss.omp_get_max_threads()
    try:
        codes = []
        for threads in (1, 2):
            faiss.omp_set_num_threads(threads)
            codes.append(fit_semantic_ids(vectors, config(codes=64), Runtime()).codes.tobytes())
    finally:
        faiss.omp_set_num_threads(before)
    assert codes[0] == codes[1]


# -- RQ-VAE --------------------------------------------------------------------------------------------------------


def test_the_rqvae_learns_what_is_alike() -> None:
    vectors, group = blobs(400, 8, 24)
    ids = fit_semantic_ids(vectors, config("rqvae", 8, epochs=60), Runtime())
    assert ids.quality["reconstruction_error"] < 0.3
    assert ids.quality["epochs"] == 60
    same_code = ids.codes[:, 0][:, None] == ids.codes[:, 0]
    same_group = group[:, None] == group
    assert same_code[same_group].mean() > 0.8 > 0.3 > same_code[~same_group].mean()
    barely = fit_semantic_ids(vectors, config("rqvae", 8, epochs=1), Runtime())
    assert barely.quality["reconstruction_error"] > ids.quality["reconstruction_error"]


def test_the_loss_is_the_papers() -> None:
    """‖x − x̂‖² + β Σ_l ‖r_l − e_l‖², by hand, from the codebooks before they move."""
    torch.manual_seed(0)
    model, x = RQVAE(12, 16, config("rqvae", commitment=0.7)), torch.from_numpy(blobs(64)[0])
    model.initialise(x)
    books = [layer.codebook.clone() for layer in model.quantiser.layers]
    residual = latent = model.encoder(x)
    commitment, quantised = torch.zeros(()), torch.zeros_like(latent)
    for book in books:
        code = book[torch.cdist(residual, book).argmin(dim=1)]
        commitment = commitment + (residual - code).square().sum(dim=1).mean()
        residual, quantised = residual - code, quantised + code
    expected = (model.decoder(quantised) - x).square().sum(dim=1).mean() + 0.7 * commitment
    assert model.loss(x).item() == pytest.approx(expected.item(), rel=1e-4)


def test_the_gradient_passes_straight_through_the_quantiser() -> None:
    torch.manual_seed(0)
    model, x = RQVAE(12, 16, config("rqvae", commitment=0)), torch.from_numpy(blobs(64)[0])
    model.initialise(x)
    model.eval()
    with torch.no_grad():
        latent = model.encoder(x)
        quantised = model.quantiser(latent[None])[0][0].requires_grad_()
    (model.decoder(quantised) - x).square().sum(dim=1).mean().backward()
    passed = quantised.grad
    model.encoder(x).backward(passed)
    expected = [weight.grad.clone() for weight in model.encoder.parameters()]
    model.train().zero_grad()
    model.loss(x).backward()
    for weight, gradient in zip(model.encoder.parameters(), expected, strict=True):
        torch.testing.assert_close(weight.grad, gradient, rtol=1e-4, atol=1e-6)


def test_the_first_codebooks_are_kmeans_of_encoded_items() -> None:
    torch.manual_seed(0)
    vectors, _ = blobs(256, 8, 24, 0.01)
    model, x = RQVAE(24, 8, config("rqvae", revive=0)), torch.from_numpy(vectors)
    model.initialise(x)
    latent = model.encoder(x).detach()
    spread = (latent - latent.mean(dim=0)).square().sum()
    left = (latent - model.eval().quantiser(latent[None])[0][0]).square().sum()
    assert left < 0.2 * spread


def test_a_rate_that_diverges_is_one_clear_line() -> None:
    with pytest.raises(RecommenderError, match=r"lower tokeniser\.rqvae\.lr") as error:
        fit_semantic_ids(blobs(60)[0], config("rqvae", epochs=2, lr=1e30), Runtime())
    assert "\n" not in str(error.value)
    with pytest.raises(ValidationError, match=r"rqvae\.hidden\.1"):
        config("rqvae", hidden=[4, 0])


def test_dead_codes_are_revived_or_else_told() -> None:
    """Without revival the first codebook, made of the untrained encoder's vectors, keeps codes that no item has."""
    rows, counts = centred(blobs(600, 60, 24, 0.3)[0])

    def used(**knobs: float) -> tuple[float, float]:
        found = train_rqvae(rows, counts, config("rqvae", 64, epochs=20, lr=1e-2, **knobs), Runtime())
        return float(np.mean([len(np.unique(column)) / 64 for column in found.codes.T])), float(
            found.notes["codes_revived"]
        )

    (dead, none), (alive, some) = used(revive=0.0), used()
    assert dead < 0.9
    assert none == 0
    assert alive > 0.97
    assert some > 0
