"""TIGER's training: what it learns, that it resumes, what it saves, and what it does not look at."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_tiger import DATASET, QUICK, RUNTIME, Fitted, backbone, fit, random_ids, same

from prunebench.datasets.schema import Sequences
from prunebench.recommenders.base import (
    RecommenderError,
)
from prunebench.recommenders.fine_tuning import EpochOrder, _last_checkpoint
from prunebench.recommenders.runtime import Cancelled, Runtime
from prunebench.recommenders.tiger import training
from prunebench.recommenders.tiger.backbone import TIGER, FittedTIGER
from prunebench.recommenders.tiger.beams import exact_scores
from prunebench.recommenders.tiger.effort import efforts
from prunebench.recommenders.tiger.model import new_model, spell
from prunebench.recommenders.tiger.semantic_ids import SemanticIDs
from prunebench.recommenders.tiger.trie import Trie


@pytest.fixture(scope="module")
def ids() -> SemanticIDs:
    return random_ids()


@pytest.fixture(scope="module")
def fitted(ids: SemanticIDs, tmp_path_factory: pytest.TempPathFactory) -> FittedTIGER:
    return fit(backbone(ids), tmp_path_factory.mktemp("fit"))


# -- training -------------------------------------------------------------------------------------------------------


def test_training_learns_what_follows_what(fitted: FittedTIGER, ids: SemanticIDs, tmp_path: Path) -> None:
    report = fitted.report
    assert min(report.valid_losses) < 0.8 * report.valid_losses[0]
    assert report.best_step == 8 * int(np.argmin(report.valid_losses))
    follows = [(int(row[-1]) + 1) % DATASET.n_items for row in DATASET.train]

    def hits(model: FittedTIGER) -> float:
        ranked = model.recommend(DATASET.train, np.full(DATASET.n_users, 5), RUNTIME)
        return float(np.mean([item in ranked.take(np.array([row])).items[:5] for row, item in enumerate(follows)]))

    nobody = DATASET.samples().take(np.empty(0, np.int64))
    untrained = backbone(ids).fit(nobody, DATASET.queries("valid"), RUNTIME, tmp_path)
    assert untrained.report.steps == 0
    assert hits(fitted) > hits(untrained) + 0.2


@pytest.mark.parametrize("kill_at", [10, 17])
def test_an_interrupted_fit_continues_to_the_same_model(
    fitted: FittedTIGER, ids: SemanticIDs, tmp_path: Path, kill_at: int
) -> None:
    steps: list[int] = []
    watching = replace(
        RUNTIME,
        report=lambda done, total, what: steps.append(done) if what == "fine-tuning" else None,
        cancelled=lambda: bool(steps) and steps[-1] >= kill_at,
    )
    with pytest.raises(Cancelled):
        fit(backbone(ids), tmp_path, watching)
    again = fit(backbone(ids), tmp_path)
    assert again.report == fitted.report
    assert same(again, fitted)


def test_a_checkpoint_whose_best_one_is_gone_is_not_continued(tmp_path: Path) -> None:
    for step, best in ((8, 8), (16, 16), (24, 16)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "best_global_step": best}))
    assert _last_checkpoint(tmp_path) == tmp_path / "checkpoint-24"
    shutil.rmtree(tmp_path / "checkpoint-16")
    assert _last_checkpoint(tmp_path) == tmp_path / "checkpoint-8"
    (tmp_path / "checkpoint-8" / "trainer_state.json").write_text("{")
    assert _last_checkpoint(tmp_path) is None


def test_randomness_is_the_seeds_and_nobody_elses(fitted: FittedTIGER, ids: SemanticIDs, tmp_path: Path) -> None:
    torch.manual_seed(99)
    before = torch.get_rng_state()
    assert same(fit(backbone(ids), tmp_path / "again"), fitted)
    assert torch.equal(torch.get_rng_state(), before)
    assert not same(fit(backbone(ids), tmp_path / "other", Runtime(seed=4)), fitted)


def test_nothing_but_samples_and_stop_users_is_learnt_from(
    fitted: FittedTIGER, ids: SemanticIDs, tmp_path: Path
) -> None:
    """The pitfall of a test split that is read during training: with other test items the same model comes out."""
    other = replace(DATASET, test=Sequences((24 - DATASET.test.items).astype(np.int32), DATASET.test.offsets))
    assert other.fingerprint != DATASET.fingerprint
    made = TIGER(QUICK, Fitted(other, ids))  # type: ignore[arg-type]
    model = made.fit(other.samples(), other.queries("valid"), RUNTIME, tmp_path)
    assert same(model, fitted)


def test_a_saved_model_ranks_as_before(fitted: FittedTIGER, ids: SemanticIDs, tmp_path: Path) -> None:
    queries = DATASET.queries("test")
    fitted.save(tmp_path)
    again = backbone(ids).load(tmp_path, RUNTIME)
    assert again.report == fitted.report
    depth = np.arange(1, len(queries) + 1)
    one, other = (model.recommend(queries.histories, depth, RUNTIME) for model in (fitted, again))
    np.testing.assert_array_equal(one.items, other.items)
    assert (np.diff(one.offsets) == np.maximum(depth, QUICK.beams)).all()
    with pytest.raises(RecommenderError, match="holds no TIGER model"):
        backbone(ids).load(tmp_path / "elsewhere", RUNTIME)
    with pytest.raises(RecommenderError, match="belongs to another tokeniser"):
        backbone(ids, user_tokens=5).load(tmp_path, RUNTIME)
    renamed = SemanticIDs(ids.codes[::-1].copy(), ids.sizes)
    with pytest.raises(RecommenderError, match="belongs to another tokeniser"):
        backbone(renamed).load(tmp_path, RUNTIME)


def test_a_save_that_loses_the_weights_is_an_error(ids: SemanticIDs, tmp_path: Path, monkeypatch) -> None:
    untrained = new_model(QUICK, ids, RUNTIME)
    keep = type(untrained).save_pretrained

    def save(model, folder, **options):
        keep(untrained if Path(folder).name == "model" else model, folder, **options)

    monkeypatch.setattr(type(untrained), "save_pretrained", save)
    with pytest.raises(RecommenderError, match="does not reproduce its losses"):
        fit(backbone(ids), tmp_path)


def test_the_stop_loss_is_that_of_each_users_first_target_after_the_users_token(ids: SemanticIDs, tmp_path: Path):
    made, stop = backbone(ids, user_tokens=5, max_steps=1), DATASET.queries("valid")
    spelt = spell(ids, stop.histories, made.config, users=stop.users)
    scores = exact_scores(new_model(made.config, ids, RUNTIME), Trie(ids), spelt, 64, RUNTIME)
    expected = -np.mean([scores[row, targets[0]] for row, targets in enumerate(stop.targets)]) / ids.levels
    assert fit(made, tmp_path).report.valid_losses[0] == pytest.approx(expected, rel=1e-5)


def test_a_step_follows_the_mean_loss_per_code_of_its_batch(ids: SemanticIDs, tmp_path: Path, monkeypatch) -> None:
    """However the batch is cut: against plain autograd on the whole of it, its norm clipped to 1 as by the Trainer."""
    made, seen = backbone(ids, dropout=0.0, max_steps=1), {}

    def step(self, *args, **kwargs):
        seen.update({id(weight): weight.grad.clone() for group in self.param_groups for weight in group["params"]})
        return keep(self, *args, **kwargs)

    keep = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    trained, plain = fit(made, tmp_path).model, new_model(made.config, ids, RUNTIME)
    spelt = spell(ids, DATASET.samples().histories, made.config, DATASET.samples().targets)
    batch = spelt.batch(EpochOrder(spelt.lengths, made.config.batch, RUNTIME).order(0)[: made.config.batch])
    training.batch_losses(plain, batch).sum().div(batch["labels"].numel()).backward()
    torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
    for mine, weight in zip(trained.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(seen[id(mine)], weight.grad, rtol=1e-4, atol=1e-6)


def test_half_precision_is_for_training_alone(ids: SemanticIDs, tmp_path: Path) -> None:
    """The Trainer's autocast stays off what it gives back, which is to compute what the saved model does."""
    half, whole = (fit(backbone(ids, precision=name, max_steps=8), tmp_path / name) for name in ("bf16", "fp32"))
    assert not same(half, whole)
    model = half.model
    batch = spell(ids, DATASET.samples().histories, QUICK, DATASET.samples().targets).batch(np.arange(4))
    read = training.read_model(tmp_path / "bf16" / "model", RUNTIME.device)
    torch.testing.assert_close(training.batch_losses(model, batch), training.batch_losses(read, batch))


