"""BIGRec on a tiny Llama: training, resuming, effort, generation, ranking, and what must not go wrong."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_llm import TITLES, TinyResources, make_dataset, make_llm

from prunebench.datasets.schema import Sequences
from prunebench.recommenders.base import Backbone, HasEffort, RecommenderError
from prunebench.recommenders.bigrec import training
from prunebench.recommenders.bigrec.backbone import BIGRec, FittedBIGRec, effort_layers, efforts
from prunebench.recommenders.bigrec.beams import beam_search, shares_prefix
from prunebench.recommenders.bigrec.config import BIGRecConfig, LoRA, preset
from prunebench.recommenders.bigrec.generation import plain_beam_search
from prunebench.recommenders.bigrec.model import adapter_state, add_adapter, embed_texts, token_losses
from prunebench.recommenders.fine_tuning import EpochOrder, restore_weights
from prunebench.recommenders.runtime import Cancelled, Runtime

DATASET = make_dataset()
QUICK = BIGRecConfig(
    template="compact", lr=1e-2, batch=8, micro_batch=4, max_steps=12, eval_every=4, max_new_tokens=5, lora=LoRA(r=4)
)
RUNTIME = Runtime(seed=3)


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return make_llm(tmp_path_factory.mktemp("llm"))


def backbone(llm: Path, config: BIGRecConfig = QUICK, **changes) -> BIGRec:
    return BIGRec(config.model_copy(update=changes), TinyResources(DATASET, llm))


def fit(made: BIGRec, folder: Path, runtime: Runtime = RUNTIME) -> FittedBIGRec:
    return made.fit(DATASET.samples(), DATASET.queries("valid"), runtime, folder)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def started(made: BIGRec, *, live: bool = False):
    """The model before training; ``live``: with a B that is not zero."""
    model = add_adapter(made.base(RUNTIME), made.config, RUNTIME)
    if live:
        noise = {name: torch.randn(v.shape, generator=torch.manual_seed(1)) for name, v in adapter_state(model).items()}
        restore_weights(model, noise)
    return model


# -- training -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted(llm: Path, tmp_path_factory: pytest.TempPathFactory) -> FittedBIGRec:
    return fit(backbone(llm), tmp_path_factory.mktemp("fit"))


def test_contract(llm: Path) -> None:
    made = backbone(llm)
    assert isinstance(made, Backbone)
    assert isinstance(made, HasEffort)
    assert set(made.needs("fit")) == set(made.needs("recommend")) == {"llm"}
    assert "title_vectors" in backbone(llm, grounding="sentence").needs("recommend")
    assert made.key("effort") == backbone(llm, lr=1.0, beams=2, batch_tokens=5).key("effort")
    assert made.key("fit") != backbone(llm, lr=1.0).key("fit")
    assert made.key("recommend") == backbone(llm, lr=1.0, generation_batch=2).key("recommend")
    json.dumps([made.key(stage) for stage in ("effort", "fit", "recommend")])


def test_training_learns_and_reports(fitted: FittedBIGRec) -> None:
    report, n = fitted.report, len(DATASET.samples())
    assert report.steps == 12
    assert len(report.valid_losses) == 4
    assert min(report.valid_losses) < 0.9 * report.valid_losses[0]
    assert report.best_step == 4 * int(np.argmin(report.valid_losses))
    epochs, steps = divmod(12, -(-n // 8))
    assert report.samples == epochs * n + steps * 8
    prompts = fitted.builder.with_answers(DATASET.samples().histories, DATASET.samples().targets, "answer")
    assert 0.8 < report.tokens / (report.samples * prompts.lengths.mean()) < 1.2


def test_saved_model_ranks_as_before(fitted: FittedBIGRec, llm: Path, tmp_path: Path) -> None:
    queries = DATASET.queries("test")
    fitted.save(tmp_path)
    again = backbone(llm).load(tmp_path, RUNTIME)
    assert again.report == fitted.report
    depth = np.arange(1, len(queries) + 1)
    one, other = (model.recommend(queries.histories, depth, RUNTIME) for model in (fitted, again))
    np.testing.assert_array_equal(one.items, other.items)
    np.testing.assert_array_equal(one.offsets, other.offsets)
    assert (np.diff(one.offsets) >= depth).all()
    assert same(adapter_state(fitted.model), adapter_state(again.model))
    with pytest.raises(RecommenderError, match="holds no BIGRec model"):
        backbone(llm).load(tmp_path / "elsewhere", RUNTIME)


@pytest.mark.parametrize("kill_at", [6, 9])
def test_an_interrupted_fit_continues_to_the_same_adapter(
    fitted: FittedBIGRec, llm: Path, tmp_path: Path, kill_at: int
) -> None:
    steps = []

    def killed() -> bool:
        return bool(steps) and steps[-1] >= kill_at

    watching = replace(
        RUNTIME, report=lambda done, total, what: what == "fine-tuning" and steps.append(done), cancelled=killed
    )
    with pytest.raises(Cancelled):
        fit(backbone(llm), tmp_path, watching)
    assert list(tmp_path.glob("checkpoint-*"))
    (tmp_path / f"checkpoint-{kill_at + 4}").mkdir()  # a checkpoint whose writing was interrupted
    again = fit(backbone(llm), tmp_path)
    assert again.report == fitted.report
    assert same(adapter_state(again.model), adapter_state(fitted.model))
    twice = fit(backbone(llm), tmp_path)  # killed between the last checkpoint and the end
    assert twice.report == fitted.report
    assert same(adapter_state(twice.model), adapter_state(fitted.model))


def test_randomness_is_the_seeds_and_nobody_elses(fitted: FittedBIGRec, llm: Path, tmp_path: Path) -> None:
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    again = fit(backbone(llm), tmp_path / "again")
    assert same(adapter_state(again.model), adapter_state(fitted.model))
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    other = fit(backbone(llm), tmp_path / "other", Runtime(seed=4))
    assert not same(adapter_state(other.model), adapter_state(fitted.model))


def test_never_worse_than_zero_shot_on_the_stop_loss(llm: Path, tmp_path: Path, monkeypatch) -> None:
    """The stop loss only rises: step 0 wins, and training stops after `patience` looks."""
    rising = iter(range(100))
    monkeypatch.setattr(training, "mean_token_loss", lambda *_: 1.0 + next(rising))
    made = backbone(llm, patience=2, max_steps=40)
    spoiled = fit(made, tmp_path)
    assert (spoiled.report.best_step, spoiled.report.steps) == (0, 8)
    assert spoiled.report.valid_losses == (1.0, 2.0, 3.0)
    assert same(adapter_state(spoiled.model), adapter_state(started(made)))


def test_the_best_step_is_restored(llm: Path, tmp_path: Path, monkeypatch) -> None:
    early = fit(backbone(llm, max_steps=8), tmp_path / "early")
    losses = iter([9.0, 8.0, 7.0, 7.5, 7.4, 7.3, 0.0])
    monkeypatch.setattr(training, "mean_token_loss", lambda *_: next(losses))
    late = fit(backbone(llm, max_steps=40, patience=3), tmp_path / "late")
    assert (late.report.best_step, late.report.steps) == (8, 20)
    assert same(adapter_state(late.model), adapter_state(early.model))


def test_without_samples_the_adapter_is_untouched(llm: Path, tmp_path: Path) -> None:
    made = backbone(llm)
    samples = DATASET.samples()
    zero = made.fit(samples.take(samples.ids[:0]), DATASET.queries("valid"), RUNTIME, tmp_path)
    assert zero.report.steps == 0
    assert same(adapter_state(zero.model), adapter_state(started(made)))
    assert len(zero.recommend(DATASET.queries("test").histories, np.full(8, 3), RUNTIME)) == 8


def test_without_stop_users_the_last_step_counts(llm: Path, tmp_path: Path) -> None:
    nobody = DATASET.queries("valid").take(np.empty(0, np.int64))
    made = backbone(llm, max_steps=6, eval_every=4)
    report = made.fit(DATASET.samples(), nobody, RUNTIME, tmp_path).report
    assert (report.steps, report.best_step, report.valid_losses) == (6, 6, ())


def test_an_adapter_that_did_not_change_is_an_error(llm: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(training, "token_losses", lambda logits, labels: (0 * token_losses(logits, labels)[0], None))
    with pytest.raises(RecommenderError, match="left the weights unchanged"):
        fit(backbone(llm), tmp_path)


def test_a_save_that_loses_the_adapter_is_an_error(llm: Path, tmp_path: Path, monkeypatch) -> None:
    made = backbone(llm)
    untrained = started(made)
    keep = type(untrained).save_pretrained

    def save(model, folder, **options):
        keep(untrained if Path(folder).name == "adapter" else model, folder, **options)

    monkeypatch.setattr(type(untrained), "save_pretrained", save)
    with pytest.raises(RecommenderError, match="does not reproduce its outputs"):
        fit(made, tmp_path)


def test_epoch_order_is_a_permutation_sorted_within_steps_only() -> None:
    lengths = np.random.default_rng(0).integers(5, 50, 70)
    order = EpochOrder(lengths, 16, RUNTIME)
    first, second = order.order(0), order.order(1)
    assert sorted(first) == sorted(second) == list(range(70))
    assert not np.array_equal(first, second)
    for start in range(0, 70, 16):
        assert (np.diff(lengths[first[start : start + 16]]) <= 0).all()
    assert order.consumed(7) == (70 + 32, int(lengths.sum() + lengths[second[:32]].sum()))
    other = EpochOrder(lengths[::-1].copy(), 16, RUNTIME).order(0)
    assert sorted(first[:16]) == sorted(other[:16])  # which samples meet in a step does not depend on their content


def test_start_adapter_and_llama_7b_preset(llm: Path, fitted: FittedBIGRec, tmp_path: Path) -> None:
    """The paper's settings on a local checkpoint of LLaMA's architecture, precision apart."""
    fitted.save(tmp_path / "start")
    assert preset("llama-7b").precision == "int8"
    config = preset("llama-7b", llm=str(llm), precision="fp32", lora=QUICK.lora, max_steps=2, eval_every=1, batch=8,
                    micro_batch=4, max_new_tokens=4, item_noun="pet", start_adapter=str(tmp_path / "start"))  # fmt: skip
    made = BIGRec(config, TinyResources(DATASET, llm))
    samples = DATASET.samples()
    zero = made.fit(samples.take(samples.ids[:0]), DATASET.queries("valid"), RUNTIME, tmp_path / "zero")
    assert same(adapter_state(zero.model), adapter_state(fitted.model))
    trained = fit(made, tmp_path / "fit")
    assert trained.report.steps == 2
    assert len(trained.recommend(DATASET.queries("test").histories, np.full(8, 3), RUNTIME)) == 8
    other = made.key("fit")
    (tmp_path / "start/adapter_model.safetensors").write_bytes(b"else")
    assert made.key("fit") != other
    with pytest.raises(ValueError, match="no BIGRec preset 'llama'"):
        preset("llama")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "int8"}, "needs a GPU"),
        ({"lora": LoRA(targets=("nothing",))}, "do not fit this LLM"),
        ({"start_adapter": "/nowhere/at/all"}, "cannot load the adapter"),
    ],
)
def test_one_clear_line(llm: Path, tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(RecommenderError, match=message) as caught:
        fit(backbone(llm, **changes), tmp_path)
    assert "\n" not in str(caught.value)


def test_no_llm_there(tmp_path: Path) -> None:
    with pytest.raises(RecommenderError, match="cannot load the LLM"):
        backbone(tmp_path).base(RUNTIME)
    with pytest.raises(RecommenderError, match="no tokenizer for the LLM"):
        _ = backbone(tmp_path).tokenizer


# -- effort ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["adapter", "released"])
@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize(("loss", "loss_on"), [("sum", "answer"), ("mean", "answer"), ("mean", "all")])
def test_effort_equals_one_sample_at_a_time(llm: Path, scope: str, live: bool, loss: str, loss_on: str) -> None:
    made = backbone(llm, effort_scope=scope, effort_loss=loss, loss_on=loss_on, batch_tokens=200)
    samples = DATASET.samples()
    model = started(made, live=live)
    prompts = made.prompts(model).with_answers(samples.histories, samples.targets, loss_on)
    scores = efforts(model, prompts, effort_layers(model, scope), made.config, RUNTIME)
    if not live:
        np.testing.assert_allclose(made.effort(samples, RUNTIME), scores, rtol=1e-5)
    named = [
        parameter
        for name, parameter in model.named_parameters()
        if "lora_" in name and (scope == "adapter" or "layers.1.self_attn.v_proj.lora_B" in name)
    ]
    assert len(named) == (8 if scope == "adapter" else 1)
    for row in range(0, len(samples), 3):
        tokens = torch.from_numpy(prompts.tokens(row).astype(np.int64))[None]
        logp = model(tokens).logits[0, :-1].log_softmax(-1).gather(1, tokens[0, 1:, None])[:, 0]
        counted = logp[-int(prompts.answer_lengths[row]) :] if loss_on == "answer" else logp
        value = -(counted.mean() if loss == "mean" else counted.sum())
        parts = torch.autograd.grad(value, named)
        assert scores[row] == pytest.approx(float(sum(p.square().sum() for p in parts).sqrt()), rel=1e-4)


def test_effort_wants_v_proj_for_the_released_scope(llm: Path) -> None:
    with pytest.raises(RecommenderError, match="needs the adapter on v_proj"):
        backbone(llm, lora=LoRA(targets=("q_proj",)), effort_scope="released").effort(DATASET.samples(), RUNTIME)


# -- generation and ranking -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("new_tokens", [1, 2, 9])
def test_shared_prefix_beam_search_equals_generate(llm: Path, beams: int, new_tokens: int) -> None:
    made = backbone(llm)
    model = started(made, live=True)
    builder = made.prompts(model)
    rng = np.random.default_rng(0)
    rows = Sequences.from_rows([rng.integers(0, 25, rng.integers(0, 9)).tolist() for _ in range(30)])
    batch = builder.without_answers(rows, new_tokens).batch(np.arange(30))
    assert shares_prefix(model, batch)
    ours = beam_search(model, batch, builder.end_token, beams, new_tokens)
    assert ours == plain_beam_search(model, batch, builder.end_token, beams, new_tokens)
    # Ends that are often written: hypotheses finish at different lengths and rows leave the batch one by one.
    common = Counter(token for (answer,) in ours for token in answer).most_common(4)
    lengths = set()
    for end, _ in common:
        ours = beam_search(model, batch, end, beams, new_tokens, beams)
        assert ours == plain_beam_search(model, batch, end, beams, new_tokens, beams)
        assert [row[:1] for row in ours] == beam_search(model, batch, end, beams, new_tokens)
        assert {len(row) for row in ours} == {beams}
        lengths |= {len(row[0]) for row in ours}
    assert len(lengths) >= min(new_tokens, 4)


def test_models_that_cannot_share_a_prefix_use_generate(llm: Path, monkeypatch) -> None:
    made = backbone(llm)
    model = started(made, live=True)
    batch = made.prompts(model).without_answers(Sequences.from_rows([[1, 2]]), 5).batch(np.arange(1))
    monkeypatch.setattr(model.get_base_model().config, "sliding_window", 4, raising=False)
    assert not shares_prefix(model, batch)


def test_a_checkpoints_generation_config_does_not_leak(llm: Path, tmp_path: Path) -> None:
    spoiled = tmp_path / "spoiled"
    shutil.copytree(llm, spoiled)
    leaky = {"do_sample": True, "temperature": 5.0, "top_k": 2, "repetition_penalty": 3.0, "num_beams": 2}
    leaky |= {"min_new_tokens": 4, "suppress_tokens": [3, 4, 5, 6, 7], "eos_token_id": 9}
    (spoiled / "generation_config.json").write_text(json.dumps(leaky))
    histories = DATASET.queries("test").histories
    results = []
    for folder in (llm, spoiled):
        made = backbone(folder)
        model = started(made, live=True)
        fitted = FittedBIGRec(made, model, made.prompts(model), None)  # type: ignore[arg-type]
        batch = fitted.builder.without_answers(histories, 5).batch(np.arange(len(histories)))
        plain = plain_beam_search(model, batch, fitted.builder.end_token, 4, 5)
        results.append((fitted.generate(histories, RUNTIME), plain))
    assert results[0] == results[1]


def test_generation_does_not_depend_on_batches(llm: Path) -> None:
    rng = np.random.default_rng(1)
    rows = Sequences.from_rows([rng.integers(0, 25, rng.integers(0, 9)).tolist() for _ in range(20)])
    written = []
    for batch in (1, 7, 64):
        made = backbone(llm, generation_batch=batch)
        model = started(made, live=True)
        written.append(FittedBIGRec(made, model, made.prompts(model), None).generate(rows, RUNTIME))  # type: ignore[arg-type]
    assert written[0] == written[1] == written[2]


@pytest.mark.parametrize("grounding", ["llm", "sentence"])
def test_ranking_with_empty_histories_and_repeated_titles(llm: Path, tmp_path: Path, grounding: str) -> None:
    made = backbone(llm, grounding=grounding, max_steps=0)
    zero = fit(made, tmp_path)
    ranked = zero.recommend(Sequences.from_rows([[], [1, 2], []]), np.full(3, 25), RUNTIME)
    rows = [slice(ranked.offsets[row], ranked.offsets[row + 1]) for row in range(3)]
    assert sorted(ranked.items[rows[0]]) == list(range(25))
    assert ranked.items[rows[0]].tolist() == ranked.items[rows[2]].tolist()
    score = dict(zip(ranked.items[rows[1]].tolist(), ranked.scores[rows[1]].tolist(), strict=True))
    assert TITLES[0] == TITLES[24]
    assert score[0] == score[24]


@pytest.mark.parametrize("grounding", ["llm", "sentence"])
def test_more_beams_ground_the_minimum(llm: Path, grounding: str) -> None:
    one, two = (backbone(llm, grounding=grounding, ground_beams=beams) for beams in (1, 2))
    assert one.key("recommend") != two.key("recommend")
    model, queries, depth = started(one, live=True), DATASET.queries("test").histories, np.full(8, 25)
    first, both = (FittedBIGRec(made, model, made.prompts(model), None) for made in (one, two))  # type: ignore[arg-type]
    written = both.generate(queries, RUNTIME)
    assert [row[:1] for row in written] == first.generate(queries, RUNTIME)
    ground = one.grounding(model, RUNTIME)
    texts = [[row[beam] for row in written] for beam in range(2)]
    ranked = [ground.rank(one.embed(model, column, RUNTIME)[:, None], depth, RUNTIME) for column in texts]
    scores = [
        one.scores[np.lexsort((one.items, np.arange(200) // 25))]
        for one in (*ranked, both.recommend(queries, depth, RUNTIME))
    ]
    np.testing.assert_allclose(scores[2], np.maximum(scores[0], scores[1] - ground.margin), rtol=1e-4, atol=1e-5)
    assert (scores[1] - ground.margin > scores[0]).any()
    with pytest.raises(ValueError, match="ground_beams 5 is more than beams 4"):
        BIGRecConfig(ground_beams=5)


def test_text_vectors_are_the_base_models_last_state(llm: Path) -> None:
    made = backbone(llm)
    model = started(made, live=True)
    texts = ["redfox oldcat", "bigowl", "", "redfox oldcat", "redfox oldcat slyant redcat"]
    vectors = embed_texts(model, made.tokenizer, texts, 6, RUNTIME)
    base = made.base(RUNTIME)
    for text, vector in zip(texts, vectors, strict=True):
        ids = made.tokenizer(f"<s> {text}", return_tensors="pt")["input_ids"]
        hidden = base(ids, output_hidden_states=True).hidden_states[-1][0, -1].detach().numpy()
        np.testing.assert_allclose(vector, hidden, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(vectors[0], vectors[3])
