"""Error norms, ranks and forgetting against the definition; the signals made of them through the harness."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from prunebench.benchmark.config import Choices, Seeds
from prunebench.benchmark.harness import Harness
from prunebench.benchmark.progress import ConsoleReporter
from prunebench.benchmark.records import bill
from prunebench.benchmark.workbench import Workbench
from prunebench.datasets.library import Library
from prunebench.datasets.schema import RecDataset, Sequences
from prunebench.recommenders import target_errors as module
from prunebench.recommenders.base import RecommenderError, Request
from prunebench.recommenders.runtime import Runtime
from prunebench.recommenders.target_errors import follow, forgetting_counts, target_errors

DRIFT = '''
"""A surrogate whose item vectors drift at random while it trains."""

import numpy as np
from prunebench.recommenders.base import Config, FitReport


class Drift:
    name, version = "drift", 1

    class Config(Config):
        epochs: int = 6
        width: int = 3

    def __init__(self, config, n_items):
        self.config, self.items = config, np.zeros((n_items, config.width), np.float32)

    def fit(self, samples, valid, runtime, after_epoch=None):
        rng = runtime.rng("drift")
        for epoch in range(self.config.epochs if valid is None else 2):
            self.items += rng.standard_normal(self.items.shape).astype(np.float32)
            if after_epoch is not None:
                after_epoch(epoch)
        self.report = FitReport(steps=epoch + 1)
        return self.report

    def user_vectors(self, histories, runtime):
        return self.items[histories.items[histories.offsets[1:] - 1]]

    def item_vectors(self):
        return self.items

    def gradient_norms(self, samples, scope, runtime):
        drawn = runtime.rng("negatives").random() + {"all": 1, "block": 2}[scope]
        return np.linalg.norm(self.user_vectors(samples.histories, runtime), axis=1).astype(np.float32) * drawn

    def losses(self, samples, runtime): ...

    def objective(self, samples, scope, runtime): ...

    def save(self, folder):
        np.save(folder / "items.npy", self.items)

    @classmethod
    def load(cls, folder, runtime):
        items = np.load(folder / "items.npy")
        loaded = cls(cls.Config(width=items.shape[1]), len(items))
        loaded.items = items
        return loaded
'''


def by_the_definition(users: np.ndarray, items: np.ndarray, targets: np.ndarray) -> tuple[list[float], list[int]]:
    errors, ranks = [], []
    for user, target in zip(users.astype(float), targets, strict=True):
        scores = items.astype(float) @ user
        p = np.exp(scores - scores.max())
        p /= p.sum()
        errors.append(sum((p[item] - (item == target)) ** 2 for item in range(len(items))) ** 0.5)
        ranks.append(sum(bool(score >= scores[target]) for score in scores))
    return errors, ranks


# Small whole numbers: scores are exact in any precision, and ties are many.
@given(st.integers(0, 2**32), st.integers(0, 9), st.integers(1, 12), st.integers(1, 3), st.sampled_from([1, 24, 10**6]))
@settings(max_examples=60, deadline=None)
def test_errors_and_ranks_are_the_definition(seed: int, n: int, n_items: int, d: int, cells: int) -> None:
    rng = np.random.default_rng(seed)
    users = rng.integers(-3, 4, (n, d)).astype(np.float32)
    items = rng.integers(-2, 3, (n_items, d)).astype(np.float32)
    targets = rng.integers(0, n_items, n).astype(np.int32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CELLS", cells)
        errors, ranks = target_errors(users, items, targets, Runtime())
    assert (errors.dtype, ranks.dtype, errors.shape, ranks.shape) == (np.float32, np.int32, (n,), (n,))
    expected = by_the_definition(users, items, targets)
    np.testing.assert_allclose(errors, expected[0], rtol=1e-5, atol=1e-7)
    assert ranks.tolist() == expected[1]


def test_a_constant_score_has_the_closed_form_and_the_last_rank() -> None:
    for n_items in (2, 7, 3000):
        items, targets = np.ones((n_items, 4), np.float32), np.array([0, n_items - 1], np.int32)
        errors, ranks = target_errors(np.ones((2, 4), np.float32), items, targets, Runtime())
        np.testing.assert_allclose(errors, np.sqrt(1 - 1 / n_items), rtol=1e-6)
        assert ranks.tolist() == [n_items] * 2


@pytest.mark.parametrize("gap", [5.0, 20.0, 60.0, 1000.0])
def test_nothing_cancels_or_overflows_at_either_end(gap: float) -> None:
    """Two items: the error is √2 · σ(−gap) for the better one and √2 · σ(gap) for the other, to full precision."""
    items, users = np.array([[gap], [0.0]], np.float32), np.ones((2, 1), np.float32)
    errors, ranks = target_errors(users, items, np.array([0, 1], np.int32), Runtime())
    small = np.sqrt(2) * np.exp(-gap) / (1 + np.exp(-gap))
    np.testing.assert_allclose(errors, [small, np.sqrt(2) / (1 + np.exp(-gap))], rtol=1e-5)
    assert ranks.tolist() == [1, 2]


def test_a_single_item_is_no_error_and_a_diverged_surrogate_is_one() -> None:
    one = np.ones((1, 2), np.float32)
    assert [values.tolist() for values in target_errors(one, one, np.zeros(1, np.int32), Runtime())] == [[0.0], [1]]
    with pytest.raises(RecommenderError, match="not finite"):
        target_errors(one * np.nan, np.ones((3, 2), np.float32), np.zeros(1, np.int32), Runtime())


def test_el2n_is_the_gradient_norm_of_the_output_layer_but_for_the_users_length() -> None:
    """Cross-entropy's gradient in the output matrix is (p − onehot) uᵀ, so its norm is ‖p − onehot‖ · ‖u‖ (Paul et al., §2)."""
    rng = np.random.default_rng(2)
    users, items = (rng.standard_normal((n, 5)).astype(np.float32) for n in (20, 11))
    targets = rng.integers(0, 11, 20).astype(np.int32)
    errors, _ = target_errors(users, items, targets, Runtime())
    for user, target, error in zip(torch.from_numpy(users), targets, errors, strict=True):
        weight = torch.from_numpy(items).requires_grad_()
        torch.nn.functional.cross_entropy(weight @ user, torch.tensor(int(target))).backward()
        assert weight.grad is not None
        assert float(weight.grad.norm()) == pytest.approx(error * float(user.norm()), rel=1e-5)


