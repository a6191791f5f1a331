"""TIGER on walks of items: training, resuming, saving, ranking, and the pitfalls others met."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_llm import make_dataset

from prunebench.datasets.schema import RecDataset, Sequences
from prunebench.recommenders.base import (
    Backbone,
    HasAlignment,
    HasDiagnostics,
    HasEffort,
    RanksUsers,
    RecommenderError,
    Stage,
)
from prunebench.recommenders.fine_tuning import EpochOrder, trained_weights
from prunebench.recommenders.runtime import Cancelled, Runtime
from prunebench.recommenders.tiger import training
from prunebench.recommenders.tiger.backbone import TIGER, FittedTIGER
from prunebench.recommenders.tiger.beams import exact_scores, invalid_rate
from prunebench.recommenders.tiger.config import TIGERConfig, TokeniserConfig
from prunebench.recommenders.tiger.effort import efforts
from prunebench.recommenders.tiger.model import hashed, new_model, spell
from prunebench.recommenders.tiger.semantic_ids import PADDING, SemanticIDs
from prunebench.recommenders.tiger.tokeniser import fit_semantic_ids
from prunebench.recommenders.tiger.trie import Trie

DATASET = make_dataset(users=120)
QUICK = TIGERConfig(
    tokeniser=TokeniserConfig(codes=4), layers=1, heads=2, head_width=8, width=16, feed_forward=32, dropout=0.05,
    lr=1e-2, batch=32, micro_batch=8, max_steps=40, eval_every=8, max_history=3, beams=4,
)  # fmt: skip
RUNTIME = Runtime(seed=3)
STAGES: tuple[Stage, ...] = ("effort", "fit", "recommend")


@dataclass
class Fitted:
    """The semantic IDs of random vectors, and nothing else."""

    dataset: RecDataset
    ids: SemanticIDs

    def get(self, name: str) -> SemanticIDs:
        assert name == "semantic_ids"
        return self.ids


@pytest.fixture(scope="module")
def ids() -> SemanticIDs:
    torch.set_num_threads(1)
    vectors = np.random.default_rng(1).normal(size=(DATASET.n_items, 6)).astype(np.float32)
    vectors[20] = vectors[3]  # a collision
    return fit_semantic_ids(vectors, QUICK.tokeniser, Runtime())


def backbone(ids: SemanticIDs, **changes) -> TIGER:
    return TIGER(QUICK.model_copy(update=changes), Fitted(DATASET, ids))  # type: ignore[arg-type]


def fit(made: TIGER, folder: Path, runtime: Runtime = RUNTIME) -> FittedTIGER:
    return made.fit(DATASET.samples(), DATASET.queries("valid"), runtime, folder)


def same(one: FittedTIGER, other: FittedTIGER) -> bool:
    weights, others = trained_weights(one.model), trained_weights(other.model)
    return weights.keys() == others.keys() and all(torch.equal(weights[name], others[name]) for name in weights)


@pytest.fixture(scope="module")
def fitted(ids: SemanticIDs, tmp_path_factory: pytest.TempPathFactory) -> FittedTIGER:
    return fit(backbone(ids), tmp_path_factory.mktemp("fit"))


def test_contract(ids: SemanticIDs, fitted: FittedTIGER) -> None:
    made = backbone(ids)
    assert isinstance(made, Backbone)
    assert isinstance(made, HasEffort)
    assert not isinstance(made, HasAlignment)
    assert isinstance(fitted, RanksUsers)
    assert isinstance(fitted, HasDiagnostics)
    for stage in STAGES:
        assert made.needs(stage)["semantic_ids"].config == QUICK.tokeniser.model_dump(mode="json")
        json.dumps(made.key(stage))
    assert made.key("effort") == backbone(ids, lr=1.0, beams=2, batch_tokens=5, dropout=0.5).key("effort")
    assert made.key("effort") != backbone(ids, heads=3).key("effort")
    assert made.key("fit") == backbone(ids, beams=2, decoding="exact").key("fit")
    of_ranking, of_inputs = {"decoding", "beams", "probe_users"}, {"max_history", "user_tokens"}
    for name in TIGERConfig.model_fields:
        other = backbone(ids, **{name: None})
        changed = {stage for stage in STAGES if made.key(stage) != other.key(stage)}
        elsewhere = of_ranking | {"tokeniser", "batch_beams", "batch_tokens", "effort_steps"}
        assert ("fit" in changed) == (name not in elsewhere), name
        assert ("recommend" in changed) == (name in of_ranking | of_inputs | {"precision"}), name
        assert ("effort" in changed) >= (name in of_inputs | {"layers", "heads", "width"}), name
    assert made.key("recommend") == backbone(ids, lr=1.0, batch_beams=2).key("recommend")
    assert made.key("recommend") != backbone(ids, decoding="exact").key("recommend")


def test_the_papers_shape_has_4_6_million_parameters() -> None:
    """With the prototype's 787 tokens; the paper says 13 million."""
    grid = np.stack(np.meshgrid(range(4), range(4), range(4), indexing="ij"), -1).reshape(-1, 3)
    ids = SemanticIDs(np.concatenate([grid, np.zeros((64, 1))], 1).astype(np.int32), (256, 256, 256, 18))
    model = new_model(TIGERConfig(), ids, RUNTIME)
    assert sum(parameter.numel() for parameter in model.parameters()) == 4_560_384
    config = model.config
    assert (config.num_layers, config.num_decoder_layers, config.num_heads, config.d_kv) == (4, 4, 6, 64)
    assert (config.d_model, config.d_ff, config.dropout_rate, config.vocab_size) == (128, 1024, 0.1, 787)
    with_users = new_model(TIGERConfig(user_tokens=2000), ids, RUNTIME)
    assert with_users.config.vocab_size == 2787


