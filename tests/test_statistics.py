"""The statistics of a family of rows: against scipy, against hand computation, and what must not change them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from prunebench.leaderboard.record import RecordError
from prunebench.leaderboard.resampling import Float64
from prunebench.leaderboard.statistics import (
    Comparison,
    RunValues,
    Statistics,
    analyse,
    gather,
    holm,
    paired_t,
    studentised,
)

NAMES = ("random", "a", "b", "c", "d", "e", "f")
RESAMPLES = 500


def runs_of(values: Float64, names: Sequence[str] = NAMES) -> list[RunValues]:
    """Runs from values [rows, seeds, users]; selection and fine-tuning seed are one."""
    return [
        RunValues(names[row], seed, seed, np.arange(values.shape[2]), values[row, seed])
        for row, seed in itertools.product(range(values.shape[0]), range(values.shape[1]))
    ]


def analysed(runs: Iterable[RunValues], **settings_: object) -> Statistics:
    return analyse(gather(runs), **({"resamples": RESAMPLES} | settings_))  # type: ignore[arg-type]


def table(rows: int, seeds: int, users: int = 40, seed: int = 0) -> Float64:
    rng = np.random.default_rng(seed)
    base = rng.normal(0.5, 0.2, (1, 1, users)) + rng.normal(0, 0.05, (rows, seeds, 1))
    return np.asarray(base + rng.normal(0, 0.1, (rows, seeds, users)))


def row_of(result: Statistics, name: str) -> Comparison:
    return next(one for one in result.to_reference if one.row == name)


def assert_same(one: Comparison, other: Comparison, shift: float = 1.0) -> None:
    """Equal but for rounding, the figures of ``other`` being ``shift`` times those of ``one``."""
    assert (one.row, one.against, one.seeds, one.by) == (other.row, other.against, other.seeds, other.by)
    assert (one.difference is None) == (other.difference is None)
    if one.difference is not None and other.difference is not None:
        assert other.difference == pytest.approx(shift * one.difference, abs=1e-12)
    if one.interval and other.interval:
        assert other.interval == pytest.approx([shift * end for end in one.interval], rel=1e-6, abs=1e-12)
    assert other.p == pytest.approx(one.p, abs=2 / RESAMPLES)


def test_fewer_than_six_seeds_give_the_paired_t_test_of_scipy() -> None:
    values = table(3, 3)
    result = analysed(runs_of(values))
    for at, name in ((1, "a"), (2, "b")):
        theirs = stats.ttest_rel(values[at].mean(axis=1), values[0].mean(axis=1))
        ours = row_of(result, name)
        assert ours.by == "t"
        assert ours.seeds == 3
        assert ours.p == pytest.approx(theirs.pvalue)
        assert ours.interval == pytest.approx(tuple(theirs.confidence_interval()))
        assert ours.se_users == pytest.approx(stats.sem((values[at] - values[0]).mean(axis=0)))


def test_six_seeds_give_the_bootstrap_and_a_wider_interval_where_users_differ() -> None:
    values = table(2, 6)
    values[1] += np.random.default_rng(1).normal(0, 1, 40)
    ours = row_of(analysed(runs_of(values)), "a")
    seeds_only = stats.ttest_rel(values[1].mean(axis=1), values[0].mean(axis=1)).confidence_interval()
    assert ours.by == "bootstrap"
    assert ours.interval is not None
    assert ours.interval[1] - ours.interval[0] > 2 * (seeds_only.high - seeds_only.low)
    assert sum(ours.interval) / 2 == pytest.approx(ours.difference)


def test_a_row_is_summed_up_over_seeds_with_the_users_apart() -> None:
    values = table(2, 3)
    row = analysed(runs_of(values)).rows[0]
    assert row.row == "a"
    assert row.mean == pytest.approx(values[1].mean())
    assert row.sd == pytest.approx(values[1].mean(axis=1).std(ddof=1))
    assert row.se_users == pytest.approx(stats.sem(values[1].mean(axis=0)))
    assert row.sd_finetune is None


@pytest.mark.parametrize("seeds", [3, 6])
def test_p_is_small_exactly_where_the_interval_leaves_out_zero(seeds: int) -> None:
    for seed in range(40):
        values = table(2, seeds, seed=seed)
        values[1] += 0.05
        one = row_of(analysed(runs_of(values), resamples=100), "a")
        assert one.p is not None
        assert one.interval is not None
        assert (one.p < 0.05) == (not one.interval[0] <= 0 <= one.interval[1])


def test_studentised_counts_and_orders_by_hand() -> None:
    deviations = np.arange(1.0, 20.0)
    assert studentised(0.4, 0.1, deviations) == ((0.4 - 19 * 0.1, 0.4 + 19 * 0.1), (1 + 16) / 20)
    assert studentised(0.0, 0.0, deviations) == ((0.0, 0.0), 1.0)
    assert studentised(0.4, 0.0, deviations) == ((0.4, 0.4), 1 / 20)
    assert studentised(0.4, 0.1, np.full(19, np.inf)) == (None, 1.0)


def test_the_t_interval_of_differences_that_do_not_vary() -> None:
    assert paired_t(np.zeros(3)) == ((0.0, 0.0), 1.0)
    assert paired_t(np.full(3, 0.25)) == ((0.25, 0.25), 0.0)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.01, 0.04], family=10) == pytest.approx([0.1, 0.36])
    assert holm([0.7, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0.0001, 1), min_size=1, max_size=8), st.floats(0.001, 0.5))
def test_holm_rejects_what_the_step_down_procedure_does(p: list[float], level: float) -> None:
    rejected = set()
    for step, at in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        if (len(p) - step) * p[at] >= level:
            break
        rejected.add(at)
    assert {at for at, value in enumerate(holm(p)) if value < level} == rejected


def test_the_families_of_the_reference_and_of_the_best_row() -> None:
    result = analysed(runs_of(table(4, 3)))
    assert [one.holm for one in result.to_reference] == holm([one.p for one in result.to_reference if one.p])
    assert [one.holm for one in result.to_best] == holm([one.p for one in result.to_best if one.p], family=6)


def test_the_best_row_is_complete_and_a_candidate() -> None:
    values = table(4, 3) + np.array([0, 1, 2, 3])[:, None, None]
    runs = runs_of(values)
    assert analysed(runs).best == "c"
    assert analysed(runs, candidates=["random", "a"]).best == "a"
    lacking = [run for run in runs if (run.row, run.selection) != ("c", 1)]
    result = analysed(lacking)
    assert result.best == "b"
    assert [one.row for one in result.to_best] == ["a", "c", "random"]
    assert {row.row: row.rank for row in result.rows} == {"a": (2, 2), "b": (1, 1), "c": None, "random": (3, 3)}


def test_of_equal_rows_the_first_by_name_is_best_and_all_may_have_any_place() -> None:
    result = analysed(runs_of(np.repeat(table(1, 3), 3, axis=0)))
    assert result.best == "a"
    assert [row.rank for row in result.rows] == [(1, 3)] * 3


@pytest.mark.parametrize("seeds", [3, 6])
def test_a_row_equal_to_the_reference_differs_by_nothing(seeds: int) -> None:
    one = row_of(analysed(runs_of(np.repeat(table(1, seeds), 2, axis=0))), "a")
    assert (one.difference, one.interval, one.p, one.holm, one.certain) == (0.0, (0.0, 0.0), 1.0, 1.0, False)


@pytest.mark.parametrize("seeds", [2, 6])
def test_values_that_never_vary_are_no_certainty_about_other_users(seeds: int) -> None:
    values = np.zeros((2, seeds, 5))
    values[1, :, 0] = 1
    one = row_of(analysed(runs_of(values)), "a")
    assert one.difference == pytest.approx(0.2)
    assert not one.certain


@pytest.mark.parametrize(("seeds", "by"), [(3, "t"), (6, "bootstrap")])
def test_one_user_tells_nothing_about_others(seeds: int, by: str) -> None:
    values = table(2, seeds, users=1)
    values[1] += 100
    one = row_of(analysed(runs_of(values)), "a")
    assert (one.by, one.se_users, one.certain) == (by, None, False)
    assert one.interval is not None
    assert one.interval[0] > 0


def test_one_seed_gives_a_difference_and_no_interval() -> None:
    result = analysed(runs_of(table(3, 1)))
    one = row_of(result, "a")
    assert one.difference is not None
    assert one.se_users is not None
    assert (one.seeds, one.by, one.interval, one.p, one.holm, one.certain) == (1, None, None, None, None, False)
    assert [(row.sd, row.rank) for row in result.rows] == [(None, None)] * 3


def test_rows_that_lack_seeds_are_paired_on_those_they_share() -> None:
    values = table(4, 4)
    kept = {"random": {0, 1, 2}, "a": {1, 2, 3}, "b": {3}, "c": {0, 1, 2, 3}}
    result = analysed(run for run in runs_of(values) if run.selection in kept[run.row])
    a, b, c = result.to_reference
    assert (a.seeds, b.seeds, c.seeds) == (2, 0, 3)
    assert a.difference == pytest.approx((values[1, 1:3] - values[0, 1:3]).mean())
    assert b == Comparison("b", "random", 0)
    assert (a.p, c.p) != (None, None)
    assert [one.holm for one in (a, c)] == holm([one.p for one in (a, c) if one.p is not None])
    assert [(row.row, row.seeds) for row in result.rows] == [("a", 3), ("b", 1), ("c", 4), ("random", 3)]


def test_a_missing_seed_leaves_the_pairs_with_six_others_as_they_are() -> None:
    values = table(3, 7)
    lacking = [run for run in runs_of(values) if (run.row, run.selection) != ("b", 6)]
    assert row_of(analysed(lacking), "b").seeds == 6
    assert row_of(analysed(lacking), "b").by == "bootstrap"
    assert row_of(analysed(lacking), "a").interval == row_of(analysed(runs_of(values)), "a").interval


def test_fine_tuning_seeds_count_within_their_selection() -> None:
    values = table(2, 6)
    crossed = [replace(run, selection=run.selection // 2, finetune=run.finetune % 2) for run in runs_of(values)]
    result = analysed(crossed)
    means = values.reshape(2, 3, 2, -1).mean(axis=(2, 3))
    one, row = row_of(result, "a"), result.rows[0]
    assert (one.seeds, one.by) == (3, "t")
    assert one.p == pytest.approx(stats.ttest_rel(means[1], means[0]).pvalue)
    assert row.sd == pytest.approx(means[1].std(ddof=1))
    assert row.sd_finetune == pytest.approx(math.sqrt(values[1].mean(axis=1).reshape(3, 2).var(axis=1, ddof=1).mean()))
    lacking = [run for run in crossed if (run.row, run.selection, run.finetune) != ("a", 2, 1)]
    assert row_of(analysed(lacking), "a").seeds == 2


def test_certain_needs_the_interval_the_family_and_under_t_the_users() -> None:
    sure = Comparison("a", "random", 3, 0.2, 0.05, "t", (0.1, 0.3), 0.001, 0.01)
    assert sure.certain
    assert not replace(sure, interval=(-0.1, 0.5)).certain
    assert not replace(sure, holm=0.06).certain
    assert not replace(sure, se_users=0.11).certain
    assert replace(sure, se_users=0.11, by="bootstrap").certain
    assert replace(sure, difference=-0.2, interval=(-0.3, -0.1)).certain


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 999), st.sampled_from([3, 6]))
def test_the_order_of_runs_and_users_changes_nothing(seed: int, seeds: int) -> None:
    rng = np.random.default_rng(seed)
    runs = runs_of(table(3, seeds, seed=seed).round(1))
    shuffled = []
    for at in rng.permutation(len(runs)):
        order = rng.permutation(len(runs[at].users))
        shuffled.append(replace(runs[at], users=runs[at].users[order], values=runs[at].values[order]))
    assert analysed(runs, resamples=100) == analysed(shuffled, resamples=100)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 999), st.sampled_from([3, 6]), st.floats(0.01, 100))
def test_a_shift_of_all_rows_and_a_scale_carry_through(seed: int, seeds: int, scale: float) -> None:
    values = table(3, seeds, seed=seed)
    shift = np.random.default_rng(seed).normal(0, 1, (1, seeds, values.shape[2]))
    plain = analysed(runs_of(values))
    for one, shifted, scaled in zip(
        plain.to_reference,
        analysed(runs_of(values + shift)).to_reference,
        analysed(runs_of(values * scale)).to_reference,
        strict=True,
    ):
        assert_same(one, shifted)
        assert_same(one, scaled, scale)
    assert [row.rank for row in analysed(runs_of(values * scale)).rows] == [row.rank for row in plain.rows]


def test_swapping_two_rows_turns_the_sign() -> None:
    values = table(2, 6)
    one = row_of(analysed(runs_of(values)), "a")
    other = analysed(runs_of(values), reference="a").to_reference[0]
    assert one.interval is not None
    assert other.interval == pytest.approx((-one.interval[1], -one.interval[0]))
    assert other.p == pytest.approx(one.p, abs=2 / RESAMPLES)


def test_the_seed_makes_the_draws() -> None:
    runs = runs_of(table(3, 6))
    assert analysed(runs, seed=1) == analysed(runs, seed=1)
    assert analysed(runs, seed=1) != analysed(runs, seed=2)


def test_without_a_reference_there_are_only_comparisons_to_the_best() -> None:
    result = analysed(runs_of(table(3, 3)), reference=None)
    assert (result.reference, result.to_reference, len(result.to_best)) == (None, (), 2)
    lone = analysed(runs_of(table(1, 3)))
    assert (lone.to_reference, lone.to_best, lone.rows[0].rank) == ((), (), None)


GOOD = RunValues("a", 0, 0, np.arange(3), np.zeros(3))


@pytest.mark.parametrize(
    ("runs", "line"),
    [
        ([], "no runs"),
        ([replace(GOOD, users=np.arange(0), values=np.zeros(0))], "0 values for 0 users"),
        ([replace(GOOD, values=np.zeros(2))], "2 values for 3 users"),
        ([replace(GOOD, users=np.array([0, 1, 1]))], "other users"),
        ([GOOD, replace(GOOD, selection=1, users=np.array([0, 1, 3]))], "selection seed 1.* other users"),
        ([replace(GOOD, values=np.array([0, np.nan, 1]))], "no finite value for user 1"),
        ([replace(GOOD, values=np.array([0, 0, np.inf]))], "no finite value for user 2"),
        ([GOOD, GOOD], "a with selection seed 0 and fine-tuning seed 0 is there twice"),
    ],
)
def test_runs_that_cannot_be_compared_are_named(runs: list[RunValues], line: str) -> None:
    with pytest.raises(RecordError, match=line):
        gather(runs)


def test_unknown_rows_and_too_few_resamples_are_refused() -> None:
    with pytest.raises(RecordError, match=r"no run of nobody.* only of a, random"):
        analysed(runs_of(table(2, 3)), reference="nobody")
    with pytest.raises(RecordError, match="no run of x"):
        analysed(runs_of(table(2, 3)), candidates=["x"])
    with pytest.raises(RecordError, match="20 resamples are too few"):
        analysed(runs_of(table(2, 3)), resamples=20)
