"""Grounding against brute force, with repeated titles and ties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunebench.recommenders.base import RecommenderError
from prunebench.recommenders.grounding import BEAM_MARGIN, Grounding
from prunebench.recommenders.runtime import Runtime


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n_items=st.integers(1, 40),
    names=st.integers(1, 20),
    grid=st.integers(2, 4),
    beams=st.integers(1, 4),
)
def test_equals_brute_force(seed: int, n_items: int, names: int, grid: int, beams: int) -> None:
    """On a coarse grid many different titles are equally far, too; whole tie groups must come back."""
    rng = np.random.default_rng(seed)
    titles = tuple(f"title {rng.integers(names)}" for _ in range(n_items))
    place = {title: rng.integers(0, grid, 2).astype(np.float32) for title in titles}
    vectors = np.stack([place[title] for title in titles])
    queries = rng.integers(0, grid, (5, beams, 2)).astype(np.float32)
    depth = rng.integers(1, n_items + 3, 5)
    grounding = Grounding(titles, vectors)
    margin = (grounding.margin * np.arange(beams)).astype(np.float32)
    first = np.stack([place[title] for title in dict.fromkeys(titles)])
    assert grounding.margin == pytest.approx(BEAM_MARGIN * (first**2).sum(1).mean())
    ranked = grounding.rank(queries, depth, Runtime(), block=2)
    assert len(ranked) == 5
    for row in range(5):
        scores = -(((queries[row][:, None] - vectors) ** 2).sum(2) + margin[:, None]).min(0)
        edge = np.sort(scores)[::-1][min(depth[row], n_items) - 1]
        expected = [i for i in np.lexsort((np.arange(n_items), -scores)) if scores[i] >= edge]
        part = slice(ranked.offsets[row], ranked.offsets[row + 1])
        assert ranked.items[part].tolist() == expected
        np.testing.assert_array_equal(ranked.scores[part], scores[expected])


def test_beams_that_write_items_titles_rank_them_in_beam_order() -> None:
    """Whatever float error makes of their distances of 0; behind them whatever is nearest to any beam."""
    rng = np.random.default_rng(2)
    vectors = rng.normal(size=(200, 64)).astype(np.float32)
    grounding = Grounding(tuple(f"title {i}" for i in range(200)), vectors)
    written = np.stack([rng.permutation(200)[:3] for _ in range(50)])
    noise = rng.normal(size=(50, 3, 64)).astype(np.float32) * np.float32(1e-6)
    ranked = grounding.rank(vectors[written] + noise, np.full(50, 10), Runtime())
    distance = ((vectors[written][:, :, None] - vectors) ** 2).sum(3).min(1)
    for row in range(50):
        items = ranked.items[ranked.offsets[row] : ranked.offsets[row + 1]]
        assert items[:3].tolist() == written[row].tolist()
        assert set(items) == set(np.argsort(distance[row])[:10])


def test_a_beam_said_twice_changes_nothing() -> None:
    rng = np.random.default_rng(3)
    vectors = rng.integers(0, 3, (40, 3)).astype(np.float32)
    queries = rng.integers(0, 3, (30, 1, 3)).astype(np.float32)
    grounding = Grounding(tuple(f"title {i}" for i in range(40)), vectors)
    one, two = (grounding.rank(np.repeat(queries, beams, 1), np.arange(30), Runtime(), block=7) for beams in (1, 2))
    np.testing.assert_array_equal(one.items, two.items)
    np.testing.assert_array_equal(one.scores, two.scores)
    np.testing.assert_array_equal(one.offsets, two.offsets)
    assert one.offsets[1] == 0  # nothing was asked for


def test_items_of_one_title_tie_exactly_whatever_their_vectors() -> None:
    """Vectors of equal titles may differ in the last bits when computed in different batches: one of them counts."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(300, 16)).astype(np.float32)
    titles = tuple(f"title {i % 150}" for i in range(300))
    vectors[150:] = vectors[:150] + np.float32(1e-7)
    ranked = Grounding(titles, vectors).rank(vectors[:40, None], np.full(40, 5), Runtime())
    for row in range(40):
        part = slice(ranked.offsets[row], ranked.offsets[row + 1])
        assert ranked.items[part][:2].tolist() == [row, row + 150]
        assert len(ranked.items[part]) == 6  # depth 5 would cut the third pair
        assert (np.diff(ranked.scores[part])[::2] == 0).all()


def test_item_ids_are_labels() -> None:
    rng = np.random.default_rng(1)
    vectors, queries = rng.normal(size=(30, 4)).astype(np.float32), rng.normal(size=(8, 1, 4)).astype(np.float32)
    titles = np.array([f"title {i % 20}" for i in range(30)])
    vectors = vectors[np.arange(30) % 20]
    shuffle = rng.permutation(30)
    plain = Grounding(tuple(titles), vectors).rank(queries, np.full(8, 7), Runtime())
    mixed = Grounding(tuple(titles[shuffle]), vectors[shuffle]).rank(queries, np.full(8, 7), Runtime())
    for row in range(8):
        part = slice(plain.offsets[row], plain.offsets[row + 1])
        assert sorted(plain.items[part]) == sorted(shuffle[mixed.items[part]])
        np.testing.assert_allclose(plain.scores[part], mixed.scores[part], rtol=1e-5, atol=1e-5)


def test_wrong_number_of_vectors() -> None:
    with pytest.raises(RecommenderError, match="2 vectors for 1 titles"):
        Grounding(("a",), np.zeros((2, 3), np.float32))
