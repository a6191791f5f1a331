"""GORACS and its transport against linear programming, full evaluation and enumeration."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import linprog

from prunebench.datasets.schema import Samples
from prunebench.methods import transport
from prunebench.methods.base import Evidence, MethodError, PruningMethod
from prunebench.methods.goracs import GORACS
from prunebench.methods.selection import priorities
from prunebench.methods.testing import check_method, example_samples, fake_signal
from prunebench.methods.transport import cost_matrix, cover, refine, solve
from prunebench.recommenders.runtime import Cancelled, Runtime


def goracs(**settings: Any) -> GORACS:
    return GORACS(GORACS.Config(**settings))


def evidence_of(method: GORACS, samples: Samples) -> Evidence:
    signals = {name: fake_signal(request, samples) for name, request in method.requests().items()}
    return method.prepare(samples, signals, Runtime())


def costs(n: int, m: int, seed: int, levels: int = 0) -> NDArray[np.float32]:
    """Random costs in [0, 1], of few ``levels`` where ties are wanted."""
    values = np.random.default_rng(seed).random((n, m))
    return (np.round(values * levels) / levels if levels else values).astype(np.float32)


def ranks(n: int, seed: int = 0) -> NDArray[np.uint64]:
    return priorities(np.arange(n), seed)


def linear_program(table: NDArray) -> float:
    k, m = table.shape
    marginals = np.vstack([np.kron(np.eye(k), np.ones(m)), np.kron(np.ones(k), np.eye(m))])
    masses = np.concatenate([np.full(k, 1 / k), np.full(m, 1 / m)])
    return float(linprog(table.ravel(), A_eq=marginals, b_eq=masses, bounds=(0, None)).fun)


def full_greedy(cost: NDArray, budget: int, priority: NDArray) -> list[int]:
    """The covering with every gain computed anew at every step."""
    sums, chosen = cost.sum(axis=1).astype(float), list[int]()
    while len(chosen) < budget:
        free = [i for i in range(len(cost)) if i not in chosen]
        found = [min(free, key=lambda i: (sums[i], priority[i]))]
        while True:
            holders = {found[j] for j in cost[found].argmin(axis=0)}
            if len(holders) == budget - len(chosen):
                break
            nearest, left = cost[found].min(axis=0), [i for i in free if i not in found]
            gains = {i: np.maximum(nearest - cost[i], 0).sum() for i in left}
            best = min(left, key=lambda i: (-gains[i], sums[i], priority[i]), default=None)
            if best is None or gains[best] == 0:
                break
            found.append(best)
        chosen += [i for i in found if i in holders]
    return chosen


def test_goracs_keeps_the_contract() -> None:
    for config in ({}, {"lambda": 0}, {"lambda": 5.0, "candidates": 1}, {"exchanges": 0, "text": "backbone"}):
        check_method(GORACS, config)
    assert isinstance(goracs(), PruningMethod)


def test_only_a_positive_lambda_asks_for_the_llm() -> None:
    assert set(goracs(lam=0).requests()) == {"vectors", "validation"}
    assert set(goracs().requests()) == {"vectors", "validation", "effort"}
    assert {request.config["source"] for request in goracs(lam=0, text="backbone").requests().values()} == {"backbone"}


def test_the_cost_is_the_papers_definition() -> None:
    """One pair at a time."""
    rng = np.random.default_rng(0)
    z, v, g = rng.normal(size=(70, 5)).astype(np.float32), rng.normal(size=(9, 5)).astype(np.float32), rng.random(70)
    distance = np.array([[np.linalg.norm(a.astype(float) - b) for b in v] for a in z])
    expected = distance / distance.max() - 0.4 * (g / g.max())[:, None]
    expected = (expected - expected.min()) / (expected.max() - expected.min())
    np.testing.assert_allclose(cost_matrix(z, v, g, 0.4, Runtime()), expected, atol=1e-6)


@pytest.mark.parametrize("effort", [None, np.zeros(3), np.ones(3)])
def test_equal_vectors_cost_nothing(effort: NDArray | None) -> None:
    vectors = np.tile(np.random.default_rng(1).normal(size=6).astype(np.float32), (5, 1))
    assert not cost_matrix(vectors[:3], vectors, effort, 1.0, Runtime()).any()


@pytest.mark.parametrize(("k", "m"), [(1, 1), (1, 7), (5, 1), (4, 4), (3, 8), (9, 6), (12, 5)])
@pytest.mark.parametrize("levels", [0, 3])
def test_the_transport_is_the_linear_programs(k: int, m: int, levels: int) -> None:
    table = costs(k, m, 10 * k + m, levels).astype(float)
    plan = solve(table)
    assert plan.value == pytest.approx(linear_program(table), abs=1e-9)
    slack = table - plan.rows[:, None] - plan.columns
    assert slack.min() > -1e-12
    assert plan.rows.mean() + plan.columns.mean() == pytest.approx(plan.value, abs=1e-10)
    # From any prices, good or bad, the optimum is the same.
    for start in ((plan.rows, plan.columns), (np.random.default_rng(0).normal(size=k), np.zeros(m))):
        assert solve(table, start).value == pytest.approx(plan.value, abs=1e-10)


def test_a_transport_without_proof_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(supply: NDArray, demand: NDArray, table: NDArray, **options: Any) -> tuple[None, dict[str, Any]]:
        return None, {"cost": table.sum(), "u": np.zeros(len(supply)), "v": np.zeros(len(demand))}

    monkeypatch.setattr(transport.ot, "emd", stopped)
    with pytest.raises(MethodError, match="duality gap"):
        solve(costs(3, 4, 0).astype(float))


@settings(max_examples=80, deadline=None)
@given(
    n=st.integers(1, 30),
    m=st.integers(1, 12),
    seed=st.integers(0, 999),
    levels=st.sampled_from([0, 1, 2, 5]),
    share=st.floats(0, 1),
)
def test_the_lazy_greedy_is_the_full_one(n: int, m: int, seed: int, levels: int, share: float) -> None:
    """Ties, saturation and repeated coverings included."""
    cost, budget = costs(n, m, seed, levels), round(share * n)
    if seed % 3 == 0:
        cost = cost[np.random.default_rng(seed).integers(0, n, n)]
    found = cover(cost, budget, ranks(n, seed), Runtime()).tolist()
    assert found == full_greedy(cost, budget, ranks(n, seed))
    assert len(set(found)) == budget


def test_the_lazy_greedy_is_the_full_one_at_some_size() -> None:
    """More rows than are looked at together, clustered, so that stale gains matter."""
    rng = np.random.default_rng(2)
    z = rng.normal(size=(8, 6))[rng.integers(0, 8, 400)] + 0.2 * rng.normal(size=(400, 6))
    v = rng.normal(size=(8, 6))[rng.integers(0, 8, 150)] + 0.2 * rng.normal(size=(150, 6))
    cost = cost_matrix(z, v, rng.random(400), 0.2, Runtime())
    assert cover(cost, 60, ranks(400), Runtime()).tolist() == full_greedy(cost, 60, ranks(400))


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(3, 40),
    m=st.integers(1, 25),
    k=st.integers(1, 12),
    seed=st.integers(0, 999),
    levels=st.sampled_from([0, 2]),
)
def test_every_swap_lowers_the_exact_transport(n: int, m: int, k: int, seed: int, levels: int) -> None:
    cost, k = costs(n, m, seed, levels), min(k, n)
    start = np.random.default_rng(seed).permutation(n)[:k]
    refined = refine(cost, start, 10, 4, 6, ranks(n), Runtime())
    assert len(np.unique(refined.chosen)) == k
    assert (np.diff(refined.values) < 0).all()
    assert refined.values[0] == pytest.approx(solve(cost[start].astype(float)).value, abs=1e-10)
    assert refined.values[-1] == pytest.approx(solve(cost[refined.chosen].astype(float)).value, abs=1e-10)
    assert len(refined.values) <= refined.solved <= 1 + 6 * 11


def test_bounds_of_swaps_are_bounds() -> None:
    """No swap left out by its bound improves."""
    for seed in range(6):
        cost = costs(12, 9, seed)
        chosen, outside = np.arange(4), np.arange(4, 12)
        table = cost[chosen].astype(float)
        plan = solve(table)
        exact = {
            (slot, row): solve(cost[[*np.delete(chosen, slot), outside[row]]].astype(float)).value
            for slot in range(4)
            for row in range(8)
        }
        promising = transport._swaps(table, plan, cost[outside].astype(float), 99, ranks(4), Runtime())
        assert {pair for pair, value in exact.items() if value < plan.value - 1e-9} <= {s[:2] for s in promising}


def test_a_rows_price_maximises_its_dual() -> None:
    rng = np.random.default_rng(3)
    for m, k in ((7, 3), (12, 4), (3, 8), (5, 5)):
        reduced = rng.normal(size=(20, m))
        price, gained = transport._best_price(reduced.copy(), k)
        grid = [y / k + np.minimum(reduced - y, 0).mean(axis=1) for y in np.sort(reduced.ravel())]
        np.testing.assert_allclose(gained, np.max(grid, axis=0), atol=1e-12)
        np.testing.assert_allclose(price / k + np.minimum(reduced - price[:, None], 0).mean(axis=1), gained, atol=1e-12)


def test_near_the_best_of_all_subsets() -> None:
    """Greedy start and swaps against enumeration: mostly the best subset, never far from it."""
    ratios = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        n, m, k = int(rng.integers(4, 10)), int(rng.integers(1, 9)), int(rng.integers(1, 5))
        cost = cost_matrix(rng.normal(size=(n, 3)), rng.normal(size=(m, 3)), rng.random(n), 0.3, Runtime())
        best = min(solve(cost[list(rows)].astype(float)).value for rows in combinations(range(n), min(k, n)))
        refined = refine(cost, cover(cost, min(k, n), ranks(n), Runtime()), 100, 30, 900, ranks(n), Runtime())
        ratios.append((refined.values[-1] + 1e-9) / (best + 1e-9))
    assert max(ratios) < 1.1
    assert np.mean(np.array(ratios) < 1 + 1e-6) > 0.8


def test_one_validation_user_gets_the_nearest_samples() -> None:
    samples, method = example_samples(50), goracs(lam=0, exchanges=0)
    evidence = evidence_of(method, samples)
    evidence["validation"] = evidence["validation"][:1]
    distance = np.linalg.norm(evidence["vectors"] - evidence["validation"], axis=1)
    chosen = method.select(samples, evidence, 12, Runtime())
    np.testing.assert_array_equal(chosen.ids, np.sort(samples.ids[np.argsort(distance)[:12]]))


@pytest.mark.parametrize("budget", [0, 1, 19, 20, 21, 40, 59, 60])
def test_degenerate_signals(budget: int) -> None:
    """Equal vectors, equal or zero efforts, fewer validation users than samples wanted."""
    samples, method = example_samples(60), goracs(exchanges=3)
    for change in ({"vectors": 0.5}, {"vectors": 0.0, "validation": 0.0}, {"effort": 0.0}, {"effort": 2.0}):
        evidence = evidence_of(method, samples)
        for name, value in change.items():
            evidence[name][:] = value
        chosen = method.select(samples, evidence, budget, Runtime(seed=2))
        assert len(np.unique(chosen.ids)) == budget
        assert np.isin(chosen.ids, samples.ids).all()


def test_equal_samples_are_drawn_by_the_seed() -> None:
    samples, method = example_samples(60), goracs(lam=0)
    evidence = evidence_of(method, samples)
    evidence["vectors"][:] = evidence["validation"][:] = 1.0
    first, again, other = (method.select(samples, evidence, 10, Runtime(seed=seed)).ids for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("vectors", np.nan, "text vector of sample 3 is not finite"),
        ("effort", np.inf, "effort of sample 3 is not finite"),
        ("effort", -1.0, "effort of sample 3 is negative"),
        ("validation", np.nan, "validation user"),
    ],
)
def test_bad_signals_are_named(name: str, value: float, match: str) -> None:
    samples, method = example_samples(20), goracs()
    evidence = evidence_of(method, samples)
    evidence[name][0] = value
    with pytest.raises(MethodError, match=match.replace("3", str(samples.ids[0]))):
        method.select(samples, evidence, 5, Runtime())


def test_no_validation_users_and_other_widths() -> None:
    samples, method = example_samples(20), goracs()
    evidence = evidence_of(method, samples)
    with pytest.raises(MethodError, match="needs validation users"):
        method.select(samples, evidence | {"validation": np.empty((0, 8), np.float32)}, 5, Runtime())
    with pytest.raises(MethodError, match="differ in width"):
        method.select(samples, evidence | {"validation": np.ones((4, 3), np.float32)}, 5, Runtime())


@pytest.mark.parametrize("polls", [0, 3, 6, 40])
def test_it_can_be_stopped(polls: int) -> None:
    asked = iter(range(10_000))
    samples, method = example_samples(60), goracs()
    with pytest.raises(Cancelled):
        method.select(samples, evidence_of(method, samples), 15, Runtime(cancelled=lambda: next(asked) >= polls))