# -- inputs ---------------------------------------------------------------------------------------------------------


def test_the_target_is_the_last_item_and_no_part_of_the_history(ids: SemanticIDs) -> None:
    """The pitfall of a training target that is off by one: read the codes back to items, sample by sample."""
    samples = DATASET.samples()
    spelt = spell(ids, samples.histories, QUICK, samples.targets)
    item_of = {tuple(row): item for item, row in enumerate(ids.tokens.tolist())}
    assert spelt.answers is not None
    for row, user in enumerate(samples.ids):
        said = [item_of[tuple(codes)] for codes in spelt.tokens[row].reshape(-1, ids.levels).tolist()]
        whole = DATASET.train[user].tolist()
        assert said == whole[:-1][-QUICK.max_history :]
        assert item_of[tuple(spelt.answers[row].tolist())] == whole[-1]
    # What the model is fed: every label predicted from the labels before it, none from itself.
    batch = spelt.batch(np.arange(4))
    seen: list[torch.Tensor] = []
    model = new_model(QUICK, ids, RUNTIME)
    hook = model.decoder.register_forward_pre_hook(
        lambda _, __, inputs: seen.append(inputs["input_ids"]), with_kwargs=True
    )
    training.batch_losses(model, batch)
    hook.remove()
    assert (seen[0][:, 0] == PADDING).all()
    assert torch.equal(seen[0][:, 1:], batch["labels"][:, :-1])


def test_batches_are_padded_to_their_own_longest_row(ids: SemanticIDs) -> None:
    histories = Sequences.from_rows([[1], [2, 3], [], [4, 5, 6, 7]])
    spelt = spell(ids, histories, QUICK)
    assert spelt.lengths.tolist() == [ids.levels, 2 * ids.levels, 1, 3 * ids.levels]
    batch = spelt.batch(np.array([0, 1, 2]))
    assert batch["input_ids"].shape == (3, 2 * ids.levels)
    assert batch["attention_mask"].sum(1).tolist() == [ids.levels, 2 * ids.levels, 1]
    assert (batch["input_ids"][2] == PADDING).all()


def test_users_get_one_of_so_many_tokens(ids: SemanticIDs) -> None:
    config = QUICK.model_copy(update={"user_tokens": 7})
    users = np.arange(1000)
    spelt = spell(ids, Sequences.from_flat(np.ones(1000), np.ones(1000)), config, users=users)
    names = spelt.tokens.items.reshape(1000, -1)[:, 0]
    assert set(names) == set(range(ids.vocabulary, ids.vocabulary + 7))
    np.testing.assert_array_equal(names - ids.vocabulary, hashed(users, 7))
    assert np.bincount(hashed(np.arange(70_000), 7)).min() > 9_600


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


# -- ranking --------------------------------------------------------------------------------------------------------


def test_items_that_collide_are_ranked_apart(fitted: FittedTIGER, ids: SemanticIDs) -> None:
    """The pitfall of dropping the fourth code: a hit on one of the items would count as one on the other."""
    assert np.array_equal(ids.codes[3, :-1], ids.codes[20, :-1])
    assert ids.codes[3, -1] != ids.codes[20, -1]
    histories = DATASET.queries("test").histories
    ranked = fitted.recommend(histories, np.full(len(histories), DATASET.n_items), RUNTIME)
    for row in range(len(histories)):
        one = ranked.take(np.array([row]))
        assert sorted(one.items.tolist()) == list(range(DATASET.n_items))
        scores = dict(zip(one.items.tolist(), one.scores.tolist(), strict=True))
        assert scores[3] != scores[20]


