"""K-means and farthest-first: against plain definitions, the same for any order, and on degenerate vectors."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunebench.methods import clustering
from prunebench.methods.base import MethodError
from prunebench.methods.clustering import Clusters, farthest_first, kmeans
from prunebench.methods.selection import priorities
from prunebench.recommenders.runtime import Runtime


def points(n: int, d: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)).astype(np.float32), np.cumsum(rng.integers(1, 4, n))


def farthest(vectors: np.ndarray, ids: np.ndarray, count: int, seed: int) -> list[int]:
    """The definition, one sample and one pair at a time."""
    x, hashes = vectors.astype(float), priorities(ids, seed)
    chosen: list[int] = []
    while len(chosen) < count:
        left = [i for i in range(len(x)) if i not in chosen]
        if chosen:
            key = {i: -min(((x[i] - x[j]) ** 2).sum() for j in chosen) for i in left}
        else:
            key = {i: ((x[i] - x.mean(axis=0)) ** 2).sum() for i in left}
        chosen.append(min(left, key=lambda i: (key[i], hashes[i])))
    return chosen


def test_farthest_first_is_the_definition() -> None:
    vectors, ids = points(60)
    assert farthest_first(vectors, ids, 25, 3, Runtime()).tolist() == farthest(vectors, ids, 25, 3)


def test_farthest_first_breaks_ties_by_the_hash_and_takes_duplicates_last() -> None:
    rng = np.random.default_rng(2)
    vectors, ids = rng.integers(-2, 3, (40, 2)).astype(np.float32), np.arange(40) * 3 + 1
    vectors -= vectors[0]
    for seed in range(3):
        order = farthest_first(vectors, ids, 40, seed, Runtime())
        assert order[1:].tolist() == _continued(vectors, ids, int(order[0]), seed)
        distinct = len(np.unique(vectors, axis=0))
        assert len(np.unique(vectors[order[:distinct]], axis=0)) == distinct


def _continued(vectors: np.ndarray, ids: np.ndarray, first: int, seed: int) -> list[int]:
    hashes, chosen = priorities(ids, seed), [first]
    while len(chosen) < len(ids):
        left = [i for i in range(len(ids)) if i not in chosen]
        far = {i: min(((vectors[i] - vectors[j]) ** 2).sum() for j in chosen) for i in left}
        chosen.append(min(left, key=lambda i: (-far[i], hashes[i])))
    return chosen[1:]


def test_farthest_first_is_within_twice_the_optimum() -> None:
    """Gonzalez 1985, against every choice of three of nine."""
    for seed in range(5):
        vectors, ids = points(9, 2, seed)
        distances = np.linalg.norm(vectors[:, None] - vectors[None], axis=2)
        triples = [(a, b, c) for a in range(9) for b in range(a) for c in range(b)]
        best = min(distances[list(triple)].min(axis=0).max() for triple in triples)
        chosen = farthest_first(vectors, ids, 3, 0, Runtime())
        assert distances[chosen].min(axis=0).max() <= 2 * best + 1e-6


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 45), st.integers(0, 9), st.integers(1, 6))
def test_any_order_of_the_samples_gives_the_same(n: int, k: int, seed: int, values: int) -> None:
    rng = np.random.default_rng(seed)
    vectors, ids = rng.integers(0, values, (n, 3)).astype(np.float32), rng.permutation(3 * n)[:n]
    shuffle = rng.permutation(n)
    here, there = kmeans(vectors, ids, k, seed), kmeans(vectors[shuffle], ids[shuffle], k, seed)
    assert np.array_equal(here.labels[shuffle], there.labels)
    assert np.array_equal(here.sizes, there.sizes)
    assert np.array_equal(here.distances(vectors)[shuffle], there.distances(vectors[shuffle]))
    assert np.array_equal(here.ranks(vectors[:, 0])[shuffle], there.ranks(vectors[shuffle, 0]))
    walk = farthest_first(vectors, ids, n, seed, Runtime())
    assert sorted(walk) == list(range(n))
    assert np.array_equal(ids[walk], ids[shuffle][farthest_first(vectors[shuffle], ids[shuffle], n, seed, Runtime())])
    assert np.array_equal(walk[: n // 2], farthest_first(vectors, ids, n // 2, seed, Runtime()))


def test_kmeans_finds_what_is_apart() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, 300)
    vectors = np.array([[0, 0], [50, 0], [0, 50], [50, 50]])[truth] + rng.standard_normal((300, 2))
    found = [kmeans(vectors, np.arange(300), 4, seed).labels for seed in range(8)]
    assert any(len(set(zip(truth.tolist(), labels.tolist(), strict=True))) == 4 for labels in found)


def test_kmeans_is_lloyds_algorithm() -> None:
    """From the same first centres, until nothing moves: the plain loop and faiss agree."""
    vectors, ids = points(200, 3)
    order = np.argsort(priorities(ids, 7))
    x = vectors.astype(float)
    centres = x[order[:6]]
    for _ in range(clustering.ITERATIONS):
        labels = ((x[:, None] - centres[None]) ** 2).sum(axis=2).argmin(axis=1)
        centres = np.stack([x[labels == c].mean(axis=0) for c in range(6)])
    found = kmeans(vectors, ids, 6, 7)
    assert np.array_equal(found.labels, labels)
    np.testing.assert_allclose(found.distances(vectors), np.linalg.norm(x - centres[labels], axis=1), rtol=1e-5)


def test_repeated_vectors_weigh_as_often_as_they_come() -> None:
    vectors, _ = points(50, 3)
    repeated = np.repeat(vectors, np.arange(50) % 4 + 1, axis=0)
    found = kmeans(repeated, np.arange(len(repeated)), 5, 0)
    x = repeated.astype(float)
    centres = np.stack([x[found.labels == c].mean(axis=0) for c in range(5)])
    assert np.array_equal(((x[:, None] - centres[None]) ** 2).sum(axis=2).argmin(axis=1), found.labels)


def test_an_offset_and_a_scale_change_nothing() -> None:
    vectors, ids = points(120)
    vectors = np.round(vectors * 64) / 64
    plain, moved = kmeans(vectors, ids, 9, 1), kmeans(vectors + 4096, ids, 9, 1)
    assert np.array_equal(plain.labels, moved.labels)
    for scale in (2.0**100, 2.0**-100):
        assert np.array_equal(kmeans(vectors * scale, ids, 9, 1).labels, plain.labels)
        scaled = farthest_first(vectors * scale, ids, 50, 1, Runtime())
        assert np.array_equal(scaled, farthest_first(vectors, ids, 50, 1, Runtime()))


def test_fewer_distinct_vectors_than_clusters_leave_empty_ones() -> None:
    vectors = np.array([[1, 0], [0, 0], [-0.0, 0], [1, 0], [1, 0]], np.float32)
    found = kmeans(vectors, np.arange(5), 4, 0)
    assert len(np.unique(found.labels)) == 2
    assert found.labels[0] == found.labels[3] == found.labels[4]
    assert found.labels[1] == found.labels[2]
    assert sorted(found.sizes.tolist()) == [0, 0, 2, 3]
    assert found.empty == 2
    assert not found.distances(vectors).any()


def test_no_samples_and_one() -> None:
    nothing = kmeans(np.empty((0, 3)), np.empty(0, np.int64), 2, 0)
    assert nothing.empty == 2
    assert not len(nothing.distances(np.empty((0, 3))))
    assert kmeans(np.ones((1, 3)), np.array([5]), 2, 0).labels.tolist() == [0]
    assert farthest_first(np.empty((0, 3)), np.empty(0, np.int64), 0, 0, Runtime()).tolist() == []
    assert farthest_first(np.ones((1, 3)), np.array([5]), 1, 0, Runtime()).tolist() == [0]


def test_ranks_count_from_the_smallest_of_each_cluster() -> None:
    labels = np.array([1, 0, 1, 1, 0, 3])
    clusters = Clusters(labels, np.bincount(labels, minlength=4), np.array([5, 3, 4, 2, 1, 0]))
    assert clusters.ranks(np.array([2.0, 5, 1, 2, 4, 9])).tolist() == [2, 1, 0, 1, 0, 0]


@pytest.mark.parametrize("work", [lambda v, i: kmeans(v, i, 2, 0), lambda v, i: farthest_first(v, i, 2, 0, Runtime())])
def test_bad_vectors_are_named(work: object) -> None:
    vectors, ids = points(6)
    with pytest.raises(MethodError, match="one row"):
        work(vectors[:5], ids)  # type: ignore[operator]
    with pytest.raises(MethodError, match="one row"):
        work(vectors[:, :0], ids)  # type: ignore[operator]
    vectors[4, 1] = np.nan
    with pytest.raises(MethodError, match=f"sample {ids[4]} "):
        work(vectors, ids)  # type: ignore[operator]


def test_bad_counts_are_refused() -> None:
    vectors, ids = points(6)
    with pytest.raises(MethodError, match="at least 1 cluster"):
        kmeans(vectors, ids, 0, 0)
    with pytest.raises(MethodError, match="budget of 7"):
        farthest_first(vectors, ids, 7, 0, Runtime())


SCRIPT = """
import numpy as np
from prunebench.methods.clustering import kmeans
vectors = np.random.default_rng(0).standard_normal((3000, 16)).astype(np.float32)
print(*kmeans(vectors, np.arange(3000), 40, 5).labels)
"""


def test_every_process_gives_the_same() -> None:
    there = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True).stdout
    vectors = np.random.default_rng(0).standard_normal((3000, 16)).astype(np.float32)
    assert there.split() == [str(label) for label in kmeans(vectors, np.arange(3000), 40, 5).labels]
