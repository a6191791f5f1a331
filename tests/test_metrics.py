"""Metrics against golden numbers, scikit-learn, and averages over all orders of ties."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from prunebench.benchmark.metrics import MetricError, check_rankings, coverage, evaluate, mask, summarise
from prunebench.datasets.schema import RecDataset, Sequences
from prunebench.recommenders.base import Rankings

GOLDEN = Path(__file__).parent / "golden" / "metrics.json"


def ranked(*rows: list[tuple[int, float]]) -> Rankings:
    """Rankings from rows of (item, score)."""
    flat = [pair for row in rows for pair in row]
    offsets = np.cumsum([0, *map(len, rows)]).astype(np.int64)
    return Rankings(
        np.array([item for item, _ in flat], np.int32), np.array([score for _, score in flat], np.float32), offsets
    )


def in_one_order(items: list[int], targets: set[int], k: int) -> tuple[float, float, float, float]:
    """Textbook recall, NDCG, precision, MRR of one strict order."""
    ranks = [rank for rank, item in enumerate(items[:k], 1) if item in targets]
    ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(k, len(targets)) + 1))
    dcg = sum(1 / math.log2(rank + 1) for rank in ranks)
    return len(ranks) / len(targets), dcg / ideal, len(ranks) / k, 1 / ranks[0] if ranks else 0.0


def over_all_orders(row: list[tuple[int, float]], targets: set[int], k: int) -> np.ndarray:
    """Mean of the metrics over every order of equal scores."""
    groups = [[item for item, _ in group] for _, group in itertools.groupby(row, key=lambda pair: pair[1])]
    orders = itertools.product(*(itertools.permutations(group) for group in groups))
    return np.mean([in_one_order([item for part in order for item in part], targets, k) for order in orders], axis=0)


def test_golden_numbers() -> None:
    golden = json.loads(GOLDEN.read_text())
    items = np.array(golden["ranked"], np.int32)
    n, depth = items.shape
    scores = np.tile(-np.arange(depth, dtype=np.float32), n)
    rankings = Rankings(items.ravel(), scores, np.arange(n + 1, dtype=np.int64) * depth)
    per_user = evaluate(rankings, Sequences.from_rows(golden["ground_truth"]), tuple(golden["topn"]))
    assert (~np.isnan(per_user.recall[:, 0])).sum() == golden["users_counted"]
    for name in ("recall", "ndcg", "precision", "mrr"):
        means = np.nanmean(getattr(per_user, name), axis=0)
        assert np.round(means, golden["rounded_to"]).tolist() == golden[name], name


rows = st.lists(st.integers(0, 3), min_size=1, max_size=6)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(rows, st.sets(st.integers(0, 8), max_size=4)), min_size=1, max_size=4),
    st.lists(st.integers(1, 9), min_size=1, max_size=3),
)
def test_ties_are_averaged_over_all_their_orders(users: list[tuple[list[int], set[int]]], ks: list[int]) -> None:
    lists = [[(item, float(s)) for item, s in enumerate(sorted(scores, reverse=True))] for scores, _ in users]
    per_user = evaluate(ranked(*lists), Sequences.from_rows([sorted(targets) for _, targets in users]), tuple(ks))
    for row, (listed, (_, targets)) in enumerate(zip(lists, users, strict=True)):
        for at, k in enumerate(ks):
            ours = [getattr(per_user, name)[row, at] for name in ("recall", "ndcg", "precision", "mrr")]
            if targets:
                np.testing.assert_allclose(ours, over_all_orders(listed, targets, k), atol=1e-12)
            else:
                assert np.isnan(ours).all()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 12))
def test_ndcg_is_sklearns(seed: int, levels: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, (5, 12)).astype(np.float32)
    relevant = rng.random((5, 12)) < 0.3
    relevant[:, 0] |= ~relevant.any(axis=1)
    # sklearn's ideal for a row is that of all its relevant items, cut at k: the same min(k, |targets|).
    expected = [ndcg_score([truth], [score], k=k) for truth, score in zip(relevant, scores, strict=True)]
    rankings = Rankings.from_scores(scores, np.full(5, k))
    targets = Sequences.from_rows([np.flatnonzero(row).tolist() for row in relevant])
    np.testing.assert_allclose(evaluate(rankings, targets, (k,)).ndcg[:, 0], expected, rtol=1e-12)


def test_order_of_tied_items_never_matters() -> None:
    tied = [(item, 1.0) for item in range(30)]
    targets = Sequences.from_rows([[3, 17]])
    one, other = (evaluate(ranked(row), targets) for row in (tied, tied[::-1]))
    for name in ("recall", "ndcg", "precision", "mrr"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    np.testing.assert_allclose(one.recall[0], [5 / 30, 10 / 30, 20 / 30, 1])


def test_a_large_tie_group_is_exact() -> None:
    """All of 20,000 items tied, one target: the reciprocal rank is H_50 / 20,000."""
    row = [(item, 0.0) for item in range(20_000)]
    per_user = evaluate(ranked(row), Sequences.from_rows([[7]]), (50,))
    assert per_user.mrr[0, 0] == pytest.approx(sum(1 / r for r in range(1, 51)) / 20_000, rel=1e-9)
    assert per_user.recall[0, 0] == pytest.approx(50 / 20_000, rel=1e-12)


def test_repeated_targets_count_once_and_absent_ones_are_misses() -> None:
    per_user = evaluate(ranked([(4, 2.0), (5, 1.0)]), Sequences.from_rows([[5, 5, 9]]), (2,))
    assert per_user.recall[0, 0] == 0.5
    assert per_user.target_items.tolist() == [5, 9]


def test_no_users_and_empty_rows() -> None:
    assert evaluate(ranked(), Sequences.empty(0)).recall.shape == (0, 4)
    assert evaluate(ranked([]), Sequences.from_rows([[1]])).recall.tolist() == [[0, 0, 0, 0]]
    assert evaluate(ranked([], [(1, 0.0)], []), Sequences.from_rows([[], [1], []]), (1,)).recall[1, 0] == 1


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.lists(st.integers(0, 9), unique=True), st.lists(st.integers(0, 12), max_size=5)), max_size=5)
)
def test_mask_drops_each_rows_own_history(users: list[tuple[list[int], list[int]]]) -> None:
    rankings = ranked(*([(item, -float(at)) for at, item in enumerate(items)] for items, _ in users))
    masked = mask(rankings, Sequences.from_rows([history for _, history in users]))
    for row, (items, history) in enumerate(users):
        here = slice(masked.offsets[row], masked.offsets[row + 1])
        assert masked.items[here].tolist() == [item for item in items if item not in history]
        assert masked.scores[here].tolist() == [-float(at) for at, item in enumerate(items) if item not in history]


def dataset() -> RecDataset:
    return RecDataset(
        "toy",
        tuple("abcdef"),
        Sequences.from_rows([[0, 1], [3, 2], [2, 0]]),
        Sequences.from_rows([[], [], []]),
        Sequences.from_rows([[1, 5], [5], []]),
    )


def test_summary_tells_warm_from_cold() -> None:
    data = dataset()
    queries = data.queries("test")
    rankings = ranked([(1, 3.0), (2, 2.0), (5, 1.0)], [(5, 1.0), (1, 0.5), (0, 0.2)])
    summary = summarise(evaluate(rankings, queries.targets, (1, 3)), queries, data)
    assert (summary["users"], summary["targets"]) == (2, 3)
    assert summary["recall"] == {"1": (0.5 + 1) / 2, "3": 1.0}
    assert summary["warm"]["users"] == 1
    assert summary["warm"]["recall"] == {"1": 1.0, "3": 1.0}
    assert (summary["cold"]["users"], summary["cold"]["targets"]) == (2, 2)
    assert summary["cold"]["recall"] == {"1": 0.5, "3": 1.0}
    assert summary["cold"]["ndcg"]["3"] == pytest.approx((1 / math.log2(4) + 1) / 2)
    assert json.loads(json.dumps(summary)) == summary


def test_a_mean_over_nobody_is_none() -> None:
    data = dataset()
    queries = data.queries("test").take(np.array([1]))
    summary = summarise(evaluate(ranked([(5, 1.0)]), queries.targets, (5,)), queries, data)
    assert summary["warm"] == {"users": 0, "targets": 0, "recall": {"5": None}, "ndcg": {"5": None}}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([(0, 1.0), (1, 2.0)], "non-increasing"),
        ([(0, float("nan"))], "NaN"),
        ([(0, 1.0), (1, float("nan"))], "NaN"),
        ([(0, 1.0), (0, 0.5)], "twice"),
    ],
)
def test_broken_rankings_are_refused(row: list[tuple[int, float]], message: str) -> None:
    with pytest.raises(MetricError, match=f"row 1 .*{message}"):
        evaluate(ranked([(3, 9.0)], row), Sequences.from_rows([[3], [0]]), (1,))


def test_check_rankings_names_the_row() -> None:
    good = ranked([(0, 2.0), (1, 1.0)], [(2, 1.0), (0, 1.0)])
    check_rankings(good, np.array([2, 1]), 3)
    check_rankings(ranked([(0, 1.0), (1, 1.0), (2, 0.0)]), np.array([50]), 3)
    with pytest.raises(MetricError, match=r"row 0 .* holds 2 items where 3 are due"):
        check_rankings(good, np.array([9, 1]), 3)
    with pytest.raises(MetricError, match=r"row 1 .* item 2, outside 0 … 1"):
        check_rankings(good, np.array([2, 1]), 2)
    with pytest.raises(MetricError, match=r"row 0 .* twice"):
        check_rankings(ranked([(0, 2.0), (0, 1.0)]), np.array([2]), 3)
    with pytest.raises(MetricError, match="3 rankings for 2"):
        evaluate(ranked([], [], []), Sequences.empty(2))


def test_coverage_counts_the_items_of_all_lists_once() -> None:
    rankings = ranked([(3, 0.9), (1, 0.8), (7, 0.1)], [(3, 0.5)], [], [(2, 0.4), (3, 0.4), (1, 0.3)])
    assert coverage(rankings, (1, 2, 3, 9)) == {"1": 2, "2": 3, "3": 4, "9": 4}
    assert coverage(rankings.take(np.empty(0, np.int64)), (5,)) == {"5": 0}
