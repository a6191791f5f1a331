"""DEALRec, Random and Full against the definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from prunebench.datasets.schema import Samples
from prunebench.methods import selection
from prunebench.methods.base import Evidence, MethodError, PruningMethod
from prunebench.methods.dealrec import DEALRec
from prunebench.methods.full import Full
from prunebench.methods.influence import InfluenceConfig
from prunebench.methods.random import Random
from prunebench.methods.testing import check_method, example_samples, fake_signal
from prunebench.recommenders.base import Request
from prunebench.recommenders.runtime import Runtime


def dealrec(**settings: Any) -> DEALRec:
    return DEALRec(DEALRec.Config(**settings))


def evidence_of(method: DEALRec, samples: Samples) -> Evidence:
    signals = {name: fake_signal(request, samples) for name, request in method.requests().items()}
    return method.prepare(samples, signals, Runtime())


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"lambda": 1.0, "groups": 7},
        {"hard_prune": 0.5},
        {"selection": "greedy"},
        {"use_influence": False},
        {"use_effort": False, "solver": "lissa"},
    ],
)
def test_dealrec_keeps_the_contract(config: dict[str, Any]) -> None:
    check_method(DEALRec, config)


def test_the_other_methods_keep_the_contract() -> None:
    check_method(Random)
    check_method(Full, n=20, budgets=(20,))
    check_method(DEALRec, {"effort_candidates": 30}, budgets=(1, 15, 30))
    for method in (DEALRec, Random, Full):
        assert isinstance(method(method.Config()), PruningMethod)


def test_dealrec_is_the_papers_definition() -> None:
    """Scores, hard prune, strata and allocation spelled out, one sample at a time."""
    samples, method = example_samples(200), dealrec(lam=0.7, groups=9)
    evidence, runtime = evidence_of(method, samples), Runtime(seed=4)
    influence, effort = (evidence[name].astype(float) for name in ("influence", "effort"))
    overall = [
        (i - influence.min()) / (influence.max() - influence.min())
        + 0.7 * (e - effort.min()) / (effort.max() - effort.min())
        for i, e in zip(influence, effort, strict=True)
    ]
    kept = sorted(range(200), key=lambda at: overall[at])[:180]
    low, high = overall[kept[0]], overall[kept[-1]]
    groups: dict[int, list[int]] = {}
    for at in kept:
        groups.setdefault(min(int((overall[at] - low) / (high - low) * 9), 8), []).append(at)
    hashes = selection.priorities(samples.ids, runtime.derive("dealrec selection"))
    expected: list[int] = []
    while groups:
        share = (60 - len(expected)) // len(groups)
        smallest = min(groups, key=lambda group: (len(groups[group]), group))
        expected += sorted(groups.pop(smallest), key=lambda at: hashes[at])[:share]
    chosen = method.select(samples, evidence, 60, runtime)
    assert chosen.ids.tolist() == sorted(samples.ids[expected].tolist())
    assert chosen.notes == {"hard_pruned": 20, "strata": 9}


def test_ablations() -> None:
    samples, runtime = example_samples(50), Runtime()
    scores = {name: fake_signal(Request(name), samples) for name in ("influence", "effort")}
    assert not np.array_equal(scores["influence"], scores["effort"])
    for off, left in (("use_effort", "influence"), ("use_influence", "effort")):
        method = dealrec(**{off: False}, selection="greedy")
        assert list(method.requests()) == [left]
        chosen = method.select(samples, evidence_of(method, samples), 5, runtime)
        assert chosen.ids.tolist() == sorted(samples.ids[np.argsort(scores[left])[-5:]].tolist())


def test_requests_follow_what_prepare_depends_on() -> None:
    free = [{}, {"lam": 2.0}, {"groups": 3}, {"hard_prune": 0.0}, {"selection": "greedy"}]
    assert all(dealrec(**settings).requests() == dealrec().requests() for settings in free)
    assert all(dealrec(**settings).evidence_key() == {} for settings in free)
    influence = dealrec(solver="lissa", damping=0.1).requests()["influence"]
    assert InfluenceConfig(**influence.config) == InfluenceConfig(solver="lissa", damping=0.1)
    narrowed = dealrec(effort_candidates=9).requests()
    assert narrowed["effort"].config == {"candidates": 9, "by": dict(narrowed["influence"].config)}


def test_only_effort_candidates_are_chosen() -> None:
    samples, method = example_samples(60), dealrec(effort_candidates=12, hard_prune=0.25)
    evidence = evidence_of(method, samples)
    influential = set(samples.ids[np.argsort(evidence["influence"])[-12:]])
    assert set(samples.ids[~np.isnan(evidence["effort"])]) == influential
    assert set(method.select(samples, evidence, 9, Runtime()).ids) <= influential
    all_of_them = method.select(samples, evidence, 12, Runtime())
    assert set(all_of_them.ids) == influential
    assert all_of_them.notes["hard_pruned"] == 0
    with pytest.raises(MethodError, match="a budget of 13 exceeds the 12 candidates"):
        method.select(samples, evidence, 13, Runtime())


def test_a_missing_score_names_the_sample() -> None:
    samples, method = example_samples(10), dealrec()
    evidence = evidence_of(method, samples)
    evidence["effort"][4] = np.nan
    with pytest.raises(MethodError, match=f"effort of sample {samples.ids[4]} is nan"):
        method.select(samples, evidence, 3, Runtime())


def test_constant_scores_still_meet_the_budget() -> None:
    samples = example_samples(40)
    evidence = {name: np.ones(40, np.float32) for name in ("influence", "effort")}
    assert len(dealrec().select(samples, evidence, 17, Runtime()).ids) == 17


def test_seeds_change_the_draw() -> None:
    samples, method = example_samples(60), dealrec()
    draws = {tuple(method.select(samples, evidence_of(method, samples), 10, Runtime(seed)).ids) for seed in range(4)}
    assert len(draws) == 4


def test_configurations_that_make_no_sense_are_refused() -> None:
    for settings in (
        {"use_influence": False, "use_effort": False},
        {"use_effort": False, "effort_candidates": 5},
        {"lam": -1},
        {"lam": float("nan")},
        {"groups": 0},
        {"hard_prune": 1.0},
        {"lam": 1, "lambda": 2},
        {"lamda": 1},
    ):
        with pytest.raises(ValidationError):
            DEALRec.Config(**settings)
    assert DEALRec.Config(**{"lambda": 0.5}) == DEALRec.Config(lam=0.5)
    assert DEALRec.Config(lam=0.5).model_dump()["lam"] == 0.5


def test_full_knows_one_budget() -> None:
    samples = example_samples(10)
    with pytest.raises(MethodError, match="full keeps all 10 samples"):
        Full(Full.Config()).select(samples, {}, 9, Runtime())
