"""Reference backbones against slow, obvious rankings; rankings from scores; ties kept whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunebench.datasets.schema import RecDataset, Sequences
from prunebench.recommenders.base import Backbone, Rankings, RecommenderError
from prunebench.recommenders.references.chunks import ranked_in_chunks
from prunebench.recommenders.references.content_knn import ContentKNN, ContentKNNConfig
from prunebench.recommenders.references.popular import Popular, PopularConfig
from prunebench.recommenders.references.sasrec import SASRecBackbone, SASRecBackboneConfig
from prunebench.recommenders.runtime import Runtime

RUNTIME = Runtime()


class FakeResources:
    """Titles 2 and 5 are the same, so their vectors are."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.dataset = RecDataset(
            "eight",
            ("a", "b", "same", "d", "e", "same", "g", "h"),
            Sequences.from_rows([[0, 1], [1, 2, 3], [1, 0], [4, 3]]),
            Sequences.from_rows([[5], [5], [5], []]),
            Sequences.empty(4),
        )
        vectors = rng.standard_normal((8, 4)).astype(np.float32)
        vectors[5] = vectors[2]
        self.vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def title_vectors(self) -> np.ndarray:
        return self.vectors

    def encode(self, texts: list[str]) -> np.ndarray:
        raise NotImplementedError

    def llm(self) -> str:
        raise NotImplementedError


def naive(scores: np.ndarray, depth: int) -> list[int]:
    edge = sorted(scores, reverse=True)[min(depth, len(scores)) - 1]
    return [item for _, item in sorted((-score, item) for item, score in enumerate(scores) if score >= edge)]


def rows_of(rankings: Rankings) -> list[list[int]]:
    return [rankings.items[a:b].tolist() for a, b in zip(rankings.offsets, rankings.offsets[1:], strict=False)]


@given(st.integers(1, 6), st.integers(1, 9), st.integers(0, 10_000), st.integers(1, 4))
def test_rankings_from_scores_equal_a_plain_sort(n: int, n_items: int, seed: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(levels, size=(n, n_items)).astype(np.float32)
    depth = rng.integers(1, n_items + 3, n)
    rankings = Rankings.from_scores(scores, depth)
    assert rows_of(rankings) == [naive(row, k) for row, k in zip(scores, depth, strict=True)]
    chunked = ranked_in_chunks(lambda rows: scores[rows], 2**23, depth, RUNTIME)
    assert rows_of(chunked) == rows_of(rankings)
    assert (rankings.scores == np.concatenate([scores[r][row] for r, row in enumerate(rows_of(rankings))])).all()


def test_a_score_that_is_no_number_is_refused() -> None:
    with pytest.raises(RecommenderError, match="NaN"):
        Rankings.from_scores(np.array([[1.0, np.nan]], np.float32), np.array([1]))


@pytest.mark.parametrize("count", ["train", "train+valid"])
def test_popular(count: str, tmp_path: Path) -> None:
    resources = FakeResources()
    data = resources.dataset
    backbone = Popular(PopularConfig(count=count), resources)
    backbone.fit(data.samples(), data.queries("valid"), RUNTIME, tmp_path).save(tmp_path)
    fitted = backbone.load(tmp_path, RUNTIME)
    flat = data.train.items.tolist() + (data.valid.items.tolist() if count == "train+valid" else [])
    counts = np.array([flat.count(item) for item in range(8)], np.float32)
    depth = np.array([1, 2, 5, 20])
    ranked = fitted.recommend(Sequences.empty(4), depth, RUNTIME)
    assert rows_of(ranked) == [naive(counts, k) for k in depth]
    assert (ranked.scores == counts[ranked.items]).all()


def test_content_knn(tmp_path: Path) -> None:
    resources = FakeResources()
    data = resources.dataset
    histories = Sequences.from_rows([[0, 0, 3], [], [2], [], [7, 7, 1]])
    depth = np.array([3, 3, 1, 1, 8])
    backbone = ContentKNN(ContentKNNConfig(), resources)
    backbone.fit(data.samples(), data.queries("valid"), RUNTIME, tmp_path).save(tmp_path)
    rows = rows_of(backbone.load(tmp_path, RUNTIME).recommend(histories, depth, RUNTIME))
    for row in (0, 2, 4):
        mean = resources.vectors[histories[row]].mean(0)
        cosine = (resources.vectors @ mean / np.linalg.norm(mean)).astype(np.float64)
        cosine[5] = cosine[2]
        assert rows[row] == naive(cosine.round(6), depth[row])
    assert rows[2] == [2, 5]
    assert rows[1] == rows[3] == list(range(8))
    latest = ContentKNN(ContentKNNConfig(last=1), resources).load(tmp_path, RUNTIME)
    assert rows_of(latest.recommend(histories, depth, RUNTIME))[0][0] == 3


def test_sasrec_backbone_learns_from_the_given_samples_only(tmp_path: Path) -> None:
    resources = FakeResources()
    data = resources.dataset
    config = SASRecBackboneConfig(d=8, max_length=5, epochs=3, batch_size=2)
    backbone = SASRecBackbone(config, resources)
    part = data.samples().take(np.array([1, 3]))
    fitted = backbone.fit(part, data.queries("valid"), RUNTIME, tmp_path)
    assert fitted.report.samples == 2
    assert fitted.report.steps == 3
    fitted.save(tmp_path)
    again = backbone.load(tmp_path, RUNTIME)
    histories = Sequences.from_rows([[0, 3], [], [2]])
    depth = np.array([2, 1, 8])
    first, second = (rows_of(model.recommend(histories, depth, RUNTIME)) for model in (fitted, again))
    assert first == second
    assert first[1] == list(range(8))
    scores = fitted.model.scores(histories, RUNTIME)
    assert first[0] == naive(scores[0], 2)
    with pytest.raises(RecommenderError, match="no samples"):
        backbone.fit(data.samples().take(np.empty(0, np.int64)), data.queries("valid"), RUNTIME, tmp_path)


def test_all_three_keep_the_contract() -> None:
    resources = FakeResources()
    backbones = [Popular(PopularConfig(), resources), ContentKNN(ContentKNNConfig(), resources)]
    backbones.append(SASRecBackbone(SASRecBackboneConfig(), resources))
    for backbone in backbones:
        assert isinstance(backbone, Backbone)
    assert [backbone.uses_samples for backbone in backbones] == [False, False, True]
    assert SASRecBackboneConfig().loss == "ce"
