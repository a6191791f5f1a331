"""TF-DCon, RecRanker, k-center, herding and Moderate: against plain definitions, budgets, orders, degenerate data."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from prunebench.datasets.schema import RecDataset, Samples, Sequences
from prunebench.methods import recranker, selection
from prunebench.methods.base import Evidence, MethodError
from prunebench.methods.clustering import kmeans
from prunebench.methods.herding import Herding
from prunebench.methods.k_center import KCenter
from prunebench.methods.moderate import Moderate
from prunebench.methods.recranker import RecRanker
from prunebench.methods.testing import check_method, example_samples, fake_signal
from prunebench.methods.tf_dcon import TFDCon
from prunebench.methods.vectors import VectorMethod
from prunebench.recommenders.runtime import Runtime

METHODS: tuple[type[VectorMethod], ...] = (TFDCon, RecRanker, KCenter, Herding, Moderate)
NESTED: tuple[type[VectorMethod], ...] = (KCenter, Herding, Moderate)


def made(method: type[VectorMethod], samples: Samples, **config: Any) -> tuple[VectorMethod, Evidence]:
    built = method(method.Config(**config))
    signals = {name: fake_signal(request, samples) for name, request in built.requests().items()}
    return built, built.prepare(samples, signals, Runtime())


def of_lengths(lengths: list[int]) -> Samples:
    """One sample per given number of training interactions."""
    rows = Sequences.from_flat(np.zeros(sum(lengths)), np.array(lengths))
    nobody = Sequences.empty(len(lengths))
    return RecDataset("lengths", ("a",), rows, nobody, nobody).samples()


@pytest.mark.parametrize("method", METHODS)
def test_the_contract_is_kept(method: type[VectorMethod]) -> None:
    check_method(method)
    check_method(method, {"signal": "backbone"}, n=2, budgets=(0, 1, 2))
    check_method(method, n=1, budgets=(0, 1))
    check_method(method, n=40, budgets=(2, 13, 39))


@pytest.mark.parametrize(
    "config", [{"alpha": 0}, {"alpha": 3.0, "text": "backbone"}, {"clusters": 7}, {"clusters": 99}]
)
def test_tf_dcons_settings_keep_the_contract(config: dict[str, Any]) -> None:
    check_method(TFDCon, config)


@pytest.mark.parametrize("config", [{"share": 1.0, "penalty": 0.2}, {"share": 0.01}, {"clusters": 1}, {"clusters": 99}])
def test_recrankers_settings_keep_the_contract(config: dict[str, Any]) -> None:
    check_method(RecRanker, config)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("values", [1, 2, 5])
def test_repeated_vectors_meet_every_budget(method: type[VectorMethod], values: int) -> None:
    samples = example_samples(30)
    built, evidence = made(method, samples)
    for name in evidence:
        evidence[name] = np.floor(evidence[name] * values)
    for budget in (0, 1, 7, 29, 30):
        selection.check_selection(built.select(samples, evidence, budget, Runtime()), samples, budget)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(METHODS), st.integers(1, 50), st.data())
def test_budgets_are_met_and_seeds_repeat(method: type[VectorMethod], n: int, data: st.DataObject) -> None:
    budget, seed = data.draw(st.integers(0, n)), data.draw(st.integers(0, 5))
    samples = example_samples(n, seed)
    built, evidence = made(method, samples)
    chosen = built.select(samples, evidence, budget, Runtime(seed))
    selection.check_selection(chosen, samples, budget)
    assert np.array_equal(chosen.ids, built.select(samples, evidence, budget, Runtime(seed)).ids)
    if method in NESTED:
        smaller = built.select(samples, evidence, budget // 2, Runtime(seed))
        assert np.isin(smaller.ids, chosen.ids).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_budget_beyond_the_samples_is_one_clear_line(method: type[VectorMethod]) -> None:
    samples = example_samples(5)
    built, evidence = made(method, samples)
    with pytest.raises(MethodError, match="budget of 6 cannot be met from 5"):
        built.select(samples, evidence, 6, Runtime())


@pytest.mark.parametrize("method", METHODS)
def test_a_vector_that_is_not_finite_is_named(method: type[VectorMethod]) -> None:
    samples = example_samples(9)
    built, evidence = made(method, samples)
    evidence["user_vectors"][3, 0] = np.inf
    with pytest.raises(MethodError, match=f"vectors of sample {samples.ids[3]} are not finite"):
        built.select(samples, evidence, 2, Runtime())
    for name in evidence:
        broken = {**evidence, "user_vectors": np.ones((9, 2)), name: np.full((9, 2), np.nan)}
        with pytest.raises(MethodError, match=f"{name} of sample {samples.ids[0]} are not finite"):
            built.prepare(samples, broken, Runtime())
    with pytest.raises(MethodError, match=r"user_vectors of shape \(8, 2\) for 9 samples"):
        built.prepare(samples, {**evidence, "user_vectors": np.ones((8, 2))}, Runtime())


def test_text_is_asked_for_only_where_it_counts() -> None:
    assert set(TFDCon(TFDCon.Config(alpha=0)).requests()) == {"user_vectors"}
    wanted = TFDCon(TFDCon.Config(signal="backbone", text="backbone")).requests()
    assert {name: request.config["source"] for name, request in wanted.items()} == {
        "user_vectors": "backbone",
        "user_text_vectors": "backbone",
    }
    with pytest.raises(ValidationError):
        TFDCon.Config(alpha=float("inf"))


def test_tf_dcon_takes_the_most_central_of_each_cluster() -> None:
    """Each cluster on its own, as the authors' script does it: distances, α, and as many of each."""
    samples = example_samples(120)
    built, evidence = made(TFDCon, samples, alpha=0.7, clusters=8)
    users, texts = (evidence[name].astype(float) for name in ("user_vectors", "user_text_vectors"))
    labels = kmeans(evidence["user_vectors"], samples.ids, 8, Runtime().derive("tf_dcon clusters")).labels
    chosen = []
    for cluster in range(8):
        members = np.flatnonzero(labels == cluster)
        assert len(members) >= 3
        score = [
            np.linalg.norm(users[i] - users[members].mean(axis=0))
            + 0.7 * np.linalg.norm(texts[i] - texts[members].mean(axis=0))
            for i in members
        ]
        chosen += samples.ids[members[np.argsort(score)[:3]]].tolist()
    found = built.select(samples, evidence, 24, Runtime())
    assert found.ids.tolist() == sorted(chosen)
    assert found.notes == {"clusters": 8, "empty_clusters": 0}


