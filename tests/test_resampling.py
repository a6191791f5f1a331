"""Redrawn users and seeds against closed forms, against tables spelled out, and against scipy's bootstrap."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from prunebench.leaderboard.resampling import (
    Float64,
    Int64,
    Pair,
    crossed_variance,
    places,
    redraw,
    seed_weights,
    standard_error,
    unit_means,
    user_counts,
    widening,
)


def plain(seeds: int) -> list[Int64]:
    """One cell per selection seed."""
    return [np.array([at]) for at in range(seeds)]


def two_way(table: Float64) -> float:
    """Variance of a table's mean from its mean squares, entry by entry."""
    n, m = table.shape
    grand, rows, columns = table.mean(), table.mean(axis=1), table.mean(axis=0)
    rest = sum((table[s, u] - rows[s] - columns[u] + grand) ** 2 for s in range(n) for u in range(m))
    noise = rest / ((n - 1) * (m - 1))
    of_seeds = m * sum((row - grand) ** 2 for row in rows) / (n - 1)
    of_users = n * sum((column - grand) ** 2 for column in columns) / (m - 1)
    return float((max(of_seeds, noise) + max(of_users, noise) - noise) / (n * m))


@given(st.integers(2, 7), st.integers(2, 9), st.integers(0, 99))
def test_the_standard_error_is_that_of_the_two_way_layout(seeds: int, users: int, seed: int) -> None:
    table = np.random.default_rng(seed).normal(3, 1, (seeds, users))
    assert standard_error(table) == pytest.approx(math.sqrt(two_way(table)))


def test_the_standard_error_is_right_on_average() -> None:
    rng = np.random.default_rng(0)
    seeds, users, (a, b, c) = 6, 50, (0.3, 1.0, 1.0)
    tables = [
        a * rng.standard_normal((seeds, 1)) + b * rng.standard_normal((1, users)) + c * rng.standard_normal((seeds, users))
        for _ in range(1000)
    ]  # fmt: skip
    theory = a**2 / seeds + b**2 / users + c**2 / (seeds * users)
    assert np.mean([standard_error(table) ** 2 for table in tables]) == pytest.approx(theory, rel=0.06)
    assert np.var([table.mean() for table in tables]) == pytest.approx(theory, rel=0.15)


def test_one_seed_or_one_user_leaves_the_variance_of_the_other() -> None:
    values = np.random.default_rng(0).random(40)
    for table in (values[None], values[:, None]):
        assert standard_error(table) == pytest.approx(stats.sem(values))


@pytest.mark.parametrize("value", [0.0, 0.1, 0.3, 0.7, 1e-9, 123.456])
def test_a_table_that_never_varies_has_no_error(value: float) -> None:
    assert standard_error(np.full((6, 49), value)) == 0


def test_crossed_variance_works_on_arrays_of_any_shape() -> None:
    figures = np.random.default_rng(0).random((4, 3, 5)) * 0.1 + np.array([0.0, 1.0, 1.0, 2.0])[:, None, None]
    both = crossed_variance(*figures, seeds=4, users=9)
    assert both[2, 3] == crossed_variance(*figures[:, 2, 3], seeds=4, users=9)


def test_users_are_counted_as_a_multinomial_draw() -> None:
    n, resamples = 30, 20_000
    counts = user_counts(np.random.default_rng(0), np.arange(n), resamples)
    assert (counts.sum(axis=1) == n).all()
    assert counts.mean(axis=0) == pytest.approx(np.ones(n), abs=0.04)
    covariance = np.cov(counts.T)
    assert np.diag(covariance) == pytest.approx(np.full(n, 1 - 1 / n), abs=0.06)
    assert covariance[0, 1:].mean() == pytest.approx(-1 / n, abs=0.01)


def test_grouped_users_are_drawn_as_single_ones() -> None:
    group = np.array([2, 0, 0, 1, 2, 2, 0])
    single = user_counts(np.random.default_rng(1), np.arange(7), 50)
    grouped = user_counts(np.random.default_rng(1), group, 50)
    assert (grouped == single @ np.eye(3)[group]).all()