def test_exact_and_enough_beams_agree(fitted: FittedTIGER, ids: SemanticIDs) -> None:
    exact = FittedTIGER(backbone(ids, decoding="exact"), fitted.model, fitted.report)
    histories = Sequences.from_rows([[1, 2], [], [5], [3, 9, 11, 12]])
    depth = np.full(4, DATASET.n_items)
    one, other = (model.recommend(histories, depth, RUNTIME) for model in (fitted, exact))
    np.testing.assert_array_equal(one.items, other.items)
    np.testing.assert_allclose(one.scores, other.scores, rtol=1e-5)


def test_the_users_token_matters_where_there_is_one(ids: SemanticIDs, tmp_path: Path) -> None:
    model = fit(backbone(ids, user_tokens=16), tmp_path)
    histories = DATASET.queries("test").histories
    depth = np.full(len(histories), 4)
    users = DATASET.queries("test").users
    known = model.recommend_users(users, histories, depth, RUNTIME)
    assert not np.array_equal(known.scores, model.recommend_users(users + 1, histories, depth, RUNTIME).scores)
    assert not np.array_equal(known.scores, model.recommend(histories, depth, RUNTIME).scores)


def test_invalid_beams_are_counted(fitted: FittedTIGER, ids: SemanticIDs, tmp_path: Path) -> None:
    users, histories = DATASET.queries("test").users, DATASET.queries("test").histories
    notes = fitted.diagnose(users, histories, RUNTIME)
    assert notes["probe_users"] == len(histories)
    assert 0 <= notes["invalid_beam_rate"] <= 1
    nobody = DATASET.samples().take(np.empty(0, np.int64))
    untrained = backbone(ids).fit(nobody, DATASET.queries("valid"), RUNTIME, tmp_path)
    blind = untrained.diagnose(users, histories, RUNTIME)["invalid_beam_rate"]
    assert blind > max(0.5, notes["invalid_beam_rate"])  # codes of a wrong level are likely there
    quiet = FittedTIGER(backbone(ids, probe_users=0), fitted.model, fitted.report)
    assert quiet.diagnose(users, histories, RUNTIME) == {}


def test_the_users_probed_are_decoded_as_those_ranked_are(ids: SemanticIDs, tmp_path: Path) -> None:
    model = fit(backbone(ids, user_tokens=16, max_steps=8, probe_users=5), tmp_path)
    queries = DATASET.queries("test")
    probes = np.sort(RUNTIME.rng("probe users").permutation(len(queries))[:5])
    config = model.backbone.config
    spelt = spell(ids, queries.histories.take(probes), config, users=queries.users[probes])
    rate = invalid_rate(model.model, model.trie, spelt, config.beams, config.batch_beams, RUNTIME)
    assert model.diagnose(queries.users, queries.histories, RUNTIME) == {"invalid_beam_rate": rate, "probe_users": 5}
    assert (spelt.tokens.items >= ids.vocabulary).sum() == 5


# -- effort ---------------------------------------------------------------------------------------------------------


def test_effort_after_some_steps_is_that_of_a_model_trained_on_a_draw_of_all(ids: SemanticIDs, tmp_path: Path) -> None:
    samples = DATASET.samples()
    made = backbone(ids, effort_steps=2)
    scores = made.effort(samples, RUNTIME)
    drawn = samples.take(RUNTIME.rng("before effort").permutation(samples.ids)[: 2 * QUICK.batch])
    nobody = DATASET.queries("valid").take(np.empty(0, np.int64))
    trained = backbone(ids, max_steps=2, eval_every=2).fit(drawn, nobody, RUNTIME, tmp_path).model
    spelt = spell(ids, samples.histories, QUICK, samples.targets)
    np.testing.assert_allclose(scores, efforts(trained, spelt, 64, RUNTIME), rtol=1e-5)
    # A part of the samples gets what it gets among all of them: the steps are not taken on what is scored.
    np.testing.assert_allclose(
        backbone(ids, effort_steps=2).effort(samples.take(samples.ids[:9]), RUNTIME), scores[:9], rtol=1e-5
    )
    plain = backbone(ids).effort(samples, RUNTIME)
    assert not np.allclose(plain, scores, rtol=1e-2)
    np.testing.assert_allclose(plain, efforts(new_model(QUICK, ids, RUNTIME), spelt, 64, RUNTIME), rtol=1e-5)
    assert made.key("effort") != backbone(ids).key("effort")
    assert made.key("effort") != backbone(ids, effort_steps=2, lr=1.0).key("effort")
    assert backbone(ids).key("effort") == backbone(ids, lr=1.0).key("effort")