def test_tf_dcon_takes_one_user_of_each_cluster_and_hands_on_empty_shares() -> None:
    samples = example_samples(40)
    built, evidence = made(TFDCon, samples, alpha=0)
    for budget in (5, 12):
        labels = kmeans(evidence["user_vectors"], samples.ids, budget, Runtime().derive("tf_dcon clusters")).labels
        kept = built.select(samples, evidence, budget, Runtime()).ids
        assert sorted(labels[samples.positions(kept)]) == list(range(budget))
    three = np.arange(40) % 8 // 3
    evidence["user_vectors"] = np.repeat(three[:, None], 2, axis=1).astype(np.float32)
    found = built.select(samples, evidence, 9, Runtime())
    assert np.bincount(three[samples.positions(found.ids)]).tolist() == [3, 3, 3]
    assert found.notes["empty_clusters"] == 6


def test_recranker_is_two_draws_joined() -> None:
    """One user at a time: both draws, how often each user came, the final draw."""
    samples, runtime = example_samples(200), Runtime(seed=2)
    built, evidence = made(RecRanker, samples)
    ids, seed = samples.ids, {name: runtime.derive("recranker", name) for name in ("importance", "members", "final")}
    labels = kmeans(evidence["user_vectors"], ids, 10, runtime.derive("recranker", "clusters")).labels
    for budget, each in ((50, 30), (51, 30), (150, None)):
        found = built.select(samples, evidence, budget, runtime)
        drawn = int(found.notes["drawn_each"])
        assert each in (None, drawn)
        active = selection.weighted(np.log(samples.histories.lengths + 1), ids, drawn, seed["importance"])
        hashes = selection.priorities(ids, seed["members"])
        waiting = {c: sorted(np.flatnonzero(labels == c), key=lambda i: hashes[i]) for c in range(10)}
        size, spread = {c: len(members) for c, members in waiting.items()}, list[int]()
        while len(spread) < drawn:
            left = [c for c in waiting if waiting[c]]
            turn = min(left, key=lambda c: ((size[c] - len(waiting[c]) + 0.5) / size[c], hashes[waiting[c][0]]))
            spread.append(int(waiting[turn].pop(0)))
        times = Counter([*active.tolist(), *spread])
        users = np.array(sorted(times))
        weights = np.array([0.95 ** (times[user] - 1) for user in users])
        kept = users[selection.weighted(weights, ids[users], budget, seed["final"])]
        assert found.ids.tolist() == sorted(ids[kept].tolist())
        assert found.notes["drawn_twice"] == 2 * drawn - len(users)
        if each is None:
            assert len(users) == budget, "both draws grew just as far as needed"


def test_recranker_draws_in_proportion_to_cluster_size() -> None:
    """With interactions that weigh nothing only the draw by clusters is left; its shares are those of the sizes."""
    samples = of_lengths([2] * 100)
    silent = Samples(samples.dataset, samples.ids, Sequences.empty(100), samples.targets)
    built = RecRanker(RecRanker.Config(clusters=3, penalty=1.0))
    place = np.repeat([0, 1, 2], [70, 20, 10])
    evidence = {"user_vectors": place[:, None].astype(np.float32)}
    found = built.select(silent, evidence, 50, Runtime())
    assert np.bincount(place[silent.positions(found.ids)]).tolist() == [35, 10, 5]
    assert found.notes["drawn_each"] == 50
    assert found.notes["drawn_twice"] == 0


