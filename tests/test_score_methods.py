"""EL2N, GraNd, Forgetting and CCS against their papers' definitions, and on data that leave nothing to choose by."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from prunebench.methods import selection
from prunebench.methods.base import Evidence, Method, MethodError, PruningMethod
from prunebench.methods.ccs import CCS
from prunebench.methods.dealrec import DEALRec
from prunebench.methods.el2n import EL2N
from prunebench.methods.examples import example_samples, fake_signal
from prunebench.methods.forgetting import Forgetting
from prunebench.methods.grand import GraNd
from prunebench.methods.scores import ON_BACKBONE, SETTINGS
from prunebench.methods.testing import check_method
from prunebench.recommenders.base import Request
from prunebench.recommenders.runtime import Runtime

HIGHEST: tuple[type[Method], ...] = (EL2N, GraNd, Forgetting)
SCORE = {EL2N: "score", GraNd: "score", Forgetting: "score", CCS: "importance"}


def chosen(method: Method, score: np.ndarray, budget: int, seed: int = 0) -> list[int]:
    samples = example_samples(len(score))
    evidence: Evidence = {SCORE[type(method)]: np.asarray(score, np.float32)}
    return method.select(samples, evidence, budget, Runtime(seed=seed)).ids.tolist()


@pytest.mark.parametrize(
    ("method", "config"),
    [
        (EL2N, {}),
        (EL2N, {"signal": "backbone"}),
        (GraNd, {"runs": 3, "scope": "block"}),
        (GraNd, {"signal": "backbone"}),
        (Forgetting, {"top": 5}),
        (CCS, {}),
        (CCS, {"beta": 0.0, "groups": 7}),
        (CCS, {"importance": "forgetting", "importance_config": {"epochs": 3}}),
        (CCS, {"importance": "influence", "importance_config": {"solver": "lissa"}}),
        (CCS, {"importance": "effort"}),
        (CCS, {"importance": "grand", "signal": "backbone"}),
    ],
)
def test_they_keep_the_contract(method: type[Method], config: dict[str, Any]) -> None:
    check_method(method, config)
    assert isinstance(method(method.Config(**config)), PruningMethod)


def test_requests_are_the_scores_settings_and_nothing_else() -> None:
    def asked(method: type[Method], **config: Any) -> Request:
        (request,) = method(method.Config(**config)).requests().values()
        return request

    assert asked(EL2N) == Request("el2n", {"runs": 1, "epochs": 10})
    assert asked(GraNd, scope="last_layer") == Request("grand", {"runs": 10, "epochs": 10, "scope": "last_layer"})
    assert asked(Forgetting, top=20) == Request("forgetting", {"epochs": 40, "top": 20})
    for method, name in ((EL2N, "token_errors"), (GraNd, "effort")):
        assert asked(method, signal="backbone", runs=4) == Request(name)
        assert asked(CCS, importance=method.score, signal="backbone") == Request(name)  # type: ignore[attr-defined]
        assert asked(CCS, importance=method.score) == asked(method)  # type: ignore[attr-defined]
    assert asked(CCS, importance="effort", signal="backbone") == asked(CCS, importance="effort") == Request("effort")
    influence = {"solver": "lissa", "damping": 0.1}
    same = DEALRec(DEALRec.Config(**influence)).requests()["influence"]
    assert asked(CCS, importance="influence", importance_config=influence) == same, "one artefact for both"
    for free in ({"beta": 0.1}, {"groups": 9}):
        assert asked(CCS, **free) == asked(CCS)
    assert set(ON_BACKBONE) < set(SETTINGS)


def test_settings_of_the_importance_are_checked_and_written_out() -> None:
    written = CCS.Config(importance="grand", importance_config={"runs": 2})
    assert written.importance_config == {"runs": 2, "epochs": 10, "scope": "all"}
    assert CCS.Config().importance_config == {"runs": 1, "epochs": 10}
    for wrong, message in (
        ({"importance_config": {"scope": "all"}}, "el2n has runs, epochs; scope"),
        ({"importance_config": {"runs": 0}}, "runs: Input should be greater than or equal to 1"),
        ({"importance": "effort", "importance_config": {"runs": 1}}, "effort has no settings"),
        ({"importance": "forgetting", "signal": "backbone"}, "forgetting is a surrogate's score"),
        ({"importance": "loss"}, "Input should be 'el2n'"),
        ({"beta": 1.0}, "less than 1"),
    ):
        with pytest.raises(ValidationError, match=message):
            CCS.Config(**wrong)


@pytest.mark.parametrize("method", HIGHEST)
@given(scores=st.lists(st.integers(0, 9), min_size=1, max_size=30), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_the_highest_are_kept_and_a_larger_budget_keeps_them_too(
    method: type[Method], scores: list[int], seed: int
) -> None:
    made, score = method(method.Config()), np.array(scores, np.float32)
    samples, smaller = example_samples(len(scores)), set()
    for budget in range(len(scores) + 1):
        kept = set(chosen(made, score, budget, seed))
        assert smaller <= kept
        is_kept = np.isin(samples.ids, list(kept))
        if 0 < budget < len(scores):
            assert score[is_kept].min() >= score[~is_kept].max()
        smaller = kept


def literal_ccs(scores: dict[int, float], budget: int, beta: float, groups: int, draw: dict[int, int]) -> set[int]:
    """Algorithm 1 of Zheng et al., line by line; ``draw`` orders what it draws at random, ties of the hardest included."""
    hardest_first = sorted(scores, key=lambda sample: (-scores[sample], draw[sample]))
    left = hardest_first[min(int(beta * len(scores) + 1e-9), len(scores) - budget) :]
    low, high = min(scores[s] for s in left), max(scores[s] for s in left)
    strata: dict[int, list[int]] = {}
    for sample in left:
        at = (scores[sample] - low) / (high - low) if high > low else 0.0
        strata.setdefault(min(int(at * groups), groups - 1), []).append(sample)
    coreset: set[int] = set()
    rest = budget
    while strata:
        smallest = min(strata, key=lambda stratum: (len(strata[stratum]), stratum))
        share = min(len(strata[smallest]), rest // len(strata))
        coreset |= set(sorted(strata[smallest], key=lambda sample: draw[sample])[:share])
        del strata[smallest]
        rest -= share
    return coreset


@given(
    st.integers(0, 2**32),
    st.integers(1, 60),
    st.sampled_from([0.0, 0.1, 0.3, 0.9]),
    st.sampled_from([1, 2, 7, 50]),
    st.booleans(),
    st.data(),
)
@settings(max_examples=80, deadline=None)
def test_ccs_is_the_papers_algorithm(
    seed: int, n: int, beta: float, groups: int, is_tied: bool, data: st.DataObject
) -> None:
    rng, budget = np.random.default_rng(seed), data.draw(st.integers(0, n))
    score = (rng.integers(0, 5, n) if is_tied else rng.lognormal(size=n)).astype(np.float32)
    samples = example_samples(n)
    hashes = selection.priorities(samples.ids, Runtime(seed=5).derive("ccs selection"))
    by_id = {int(sample): float(value) for sample, value in zip(samples.ids, score, strict=True)}
    draw = {int(sample): int(value) for sample, value in zip(samples.ids, hashes, strict=True)}
    made = CCS(CCS.Config(beta=beta, groups=groups))
    kept = chosen(made, score, budget, seed=5)
    assert len(kept) == budget
    assert set(kept) == literal_ccs(by_id, budget, beta, groups, draw)


def test_ccs_covers_the_range_where_the_top_does_not() -> None:
    """Scores crowd at the easy end: the hardest 30% are gone, and every stratum that is left is in the draw."""
    score = np.concatenate([np.linspace(0, 0.1, 700), np.linspace(0.1, 1, 300)])
    samples = example_samples(1000)
    result = CCS(CCS.Config(groups=10)).select(samples, {"importance": score.astype(np.float32)}, 100, Runtime())
    kept = score[samples.positions(result.ids)]
    assert result.notes == {"hard_pruned": 300, "strata": 10}
    assert kept.max() < np.sort(score)[700]
    assert np.bincount(selection.strata(kept, 10)).min() >= 5
    whole = CCS(CCS.Config(groups=10, beta=0.0))
    strata = selection.strata(score, 10)[samples.positions(np.array(chosen(whole, score, 100)))]
    assert np.bincount(strata).tolist() == [10] * 10


@pytest.mark.parametrize("method", [*HIGHEST, CCS])
@pytest.mark.parametrize("score", [np.zeros(12), np.full(12, 41.0), np.array([3.0] * 11 + [1e30]), np.arange(12)])
def test_any_scores_meet_any_budget(method: type[Method], score: np.ndarray) -> None:
    for size in (1, 2, 12):
        for budget in range(size + 1):
            kept = chosen(method(method.Config()), score[-size:], budget)
            assert len(set(kept)) == budget


@pytest.mark.parametrize("method", [*HIGHEST, CCS])
def test_equal_scores_are_a_draw_by_seed(method: type[Method]) -> None:
    made, score = method(method.Config()), np.ones(200)
    draws = [chosen(made, score, 100, seed) for seed in range(2)]
    assert draws[0] != draws[1]
    assert draws[0] == chosen(made, score, 100, 0)
    halves = [sum(sample < example_samples(200).ids[100] for sample in draw) for draw in draws]
    assert all(30 < half < 70 for half in halves)


@pytest.mark.parametrize("method", [*HIGHEST, CCS])
def test_a_score_that_is_no_number_names_its_sample(method: type[Method]) -> None:
    score = np.ones(9)
    score[4] = np.nan
    with pytest.raises(MethodError, match=rf"score of sample {example_samples(9).ids[4]} is nan \(1 such samples\)"):
        chosen(method(method.Config()), score, 3)
    with pytest.raises(MethodError, match="a budget of 10 cannot be met from 9 samples"):
        chosen(method(method.Config()), np.ones(9), 10)


def test_evidence_is_the_signal_as_it_is() -> None:
    samples = example_samples(20)
    for method in (*HIGHEST, CCS):
        made = method(method.Config())
        ((name, request),) = made.requests().items()
        evidence = made.prepare(samples, {name: fake_signal(request, samples)}, Runtime())
        assert list(evidence) == [name]
        assert np.array_equal(evidence[name], fake_signal(request, samples))
        assert made.evidence_key() == {}
