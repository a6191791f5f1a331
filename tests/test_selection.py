"""Draws against a slow, obvious Alg. 2, and their invariances."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from prunebench.methods import selection
from prunebench.methods.base import MethodError, Selection
from prunebench.methods.testing import example_samples

scores_lists = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=60)


def ids_of(n: int) -> np.ndarray:
    """Ids with gaps, decreasing: neither positions nor in order."""
    return np.arange(n, 0, -1, dtype=np.int64) * 7


def slow_allocation(sizes: list[int], budget: int) -> dict[int, int]:
    """Alg. 2 as it is written: smallest group first, B = ⌊budget left / groups left⌋ each time."""
    left = {group: size for group, size in enumerate(sizes) if size}
    taken = {}
    while left:
        share = (budget - sum(taken.values())) // len(left)
        group = min(left, key=lambda group: (left[group], group))
        taken[group] = min(share, left.pop(group))
    return taken


def slow_strata(scores: list[float], groups: int) -> list[int]:
    low, high = min(scores), max(scores)
    if high == low:
        return [0] * len(scores)
    return [min(int((score - low) / (high - low) * groups), groups - 1) for score in scores]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=20), st.data())
def test_allocation_is_algorithm_2_and_meets_the_budget(sizes: list[int], data: st.DataObject) -> None:
    budget = data.draw(st.integers(0, sum(sizes)))
    taken = selection.allocate(np.array(sizes), budget)
    expected = slow_allocation(sizes, budget)
    assert taken.tolist() == [expected.get(group, 0) for group in range(len(sizes))]
    assert taken.sum() == budget
    assert (taken <= sizes).all()


@settings(max_examples=150, deadline=None)
@given(scores_lists, st.integers(1, 12), st.integers(0, 2**63 - 1), st.data())
def test_stratified_is_algorithm_2(scores: list[float], groups: int, seed: int, data: st.DataObject) -> None:
    budget = data.draw(st.integers(0, len(scores)))
    ids = ids_of(len(scores))
    chosen = selection.stratified(np.array(scores), ids, budget, groups, seed)
    assert len(set(chosen.tolist())) == budget
    stratum = selection.strata(np.array(scores), groups)
    expected = slow_allocation(np.bincount(stratum, minlength=groups).tolist(), budget)
    assert np.bincount(stratum[chosen], minlength=groups).tolist() == [expected.get(g, 0) for g in range(groups)]
    # Within a stratum the draw is a uniform one: the smallest hashes.
    hashes = selection.priorities(ids, seed)
    for group, count in expected.items():
        members = np.flatnonzero(stratum == group)
        assert set(members[np.argsort(hashes[members])[:count]]) == set(chosen[stratum[chosen] == group])


@given(scores_lists, st.integers(1, 60))
def test_strata_have_equal_width_and_keep_the_best_sample(scores: list[float], groups: int) -> None:
    stratum = selection.strata(np.array(scores), groups)
    assert np.abs(stratum - slow_strata(scores, groups)).max() <= 1  # rounding at an inner edge
    assert stratum.min() == 0
    assert stratum[int(np.argmax(scores))] == (groups - 1 if max(scores) > min(scores) else 0)


def test_strata_by_hand() -> None:
    assert selection.strata(np.array([0.0, 0.1, 0.25, 0.5, 0.99, 1.0]), 4).tolist() == [0, 0, 1, 2, 3, 3]
    assert selection.strata(np.full(3, 5.0), 4).tolist() == [0, 0, 0]
    assert selection.strata(np.array([-1e308, 0.0, 1e308]), 2).tolist() == [0, 1, 1]


def test_equal_scores_are_drawn_uniformly() -> None:
    chosen = selection.stratified(np.zeros(50), ids_of(50), 20, 10, 5)
    assert set(chosen) == set(selection.uniform(ids_of(50), 20, 5))


@settings(max_examples=80, deadline=None)
@given(scores_lists, st.integers(0, 2**63 - 1), st.data())
def test_no_draw_depends_on_the_order_of_the_samples(scores: list[float], seed: int, data: st.DataObject) -> None:
    n = len(scores)
    budget = data.draw(st.integers(0, n))
    order = np.array(data.draw(st.permutations(range(n))), np.int64)
    values, ids = np.round(np.array(scores)), ids_of(n)  # rounded: ties happen
    draws = {
        "stratified": lambda s, i: selection.stratified(s, i, budget, 7, seed),
        "top": lambda s, i: selection.top(s, i, budget, seed),
        "uniform": lambda s, i: selection.uniform(i, budget, seed),
        "weighted": lambda s, i: selection.weighted(np.abs(s), i, budget, seed),
        "hard_prune": lambda s, i: selection.hard_prune(s, i, 0.3, budget, seed),
    }
    for name, draw in draws.items():
        assert set(ids[draw(values, ids)]) == set(ids[order][draw(values[order], ids[order])]), name


def test_top_takes_the_highest_and_breaks_ties_by_seed() -> None:
    scores, ids = np.array([1.0, 3.0, 2.0, 3.0] + [2.0] * 40), ids_of(44)
    assert set(selection.top(scores, ids, 2, 0)) == {1, 3}
    ties = {tuple(sorted(selection.top(scores, ids, 10, seed))) for seed in range(5)}
    assert len(ties) == 5


def test_hard_prune_drops_the_top_share_and_leaves_the_budget() -> None:
    scores, ids = np.arange(100.0), ids_of(100)
    assert selection.hard_prune(scores, ids, 0.1, 50, 0).tolist() == list(range(90))
    assert selection.hard_prune(scores, ids, 0.29, 0, 0).tolist() == list(range(71))
    assert selection.hard_prune(scores, ids, 0.1, 95, 0).tolist() == list(range(95))
    assert selection.hard_prune(scores, ids, 0.0, 100, 0).tolist() == list(range(100))


def test_hashes_are_uniform_distinct_and_independent_between_seeds() -> None:
    ids = np.arange(100_000, dtype=np.int64)
    one, other = (selection.priorities(ids, seed) for seed in (1, 2))
    assert len(np.unique(one)) == len(ids)
    assert stats.kstest(one / 2.0**64, "uniform").pvalue > 1e-3
    assert abs(stats.spearmanr(one, other).statistic) < 0.02
    assert abs(np.corrcoef(one[:-1] / 2.0**64, one[1:] / 2.0**64)[0, 1]) < 0.02


def test_uniform_draws_each_sample_equally_often() -> None:
    ids = ids_of(20)
    counts = np.bincount(np.concatenate([selection.uniform(ids, 5, seed) for seed in range(4000)]), minlength=20)
    assert stats.chisquare(counts).pvalue > 1e-3


def test_weighted_first_draw_follows_the_weights_and_zero_comes_last() -> None:
    ids, weights = ids_of(4), np.array([1.0, 2.0, 0.0, 5.0])
    first = np.bincount([selection.weighted(weights, ids, 1, seed)[0] for seed in range(8000)], minlength=4)
    assert first[2] == 0
    assert stats.chisquare(first[[0, 1, 3]], 8000 * np.array([1, 2, 5]) / 8).pvalue > 1e-3
    assert selection.weighted(weights, ids, 4, 0)[-1] == 2
    assert sorted(selection.weighted(np.array([0.0, 1e-320, 1e300]), ids_of(3), 2, 0)) == [1, 2]
    with pytest.raises(MethodError, match="weight of sample 21 is negative"):
        selection.weighted(np.array([1.0, -1.0, 0.0]), np.array([7, 21, 3]), 1, 0)


@given(scores_lists)
def test_minmax(scores: list[float]) -> None:
    scaled = selection.minmax(np.array(scores), ids_of(len(scores)))
    if max(scores) == min(scores):
        assert not scaled.any()
    else:
        assert (scaled.min(), scaled.max()) == (0, 1)
        assert (np.diff(scaled[np.argsort(scores)]) >= 0).all()


def test_bad_scores_name_the_sample() -> None:
    ids = np.array([5, 9, 14])
    with pytest.raises(MethodError, match=r"influence of sample 9 is nan \(1 such"):
        selection.minmax(np.array([0.0, np.nan, 1.0]), ids, "influence")
    with pytest.raises(MethodError, match="score of sample 14 is inf"):
        selection.top(np.array([0.0, 1.0, np.inf]), ids, 1, 0)
    with pytest.raises(MethodError, match="for 3 samples"):
        selection.stratified(np.zeros(2), ids, 1, 5, 0)


@pytest.mark.parametrize("budget", [-1, 4])
def test_budgets_that_cannot_be_met_are_refused(budget: int) -> None:
    ids, scores = ids_of(3), np.arange(3.0)
    for draw in (
        lambda: selection.top(scores, ids, budget, 0),
        lambda: selection.uniform(ids, budget, 0),
        lambda: selection.weighted(scores, ids, budget, 0),
        lambda: selection.stratified(scores, ids, budget, 2, 0),
        lambda: selection.hard_prune(scores, ids, 0.1, budget, 0),
        lambda: selection.allocate(np.array([3]), budget),
    ):
        with pytest.raises(MethodError, match=f"budget of {budget} cannot be met"):
            draw()


def test_check_selection_says_what_is_wrong() -> None:
    samples = example_samples(5)
    selection.check_selection(Selection(samples.ids[:3]), samples, 3)
    wrong = [
        (samples.ids[:2], "chose 2 samples where the budget is 3"),
        (samples.ids[[0, 0, 1]], "twice"),
        (samples.ids[[1, 0, 2]], "increasing"),
        (np.array([0, 1, 2]), "no sample ids"),
        (samples.ids[:3].astype(np.int32), "int64"),
    ]
    for ids, message in wrong:
        with pytest.raises(MethodError, match=message):
            selection.check_selection(Selection(ids), samples, 3)