def test_recranker_favours_the_active() -> None:
    samples = of_lengths([2] * 300 + [60] * 100)
    built, evidence = made(RecRanker, samples)
    kept = [(built.select(samples, evidence, 40, Runtime(seed)).ids >= 300).mean() for seed in range(20)]
    # ln 60 / ln 2 = 5.9: two thirds of one draw, and a quarter of the other.
    assert 0.35 < np.mean(kept) < 0.55


def test_recranker_penalises_who_is_drawn_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half the candidates are drawn twice: with a harsh penalty they are the last to be kept."""
    finals: list[tuple[np.ndarray, np.ndarray]] = []

    def watched(weights: np.ndarray, ids: np.ndarray, budget: int, seed: int) -> np.ndarray:
        finals.append((weights, ids))
        return selection.weighted(weights, ids, budget, seed)

    monkeypatch.setattr(recranker, "weighted", watched)
    samples = of_lengths([2] * 50)
    built, evidence = made(RecRanker, samples, share=0.9, penalty=1e-12)
    chosen = built.select(samples, evidence, 30, Runtime())
    weights, ids = finals[-1]
    once = ids[weights == 1]
    assert set(weights.tolist()) == {1.0, 1e-12}
    assert len(once) == 2 * (int(chosen.notes["drawn_each"]) - int(chosen.notes["drawn_twice"])) < 30
    assert set(once.tolist()) < set(chosen.ids.tolist())


def test_one_user_with_a_huge_history() -> None:
    samples = of_lengths([2, 3, 5000, 2, 2, 4])
    for method in METHODS:
        built, evidence = made(method, samples)
        for budget in (1, 3, 6):
            selection.check_selection(built.select(samples, evidence, budget, Runtime()), samples, budget)


def test_herding_is_the_definition() -> None:
    samples = example_samples(70)
    built, evidence = made(Herding, samples)
    x = evidence["user_vectors"].astype(float)
    chosen: list[int] = []
    for step in range(20):
        left = [i for i in range(70) if i not in chosen]
        mean = {i: (x[chosen].sum(axis=0) + x[i]) / (step + 1) for i in left}
        chosen.append(min(left, key=lambda i: np.linalg.norm(mean[i] - x.mean(axis=0))))
        found = built.select(samples, evidence, step + 1, Runtime())
        assert found.ids.tolist() == sorted(samples.ids[chosen].tolist())


def test_herding_of_unit_vectors_is_wellings_rule() -> None:
    """w₀ = μ; take the largest ⟨w, x⟩; w ← w + μ - x."""
    x = np.random.default_rng(0).standard_normal((160, 6)) + 0.5
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    samples = example_samples(160)
    chosen = Herding(Herding.Config()).select(samples, {"user_vectors": x}, 30, Runtime()).ids
    mean, weights, welling = x.mean(axis=0), x.mean(axis=0), list[int]()
    for _ in range(30):
        gain = x @ weights
        gain[welling] = -np.inf
        welling.append(int(gain.argmax()))
        weights = weights + mean - x[welling[-1]]
    assert chosen.tolist() == sorted(samples.ids[welling].tolist())


def test_herding_keeps_the_mean_better_than_chance() -> None:
    samples = example_samples(300)
    built, evidence = made(Herding, samples)
    x = evidence["user_vectors"]

    def off(ids: np.ndarray) -> float:
        return float(np.linalg.norm(x[samples.positions(ids)].mean(axis=0) - x.mean(axis=0)))

    herded = off(built.select(samples, evidence, 30, Runtime()).ids)
    chance = [off(samples.ids[selection.uniform(samples.ids, 30, seed)]) for seed in range(20)]
    assert herded < 0.2 * min(chance)


def test_moderate_takes_the_middle_distances() -> None:
    samples = example_samples(150)
    built, evidence = made(Moderate, samples, clusters=4)
    x = evidence["user_vectors"].astype(float)
    labels = kmeans(evidence["user_vectors"], samples.ids, 4, Runtime().derive("moderate clusters")).labels
    distance = np.array([np.linalg.norm(x[i] - x[labels == labels[i]].mean(axis=0)) for i in range(150)])
    nearest = np.argsort(np.abs(distance - np.median(distance)))[:40]
    found = built.select(samples, evidence, 40, Runtime())
    assert found.ids.tolist() == sorted(samples.ids[nearest].tolist())
    assert found.notes["median_distance"] == pytest.approx(np.median(distance))