def test_the_papers_schedule_is_constant_and_then_falls_with_the_root(ids: SemanticIDs, tmp_path: Path, monkeypatch):
    rates: list[float] = []

    def step(self, *args, **kwargs):
        rates.append(self.param_groups[0]["lr"])
        return keep(self, *args, **kwargs)

    keep = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    fit(backbone(ids, schedule="inverse_sqrt", warmup_steps=10, lr=1e-3, patience=9), tmp_path / "adamw")
    assert rates[:11] == pytest.approx([1e-3] * 11)
    assert rates[39] == pytest.approx(1e-3 * (10 / 39) ** 0.5)
    one, other = (
        fit(backbone(ids, optimizer=name, max_steps=8), tmp_path / f"{name} 8") for name in ("adamw", "adafactor")
    )
    assert one.report.steps == other.report.steps == 8
    assert not same(one, other)


def test_a_rate_that_diverges_is_one_clear_line(ids: SemanticIDs, tmp_path: Path) -> None:
    with pytest.raises(RecommenderError, match="lower lr") as caught:
        fit(backbone(ids, lr=1e30), tmp_path)
    assert "\n" not in str(caught.value)


def test_effort_is_of_what_training_with_that_seed_starts_from(ids: SemanticIDs) -> None:
    made, samples = backbone(ids, user_tokens=5), DATASET.samples()
    spelt = spell(ids, samples.histories, made.config, samples.targets, samples.ids)
    expected = efforts(new_model(made.config, ids, RUNTIME), spelt, 64, RUNTIME)
    np.testing.assert_allclose(made.effort(samples, RUNTIME), expected, rtol=1e-4)