def test_a_drawn_selection_weighs_its_own_cells_only() -> None:
    sizes = (3, 1, 2)
    weights = seed_weights(np.random.default_rng(0), sizes, 4000)
    owner = np.repeat(np.arange(3), sizes)
    per_selection = weights @ np.eye(3)[owner]
    assert weights.shape == (4000, 3, 6)
    assert per_selection.max(axis=2) == pytest.approx(np.ones((4000, 3)))
    assert per_selection.sum(axis=2) == pytest.approx(np.ones((4000, 3)))
    assert set(np.unique((weights[..., :3] * 3).round(9))) == {0, 1, 2, 3}
    assert set(np.unique((weights[..., 4:] * 2).round(9))) == {0, 1, 2}
    assert weights.mean(axis=(0, 1)) == pytest.approx(np.repeat(1 / (3 * np.array(sizes)), sizes), abs=0.01)


def test_fine_tuning_seeds_are_drawn_within_the_selections() -> None:
    cells = np.random.default_rng(0).normal(0, 1, (4, 3)) + np.random.default_rng(1).normal(0, 1, (4, 1))
    drawn = seed_weights(np.random.default_rng(2), [3] * 4, 40_000).mean(axis=1) @ cells.ravel()
    theory = cells.mean(axis=1).var() / 4 + cells.var(axis=1).mean() / 12
    assert drawn.mean() == pytest.approx(cells.mean(), abs=0.01)
    assert drawn.var() == pytest.approx(theory, rel=0.04)


def test_users_are_crossed_with_seeds() -> None:
    rng = np.random.default_rng(0)
    seeds, users, resamples = 6, 60, 20_000
    table = (
        rng.standard_normal((1, users)) + 0.1 * rng.standard_normal((seeds, 1)) + rng.standard_normal((seeds, users))
    )
    of_users, of_seeds = table.mean(axis=0).var() / users, table.mean(axis=1).var() / seeds
    rest = (table - table.mean(axis=0) - table.mean(axis=1)[:, None] + table.mean()).var() / (seeds * users)

    means, _ = redraw(table[None], [0], plain(seeds), [], resamples, seed=0)
    theory = of_users + widening(seeds) ** 2 * (of_seeds + rest)
    assert means.var() == pytest.approx(theory, rel=0.04)

    nested = np.zeros(resamples)
    for _ in range(seeds):
        values = table[rng.integers(seeds, size=resamples)]
        nested += np.take_along_axis(values, rng.integers(users, size=(resamples, users)), axis=1).mean(axis=1) / seeds
    assert nested.var() == pytest.approx(of_seeds + of_users / seeds + rest, rel=0.04)


def test_the_widened_spread_of_redrawn_seeds_is_that_of_a_t_interval() -> None:
    assert widening(1) == 1
    assert widening(6) == pytest.approx(math.sqrt(6 / 5) * 2.5706 / 1.95996, abs=1e-4)
    values = np.random.default_rng(3).normal(0, 1, (1, 40, 1))
    means, _ = redraw(values, [0], plain(40), [], 20_000, seed=0)
    low, high = np.quantile(means, [0.025, 0.975])
    interval = stats.ttest_1samp(values.ravel(), 0).confidence_interval()
    assert (low, high) == pytest.approx((interval.low, interval.high), abs=0.03)


@pytest.mark.parametrize("factor", ["users", "seeds"])
def test_one_factor_alone_is_scipys_bootstrap(factor: str) -> None:
    values = np.random.default_rng(0).gamma(0.5, 1, 50)
    table, n = (values[None], 1) if factor == "users" else (values[:, None], len(values))
    means, _ = redraw(table[None], [0], plain(n), [], 20_000, seed=0)
    ours = values.mean() + (means - values.mean()) / widening(n)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1))
    assert ours.std(ddof=1) == pytest.approx(theirs.standard_error, rel=0.03)
    assert np.quantile(ours, [0.025, 0.975]) == pytest.approx(list(theirs.confidence_interval), rel=0.03)