@given(st.integers(0, 2**32), st.integers(1, 8), st.integers(0, 6), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_forgetting_counts_one_by_one(seed: int, epochs: int, n: int, top: int) -> None:
    ranks = np.random.default_rng(seed).integers(1, 8, (epochs, n)).astype(np.int32)
    counts = forgetting_counts(ranks, top)
    assert counts.dtype == np.float32
    for sample in range(n):
        right = [bool(rank <= top) for rank in ranks[:, sample]]
        events = sum(before and not after for before, after in pairwise(right))
        assert counts[sample] == (events if any(right) else epochs + 1)
        assert events < epochs + 1


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("home"), np.random.default_rng(1)

    def rows(low: int, high: int) -> Sequences:
        lengths = rng.integers(low, high, 70)
        return Sequences.from_flat(rng.integers(0, 25, int(lengths.sum())), lengths)

    titles = tuple(f"Game {number}" for number in range(25))
    Library(folder).install(RecDataset("tiny", titles, rows(2, 7), rows(0, 3), rows(0, 3)))
    (folder / "drift.py").write_text(DRIFT)
    return folder


Open = Callable[..., Harness]


@pytest.fixture
def opened(home: Path) -> Open:
    def call(method: str, *options: str, surrogate: str = "drift", seed: int = 0) -> Harness:
        workbench = Workbench(home, ConsoleReporter(Console(), quiet=True))
        workbench.load_plugin(home / "drift.py")
        choices = Choices(method=method, surrogate=surrogate, dataset="tiny", budget="9")
        run, dataset, _ = workbench.resolve(choices, options, {}, Seeds.all(seed), select_only=True)
        return workbench.harness(run, dataset)

    return call


def trained(harness: Harness, epochs: int) -> Any:
    surrogate = harness.graph.context.surrogate(epochs=epochs)
    surrogate.fit(harness.samples, None, Runtime())
    return surrogate


def test_a_trajectory_is_every_epoch_of_one_training(opened: Open) -> None:
    harness = opened("random")
    seen = harness.graph.value(Request("trajectory", {"epochs": 3}))
    assert (seen.errors.dtype, seen.ranks.dtype) == (np.float32, np.int32)
    samples = harness.samples
    for epoch in range(3):
        surrogate = trained(harness, epoch + 1)
        users = surrogate.user_vectors(samples.histories, Runtime())
        errors, ranks = target_errors(users, surrogate.item_vectors(), samples.targets, Runtime())
        assert np.array_equal(seen.errors[epoch], errors)
        assert np.array_equal(seen.ranks[epoch], ranks)
    direct, report = follow(harness.graph.context.surrogate(epochs=3), samples, 3, Runtime())
    assert np.array_equal(direct.errors, seen.errors)
    assert report.steps == 3
    assert harness.graph.reads["trajectory"] == ["train"]


def test_a_surrogate_by_run_and_epochs(opened: Open) -> None:
    harness = opened("random")
    stopped, first, second, longer = (
        harness.graph.value(Request("surrogate", config)).items
        for config in ({}, {"epochs": 2}, {"run": 1, "epochs": 2}, {"epochs": 3})
    )
    assert np.array_equal(first, trained(harness, 2).items), "run 0 has the run's own seed"
    assert np.array_equal(stopped, first), "the fake one stops after two epochs where it is given validation users"
    assert not np.array_equal(second, first)
    assert not np.array_equal(longer, first)
    assert harness.graph.reads["surrogate"] == ["train", "stop"]
    other = opened("random", seed=1).graph.value(Request("surrogate", {"run": 1, "epochs": 2})).items
    assert not np.array_equal(other, second), "every run follows the run's seed"
    narrow = opened("random")
    narrow.graph.value(Request("surrogate", {"epochs": 2}))
    assert narrow.graph.reads["surrogate"] == ["train"], "without early stopping no validation user is read"


def test_what_a_fixed_length_makes_irrelevant_does_not_train_again(opened: Open) -> None:
    request = Request("surrogate", {"epochs": 2})
    built = opened("random").graph.artefact(request).hash
    assert opened("random", "surrogate.epochs=9").graph.artefact(request).hash == built
    assert opened("random", "surrogate.width=4").graph.artefact(request).hash != built


def test_el2n_is_the_mean_over_runs_and_epochs(opened: Open) -> None:
    harness = opened("el2n", "method.runs=2", "method.epochs=4")
    request = harness.method.requests()["score"]
    runs = [harness.graph.value(Request("trajectory", {"run": run, "epochs": 4})).errors for run in range(2)]
    assert not np.array_equal(*runs)
    score = harness.graph.value(request)
    assert (score.dtype, score.shape) == (np.float32, (len(harness.samples),))
    np.testing.assert_allclose(score, np.mean(runs, (0, 1)), rtol=1e-6)
    best = harness.samples.ids[np.argsort(-score)[:9]]
    assert harness.prune().selection.ids.tolist() == sorted(best)


def test_grand_trains_every_run_once_and_pays_for_all(opened: Open, home: Path) -> None:
    harness = opened("grand", "runs=3", "method.epochs=5")
    pruned = harness.prune()
    assert pruned.artefact is not None
    stages = [stage.stage for stage in bill(harness.store, [pruned.artefact])[0]]
    assert sorted(stages) == ["evidence", "grand", "selection", "surrogate", "surrogate", "surrogate"]
    assert harness.graph.reads == {"surrogate": ["train"], "grand": ["train"]}
    expected = []
    for run in range(3):
        runtime = Runtime() if run == 0 else Runtime(Runtime().derive("surrogate run", run))
        surrogate = harness.graph.context.surrogate(epochs=5)
        surrogate.fit(harness.samples, None, runtime)
        expected.append(surrogate.gradient_norms(harness.samples, "all", runtime))
    np.testing.assert_allclose(
        harness.graph.value(Request("grand", {"runs": 3, "epochs": 5})), np.mean(expected, 0), rtol=1e-6
    )
    before = set((home / "store" / "surrogate").iterdir())
    again = opened("ccs", "importance=grand", "importance_config.runs=4", "importance_config.epochs=5")
    again.prune()
    assert len(set((home / "store" / "surrogate").iterdir()) - before) == 1, "three of the four are there already"


def test_forgetting_shares_its_score_with_ccs(opened: Open) -> None:
    harness = opened("forgetting", "method.epochs=7", "top=3")
    chosen = harness.prune().selection.ids
    score = harness.graph.value(harness.method.requests()["score"])
    ranks = harness.graph.value(Request("trajectory", {"epochs": 7})).ranks
    assert np.array_equal(score, forgetting_counts(ranks, 3))
    left = np.setdiff1d(harness.samples.ids, chosen)
    assert score[harness.samples.positions(chosen)].min() >= score[harness.samples.positions(left)].max()
    other = opened("ccs", "importance=forgetting", "importance_config.epochs=7", "importance_config.top=3")
    same = other.graph.artefact(other.method.requests()["importance"])
    assert same.hash == harness.graph.artefact(harness.method.requests()["score"]).hash
    assert len(other.prune().selection.ids) == 9


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("el2n", ("method.epochs=2",)),
        ("grand", ("method.epochs=1", "method.runs=2", "scope=last_layer")),
        ("forgetting", ("method.epochs=3",)),
        ("ccs", ("importance_config.epochs=2",)),
    ],
)
def test_every_score_with_the_real_surrogate(opened: Open, method: str, options: tuple[str, ...]) -> None:
    harness = opened(method, "surrogate.d=8", "surrogate.batch_size=16", *options, surrogate="sasrec")
    chosen = harness.prune().selection
    assert len(chosen.ids) == 9
    assert np.isin(chosen.ids, harness.samples.ids).all()


def test_each_error_is_the_samples_own() -> None:
    """Shuffled samples have shuffled errors."""
    rng = np.random.default_rng(0)
    users, items = (rng.standard_normal((40, 3)).astype(np.float32) for _ in range(2))
    targets, order = rng.integers(0, 40, 40).astype(np.int32), rng.permutation(40)
    errors, ranks = target_errors(users, items, targets, Runtime())
    again = target_errors(users[order], items, targets[order], Runtime())
    np.testing.assert_allclose(again[0], errors[order], rtol=1e-6)
    assert np.array_equal(again[1], ranks[order])
