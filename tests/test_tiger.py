"""TIGER on walks of items: training, resuming, saving, ranking, and the pitfalls others met."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_tiger import DATASET, QUICK, RUNTIME, STAGES, backbone, fit, random_ids

from prunebench.datasets.schema import Sequences
from prunebench.recommenders.base import (
    Backbone,
    HasAlignment,
    HasDiagnostics,
    HasEffort,
    RanksUsers,
)
from prunebench.recommenders.tiger import training
from prunebench.recommenders.tiger.backbone import FittedTIGER
from prunebench.recommenders.tiger.beams import invalid_rate
from prunebench.recommenders.tiger.config import TIGERConfig
from prunebench.recommenders.tiger.effort import efforts
from prunebench.recommenders.tiger.model import hashed, new_model, spell
from prunebench.recommenders.tiger.semantic_ids import PADDING, SemanticIDs


@pytest.fixture(scope="module")
def ids() -> SemanticIDs:
    return random_ids()


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