@pytest.mark.parametrize("finetunes", [1, 3])
def test_a_deviation_is_that_of_the_resampled_table_spelled_out(finetunes: int) -> None:
    rng = np.random.default_rng(5)
    seeds, users, resamples = 6, 20, 40
    values = rng.normal(0, 1, (2, seeds * finetunes, users)) + rng.normal(0, 1, (2, seeds * finetunes, 1))
    selections = [np.arange(at, at + finetunes) for at in range(0, seeds * finetunes, finetunes)]
    pair = Pair(0, 1, selections)
    _, (deviations,) = redraw(values, [], selections, [pair], resamples, seed=7)

    difference = values[0] - values[1]
    _, group = np.unique(values.reshape(-1, users).T, axis=0, return_inverse=True)
    counts = user_counts(np.random.default_rng([7, 0]), group.ravel(), resamples)[:, group.ravel()].astype(int)
    weights = seed_weights(np.random.default_rng([7, 1]), [finetunes] * seeds, resamples)
    for at in range(resamples):
        table = np.repeat(weights[at] @ difference, counts[at], axis=1)
        expected = abs(table.mean() - pair.units(values).mean()) / math.sqrt(two_way(table))
        assert deviations[at] == pytest.approx(expected)


def test_other_rows_change_nothing() -> None:
    rng = np.random.default_rng(0)
    few = rng.random((2, 6, 30)).round(1)
    many = np.concatenate([few, rng.random((3, 6, 30))])
    pair = Pair(0, 1, plain(6))
    alone = redraw(few, [0, 1], plain(6), [pair], 200, seed=3)
    among = redraw(many, [0, 1], plain(6), [pair], 200, seed=3)
    assert alone[0] == pytest.approx(among[0], rel=1e-12)
    assert alone[1][0] == pytest.approx(among[1][0], rel=1e-9)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).random((2, 6, 30))
    pairs = [Pair(0, 1, plain(6))]
    whole = redraw(values, [0, 1], plain(6), pairs, 101, seed=3)
    monkeypatch.setattr("prunebench.leaderboard.resampling._BLOCK", 200)
    parts = redraw(values, [0, 1], plain(6), pairs, 101, seed=3)
    assert whole[0] == pytest.approx(parts[0], rel=1e-12)
    assert whole[1][0] == pytest.approx(parts[1][0], rel=1e-9)


def test_a_resample_without_spread_is_infinitely_far() -> None:
    values = np.zeros((2, 6, 4))
    values[0, :, 0] = 1
    _, (deviations,) = redraw(values, [], plain(6), [Pair(0, 1, plain(6))], 2000, seed=0)
    assert np.isinf(deviations).mean() == pytest.approx(0.75**4, abs=0.03)


def test_places_of_rows_far_apart_are_exact_and_of_equal_rows_open() -> None:
    draws = np.random.default_rng(0).normal([3.0, 1.0, 2.0, -5.0], 0.01, (500, 4))
    assert places(draws) == [(1, 1), (3, 3), (2, 2), (4, 4)]
    assert places(np.repeat(draws[:, :1], 3, axis=1)) == [(1, 3)] * 3
    assert places(np.zeros((500, 2))) == [(1, 2)] * 2
    assert places(draws[:, :1] * [1, 1 + 1e-15]) == [(1, 2)] * 2
    swapping = np.array([[0.0, 1.0]] * 490 + [[1.0, 0.0]] * 10)
    assert places(swapping) == [(2, 2), (1, 1)]


def test_unit_means_average_within_a_selection() -> None:
    values = np.array([[1.0, 2.0], [3.0, 4.0], [10.0, 20.0]])
    assert unit_means(values, [np.array([0, 1]), np.array([2])]).tolist() == [[2.0, 3.0], [10.0, 20.0]]
