"""A run's histogram of scores: every sample counted once, the strata those of the draw, the file read back or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crashes import Undisturbed
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from test_explanations import METHODS, evidence_of, made

from prunebench.benchmark.blame import checked_scores
from prunebench.datasets.files import read_json
from prunebench.leaderboard.record import RecordError, load_record
from prunebench.leaderboard.score_summary import BINS, FILE, read_scores, summarise
from prunebench.methods.base import HasScores, MethodError, Scores
from prunebench.methods.ccs import CCS
from prunebench.methods.examples import example_samples
from prunebench.recommenders.runtime import Runtime

SCORED = [(name, config) for name, config in METHODS if isinstance(made(name, config), HasScores)]
N = 40


def test_the_methods_that_choose_by_a_number_have_scores() -> None:
    assert {name for name, _ in SCORED} == {"dealrec", "ccs", "el2n", "grand", "forgetting", "less", "moderate"}


@given(
    arrays(np.float64, st.integers(1, 200), elements=st.floats(-1e6, 1e6, allow_subnormal=False) | st.just(np.nan)),
    st.integers(0, 2**31),
)
def test_every_sample_is_counted_once(scores: np.ndarray, seed: int) -> None:
    kept = np.random.default_rng(seed).random(len(scores)) < 0.4
    strata = np.array([0.0, 2.0])
    found = summarise("a score", scores, kept, strata, 1.5)
    if np.isnan(scores).all():
        assert found is None
        return
    assert found is not None
    assert (found.name, found.strata, found.dropped_from) == ("a score", [0.0, 2.0], 1.5)
    assert len(found.samples) == BINS
    assert sum(found.samples) + found.unscored == len(scores)
    assert sum(found.kept) == int((kept & ~np.isnan(scores)).sum())
    edges = np.array(found.edges)
    inside = [np.flatnonzero(edges <= value)[-1] for value in scores[~np.isnan(scores)]]
    slow = np.bincount(np.minimum(inside, BINS - 1), minlength=BINS)
    assert found.samples == slow.tolist()


@pytest.mark.parametrize(("name", "config"), SCORED)
def test_what_was_kept_follows_from_the_scores(name: str, config: dict[str, Any]) -> None:
    """Strata drawn from have kept samples in the allocation's numbers; without strata the best are kept."""
    method, samples, runtime = made(name, config), example_samples(N), Runtime(seed=5)
    evidence = evidence_of(method, samples, 1000)
    chosen = method.select(samples, evidence, 12, runtime)
    said = checked_scores(name, method.scores(samples, evidence, chosen, runtime), samples)
    kept = np.isin(samples.ids, chosen.ids)
    assert np.isfinite(said.values[kept]).all()
    if said.strata is None and name != "moderate":
        scored = np.isfinite(said.values)
        assert said.values[kept].min() >= said.values[scored & ~kept].max()
    if said.dropped_from is not None:
        assert (said.values[kept] <= said.dropped_from).all()
        assert (said.values >= said.dropped_from).sum() >= int(chosen.notes["hard_pruned"]) > 0
    if said.strata is not None:
        left = said.values[np.isfinite(said.values)]
        left = np.sort(left)[: len(left) - int(chosen.notes["hard_pruned"])]
        assert said.strata[0] == left[0]
        assert said.strata[-1] == left[-1]
        filled = np.histogram(left, said.strata)[0] > 0 if left[0] < left[-1] else np.ones(1, bool)
        # A score within rounding of a boundary may be counted on its other side.
        assert abs(int(filled.sum()) - int(chosen.notes["strata"])) <= 1


def test_a_constant_score_is_one_bar() -> None:
    samples, method = example_samples(N), CCS(CCS.Config())
    evidence = {"importance": np.full(len(samples), 2.0, np.float32)}
    chosen = method.select(samples, evidence, 10, Runtime(seed=1))
    said = method.scores(samples, evidence, chosen, Runtime(seed=1))
    found = summarise(said.name, said.values, np.isin(samples.ids, chosen.ids), said.strata, said.dropped_from)
    assert found is not None
    assert sorted(found.samples)[-2:] == [0, len(samples)]
    assert max(found.kept) == 10


@pytest.mark.parametrize(
    "said",
    [
        None,
        Scores("s", np.zeros(3)),
        Scores("s", np.full(N, np.inf)),
        Scores("s", np.zeros(N), np.array([1.0, 0.0])),
        Scores("s", np.zeros(N), np.array([0.0, np.nan])),
        Scores("s", np.zeros(N), None, float("nan")),
        Scores("s", np.array(["a"] * N)),
    ],
)
def test_scores_that_do_not_fit_are_refused_by_name(said: Any) -> None:
    with pytest.raises(MethodError, match="method mine: scores"):
        checked_scores("mine", said, example_samples(N))


def test_the_file_is_read_back_or_refused_in_one_line(tmp_path: Path) -> None:
    found = summarise("s", np.arange(10.0), np.arange(10) < 3, np.array([0.0, 4.5, 9.0]), 8.0)
    assert found is not None
    path = tmp_path / "scores.json"
    path.write_text(found.model_dump_json())
    assert read_scores(path) == found
    values = json.loads(path.read_text())
    broken: list[dict[str, Any]] = [
        {**values, "kept": values["kept"][1:]},
        {**values, "kept": [count + 1 for count in values["samples"]]},
        {**values, "edges": values["edges"][::-1]},
        {**values, "more": 1},
    ]
    for wrong in broken:
        path.write_text(json.dumps(wrong))
        with pytest.raises(RecordError, match=r"scores\.json is no summary of scores") as error:
            read_scores(path)
        assert "\n" not in str(error.value)
    path.write_text("{")
    with pytest.raises(RecordError, match="cannot read the scores"):
        read_scores(path)


def test_a_run_keeps_the_histogram_of_its_scores(quick: Undisturbed) -> None:
    (folder,) = (quick.job.home / "runs").iterdir()
    found, record = read_scores(folder / FILE), load_record(folder / "record.json")
    assert found.name == "overall score"
    assert sum(found.kept) == record.budget
    assert sum(found.samples) + found.unscored == record.dataset.counts["samples"]
    assert FILE in read_json(folder / "manifest.json")["files"]
