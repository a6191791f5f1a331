"""Explanations never disagree with the draw, and their numbers can be recounted."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_selection import slow_allocation

from prunebench.benchmark.explain import standing
from prunebench.benchmark.explained import EvidenceFacts, StepFacts
from prunebench.benchmark.plugins import Registry
from prunebench.datasets.schema import Samples
from prunebench.methods.base import Evidence, Explains, Explanation, MethodError, Selection
from prunebench.methods.examples import example_samples, fake_signal, shuffled
from prunebench.methods.random import Random
from prunebench.methods.testing import check_method
from prunebench.recommenders.base import Request
from prunebench.recommenders.runtime import Runtime

METHODS: list[tuple[str, dict[str, Any]]] = [
    ("random", {}),
    ("el2n", {}),
    ("grand", {}),
    ("forgetting", {}),
    ("less", {}),
    ("ccs", {}),
    ("ccs", {"beta": 0.0, "groups": 3}),
    ("dealrec", {}),
    ("dealrec", {"lam": 2.0, "groups": 4, "hard_prune": 0.0}),
    ("dealrec", {"selection": "greedy"}),
    ("dealrec", {"use_effort": False}),
    ("dealrec", {"effort_candidates": 17}),
    ("moderate", {"clusters": 3}),
    ("tf_dcon", {}),
    ("tf_dcon", {"clusters": 4, "alpha": 0.0}),
    ("recranker", {"clusters": 3}),
    ("k_center", {}),
    ("herding", {}),
    ("goracs", {}),
    ("goracs", {"validation_users": 3, "lam": 0.0}),
]
N = 30


def made(name: str, config: dict[str, Any]) -> Any:
    method = Registry().resolve("methods", name)
    return method(method.Config(**config))


def evidence_of(method: Any, samples: Any, coarse: int) -> Evidence:
    """From fake signals, rounded so that values are equal here and there: the smaller ``coarse``, the more; 0: all."""

    def rounded(request: Request) -> Any:
        return np.round(fake_signal(request, samples) * coarse) / np.float32(coarse or 1)

    signals = {key: rounded(request) for key, request in method.requests().items()}
    return method.prepare(samples, signals, Runtime())


def test_every_method_of_ours_explains_itself() -> None:
    registry = Registry()
    ours = [name for name in registry.names("methods") if registry.origin("methods", name).source == "prunebench"]
    assert {name for name, _ in METHODS} | {"full"} == set(ours)
    assert all(issubclass(registry.resolve("methods", name), Explains) for name in ours)


@pytest.mark.parametrize(("name", "config"), METHODS, ids=lambda value: str(value))
@settings(max_examples=8, deadline=None)
@given(coarse=st.sampled_from([0, 1, 3, 1000]), seed=st.integers(0, 2**32), data=st.data())
def test_an_explanation_never_disagrees_with_the_selection(
    name: str, config: dict[str, Any], coarse: int, seed: int, data: st.DataObject
) -> None:
    method, samples = made(name, config), example_samples(N, seed=seed % 1000)
    budget = data.draw(st.integers(0, config.get("effort_candidates", N)))
    if data.draw(st.booleans()):
        samples = shuffled(samples)
    runtime, evidence = Runtime(seed=seed), evidence_of(method, samples, coarse)
    chosen = method.select(samples, evidence, budget, runtime)
    said = [method.explain(samples, evidence, chosen, runtime, position) for position in range(N)]
    assert [bool(one.kept) for one in said] == np.isin(samples.ids, chosen.ids).tolist()
    for one in said:
        assert one.steps
        assert json.loads(json.dumps([StepFacts.of(step).model_dump(mode="json") for step in one.steps]))


def test_full_keeps_all() -> None:
    samples, method = example_samples(N), made("full", {})
    chosen = method.select(samples, {}, N, Runtime())
    assert all(method.explain(samples, {}, chosen, Runtime(), position).kept for position in range(N))


@pytest.mark.parametrize(("name", "share"), [("dealrec", "hard_prune"), ("ccs", "beta")])
@settings(max_examples=20, deadline=None)
@given(
    values=st.lists(st.floats(-1e3, 1e3, width=16), min_size=12, max_size=40),
    groups=st.integers(1, 9),
    dropped=st.sampled_from([0.0, 0.1, 0.35]),
    seed=st.integers(0, 2**32),
    data=st.data(),
)
def test_the_counts_of_a_stratum_can_be_recounted(
    name: str, share: str, values: list[float], groups: int, dropped: float, seed: int, data: st.DataObject
) -> None:
    n = len(values)
    budget, samples, runtime = data.draw(st.integers(0, n)), example_samples(n), Runtime(seed=seed)
    score = np.array(values, np.float32)
    config = {"use_effort": False} if name == "dealrec" else {}
    method = made(name, {**config, share: dropped, "groups": groups})
    evidence = {"influence" if name == "dealrec" else "importance": score}
    chosen = method.select(samples, evidence, budget, runtime)
    kept = np.isin(samples.ids, chosen.ids)
    told: dict[int, dict[str, Any]] = {}
    left = []
    for position in range(n):
        steps = {
            step.name: dict(step.facts) for step in method.explain(samples, evidence, chosen, runtime, position).steps
        }
        pruning = steps["hard pruning"]
        assert pruning["dropped"] == min(int(dropped * n + 1e-9), n - budget)
        if pruning["is_dropped"]:
            assert not kept[position]
            continue
        left.append(position)
        assert len({steps[step]["size"] for step in ("stratum", "allocation", "draw")}) == 1
        assert steps["allocation"]["drawn"] == steps["draw"]["drawn"]
        told[position] = steps["stratum"] | steps["allocation"] | steps["draw"]
    members = {group: [at for at in left if told[at]["stratum"] == group] for group in range(1, groups + 1)}
    allocation = slow_allocation([len(members[group]) for group in range(1, groups + 1)], budget)
    for group, inside in members.items():
        places = sorted(told[at]["place"] for at in inside)
        assert places == list(range(1, len(inside) + 1))
        for at in inside:
            facts = told[at]
            assert (facts["size"], facts["drawn"]) == (len(inside), allocation[group - 1])
            assert (facts["place"] <= facts["drawn"]) == kept[at]
            scaled = (score - score.min()) / (np.ptp(score) or 1) if name == "dealrec" else score
            slack = 1e-5 * max(1.0, float(np.abs(scaled).max()))
            assert facts["low"] - slack <= scaled[at] <= facts["high"] + slack
            assert facts["filled_strata"] == sum(map(bool, members.values()))


def test_dealrecs_score_is_worked_out_in_the_open() -> None:
    samples, method = example_samples(N), made("dealrec", {"lam": 0.7})
    evidence = evidence_of(method, samples, 1000)
    scaled = {name: (part - part.min()) / np.ptp(part) for name, part in evidence.items()}
    total = scaled["influence"] + 0.7 * scaled["effort"]
    chosen = method.select(samples, evidence, 10, Runtime())
    for position in range(N):
        step = method.explain(samples, evidence, chosen, Runtime(), position).steps[0]
        assert step.name == "overall score"
        assert step.facts["minmax_influence"] == pytest.approx(scaled["influence"][position], abs=1e-6)
        assert step.facts["score"] == pytest.approx(total[position], abs=1e-6)
        assert step.facts["rank"] == 1 + (total > total[position]).sum()
        assert f"× λ 0.7 = {step.facts['score']:.6g}" in step.says


@given(st.lists(st.one_of(st.integers(-3, 3).map(float), st.just(float("nan"))), min_size=1, max_size=20), st.data())
def test_ranks_and_percentiles_are_counted(values: list[float], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(values) - 1))
    present = [value for value in values if value == value]
    found = standing("score", np.array(values, np.float32), at)
    if values[at] != values[at]:
        assert found == EvidenceFacts(name="score", of=len(present))
    else:
        assert found.rank == 1 + sum(value > values[at] for value in present)
        assert found.percentile == pytest.approx(100 * sum(value < values[at] for value in present) / len(present))


class Contrary(Random):
    """Says of the first sample the opposite."""

    def explain(
        self, samples: Samples, evidence: Evidence, chosen: Selection, runtime: Runtime, position: int
    ) -> Explanation:
        said = super().explain(samples, evidence, chosen, runtime, position)
        return replace(said, kept=said.kept != (position == 0))


def test_the_conformance_suite_finds_a_contradiction() -> None:
    check_method(Random)
    with pytest.raises(MethodError, match="explain says other than select about sample"):
        check_method(Contrary)
