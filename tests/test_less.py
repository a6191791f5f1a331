"""LESS against torch's own Adam and an explicit loop; projection, resuming, planted samples, and the method."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_llm import TITLES, TinyResources, make_dataset, make_llm

from prunebench.datasets.schema import RecDataset, Sequences
from prunebench.methods.base import MethodError
from prunebench.methods.less import LESS
from prunebench.methods.testing import check_method, example_samples
from prunebench.recommenders.base import AlignmentConfig, RecommenderError
from prunebench.recommenders.bigrec import less
from prunebench.recommenders.bigrec.backbone import BIGRec
from prunebench.recommenders.bigrec.config import BIGRecConfig
from prunebench.recommenders.bigrec.less import Sketch, adapter_layers, projection
from prunebench.recommenders.bigrec.model import add_adapter
from prunebench.recommenders.bigrec.warm_up import BETAS, Checkpoint, drawn, warm_up
from prunebench.recommenders.fine_tuning import global_generators_kept
from prunebench.recommenders.runtime import Cancelled, Runtime

DATASET = make_dataset()
SAMPLES, VALIDATION = DATASET.samples(), DATASET.queries("valid")
RUNTIME = Runtime(seed=3)
CONFIG = BIGRecConfig.model_validate(
    {
        "template": "compact",
        "lora": {"r": 2, "dropout": 0.2},
        "lr": 1e-2,
        "batch": 4,
        "micro_batch": 2,
        "batch_tokens": 128,
    }
)
SETTINGS = AlignmentConfig(share=0.25, epochs=3, projection=None)


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return make_llm(tmp_path_factory.mktemp("llm"))


def backbone(llm: Path, dataset: RecDataset = DATASET, **changes) -> BIGRec:
    return BIGRec(CONFIG.model_copy(update=changes), TinyResources(dataset, llm))


def scores(llm: Path, folder: Path, settings: AlignmentConfig = SETTINGS, runtime: Runtime = RUNTIME) -> np.ndarray:
    folder.mkdir(exist_ok=True)
    return backbone(llm).alignment(SAMPLES, VALIDATION, settings, runtime, folder)


@pytest.fixture(scope="module")
def aligned(llm: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, Path]:
    folder = tmp_path_factory.mktemp("aligned")
    return scores(llm, folder), folder


def loss_of(model, prompts, row: int) -> torch.Tensor:
    """ℓ of one prompt, from the logits of all its tokens."""
    tokens = torch.from_numpy(prompts.tokens(row).astype(np.int64))
    answer = int(prompts.answer_lengths[row])
    shares = model(input_ids=tokens[None]).logits[0].log_softmax(-1)
    return -torch.stack([shares[at - 1, tokens[at]] for at in range(len(tokens) - answer, len(tokens))]).mean()


# -- features -------------------------------------------------------------------------------------------------------


def test_features_are_the_step_adam_would_take() -> None:
    """Three steps by torch's Adam, then one more on a copy for each of several samples."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(40, generator=generator))
    optimizer = torch.optim.Adam([weight], lr=0.1, betas=BETAS, eps=1e-15)
    for _ in range(3):
        weight.grad = torch.randn(40, generator=generator)
        optimizer.step()
    state = optimizer.state[weight]
    checkpoint = Checkpoint(weight.detach().clone(), state["exp_avg"].clone(), state["exp_avg_sq"].clone(), 3, 0.1)
    gradients = torch.randn(5, 40, generator=generator)
    features = checkpoint.features(gradients, epsilon=1e-30)
    for gradient, feature in zip(gradients, features, strict=True):
        stepped = torch.nn.Parameter(weight.detach().clone())
        again = torch.optim.Adam([stepped], lr=0.1, betas=BETAS, eps=1e-15)
        again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        stepped.grad = gradient.clone()
        again.step()
        torch.testing.assert_close(feature, (weight.detach() - stepped.detach()) / 0.1, rtol=1e-4, atol=1e-5)


def test_epsilon_stands_under_the_root() -> None:
    zero = torch.zeros(1)
    one = Checkpoint(zero, zero, zero, 0, 0.1).features(torch.tensor([[1e-3]]), epsilon=1e-4)
    assert float(one) == pytest.approx(1e-3 / np.sqrt(1e-6 + 1e-4), rel=1e-5)


def test_scores_match_a_loop_over_samples(llm: Path, aligned: tuple[np.ndarray, Path]) -> None:
    made, settings = backbone(llm), SETTINGS
    model = add_adapter(made.base(RUNTIME), made.config, RUNTIME)
    builder, layers = made.prompts(model), adapter_layers(model)
    prompts = builder.with_answers(SAMPLES.histories, SAMPLES.targets, "answer")
    first = np.array([row[0] for row in VALIDATION.targets], np.int32)
    towards = builder.with_answers(VALIDATION.histories, first, "answer")
    weights = [layer.weight for layer in layers]

    def gradient(prompts, row: int) -> np.ndarray:
        parts = torch.autograd.grad(loss_of(model, prompts, row), weights)
        return np.concatenate([part.double().numpy().ravel() for part in parts])

    expected, rates = np.zeros(len(SAMPLES)), []
    for epoch in range(settings.epochs):
        checkpoint = Checkpoint.load(aligned[1] / f"epoch-{epoch}.pt", torch.device("cpu"))
        rates.append(checkpoint.rate)
        torch.nn.utils.vector_to_parameters(checkpoint.weights.clone(), weights)
        m, v, t = checkpoint.first.double().numpy(), checkpoint.second.double().numpy(), checkpoint.steps + 1
        goal = np.mean([gradient(towards, row) for row in range(len(towards))], axis=0)
        for row in range(len(SAMPLES)):
            g = gradient(prompts, row)
            ahead = (0.9 * m + 0.1 * g) / (1 - 0.9**t)
            spread = (0.999 * v + 0.001 * g**2) / (1 - 0.999**t)
            gamma = ahead / np.sqrt(spread + settings.epsilon)
            expected[row] += checkpoint.rate * gamma @ goal / np.linalg.norm(gamma) / np.linalg.norm(goal)
    np.testing.assert_allclose(aligned[0], expected / sum(rates), rtol=1e-3, atol=1e-5)
    steps = 3 * -(-round(0.25 * len(SAMPLES)) // 4)
    each = CONFIG.lr * (1 - np.arange(steps) / steps)
    np.testing.assert_allclose(rates, each.reshape(3, -1).mean(1))


# -- warm-up --------------------------------------------------------------------------------------------------------


def test_warm_up_is_adam_on_the_mean_loss(llm: Path, tmp_path: Path) -> None:
    """Without dropout, against a plain loop that sees each batch whole."""
    made = backbone(llm, lora=CONFIG.lora.model_copy(update={"dropout": 0.0}))
    settings = AlignmentConfig(share=0.3, epochs=2, lr=5e-3, schedule="constant")

    def fresh():
        model = add_adapter(made.base(RUNTIME), made.config, RUNTIME)
        return model, [layer.weight for layer in adapter_layers(model)]

    model, weights = fresh()
    with global_generators_kept():
        found = warm_up(model, weights, made.prompts(model), SAMPLES, made.config, settings, RUNTIME, tmp_path)
    model, weights = fresh()
    optimizer = torch.optim.Adam(weights, lr=5e-3)
    count = round(0.3 * len(SAMPLES))
    rows = drawn(SAMPLES.ids, count, RUNTIME, "less", "warm-up samples")
    prompts = made.prompts(model).with_answers(SAMPLES.histories.take(rows), SAMPLES.targets[rows], "answer")
    for epoch in range(2):
        order = RUNTIME.rng("data order", epoch).permutation(count)
        for start in range(0, count, 4):
            optimizer.zero_grad()
            batch = order[start : start + 4]
            torch.stack([loss_of(model, prompts, int(row)) for row in batch]).mean().backward()
            optimizer.step()
        flat = torch.nn.utils.parameters_to_vector(weights).detach()
        torch.testing.assert_close(found[epoch].weights, flat, rtol=1e-3, atol=1e-5)
        assert found[epoch].steps == (epoch + 1) * -(-count // 4)


def test_the_draw_follows_the_ids() -> None:
    ids = np.array([9, 2, 40, 7, 11, 3])
    chosen = ids[drawn(ids, 3, RUNTIME, "a")]
    assert len(chosen) == 3
    assert (np.diff(chosen) > 0).all()
    np.testing.assert_array_equal(np.sort(ids)[drawn(np.sort(ids), 3, RUNTIME, "a")], chosen)
    assert any(not np.array_equal(ids[drawn(ids, 3, RUNTIME.with_seed(s), "a")], chosen) for s in range(9))
    np.testing.assert_array_equal(ids[drawn(ids, None, RUNTIME, "a")], np.sort(ids))
    assert len(drawn(ids[:0], None, RUNTIME)) == 0


# -- projection -----------------------------------------------------------------------------------------------------


def test_the_projection_keeps_inner_products_in_the_mean() -> None:
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(2, 300, generator=generator)
    found = torch.tensor(
        [
            float(Sketch.draw(300, 32, RUNTIME.with_seed(seed))(torch.stack([x, y])).prod(0).sum())
            for seed in range(2000)
        ]
    )
    error = float(found.std()) / 2000**0.5
    assert abs(float(found.mean()) - float(x @ y)) < 4 * error
    assert float(found.std()) < 1.3 * float(((x @ x) * (y @ y) + (x @ y) ** 2) / 32) ** 0.5


def test_the_projection_is_linear_and_left_out_where_it_would_not_shorten() -> None:
    vectors = torch.arange(12.0).reshape(3, 4)
    for width in (None, 4, 5):
        torch.testing.assert_close(projection(4, width, RUNTIME)(vectors), vectors)
    short = projection(4, 2, RUNTIME)
    assert short(vectors).shape == (3, 2)
    torch.testing.assert_close(short(vectors[:1]) + short(vectors[1:2]), short(vectors[:1] + vectors[1:2]))
    torch.testing.assert_close(projection(4, 2, RUNTIME)(vectors), short(vectors))


def test_both_sides_of_the_cosine_are_projected_alike(
    llm: Path, aligned: tuple[np.ndarray, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rotation changes no cosine; a sketch does."""
    assert not np.array_equal(scores(llm, tmp_path / "a", SETTINGS.model_copy(update={"projection": 64})), aligned[0])

    def rotation(size: int, width: int | None, runtime: Runtime):
        turned = torch.linalg.qr(torch.randn(size, size, generator=torch.Generator().manual_seed(0)))[0]
        return lambda vectors: vectors @ turned

    monkeypatch.setattr(less, "projection", rotation)
    np.testing.assert_allclose(scores(llm, tmp_path / "b"), aligned[0], rtol=1e-3, atol=1e-5)


# -- runs -----------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bytes_whatever_the_global_generator(
    llm: Path, aligned: tuple[np.ndarray, Path], tmp_path: Path
) -> None:
    torch.manual_seed(99)
    before = torch.get_rng_state()
    np.testing.assert_array_equal(scores(llm, tmp_path / "a"), aligned[0])
    assert torch.equal(torch.get_rng_state(), before)
    assert not np.array_equal(scores(llm, tmp_path / "b", runtime=RUNTIME.with_seed(4)), aligned[0])


@pytest.mark.parametrize("killed_after", [1, 2, 4, 6])
def test_an_interrupted_run_continues_to_the_same_bytes(
    llm: Path, aligned: tuple[np.ndarray, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_after: int
) -> None:
    """Killed after an epoch, a validation gradient, or a chunk of scores."""
    saves: list[int] = []
    dying = replace(RUNTIME, saved=lambda: saves.append(1), cancelled=lambda: len(saves) >= killed_after)
    with pytest.raises(Cancelled):
        scores(llm, tmp_path, runtime=dying)
    made = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(made) == killed_after
    np.testing.assert_array_equal(scores(llm, tmp_path), aligned[0])
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in made} == made


def test_chunks_and_bounded_memory_change_nothing_but_rounding(
    llm: Path, aligned: tuple[np.ndarray, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(less, "CELLS", 1)
    monkeypatch.setattr(less.in_chunks, "__defaults__", (7,))
    np.testing.assert_allclose(scores(llm, tmp_path), aligned[0], rtol=1e-3, atol=1e-6)
    assert len(list(tmp_path.glob("cosines-0-*.npy"))) == -(-len(SAMPLES) // 7)


def test_samples_like_the_validation_users_score_above_others(llm: Path, tmp_path: Path) -> None:
    """Half of the users want what validation users want, the others the other half of the items."""
    rng = np.random.default_rng(0)
    alike = np.arange(120) % 2 == 0
    targets = np.where(alike, rng.integers(0, 6, 120), rng.integers(12, 18, 120))
    train = [[*rng.integers(0, 24, 3).tolist(), int(target)] for target in targets]
    valid = [[int(rng.integers(0, 6))] if user < 30 else [] for user in range(120)]
    dataset = RecDataset("halves", TITLES, *map(Sequences.from_rows, (train, valid, [[]] * 120)))
    made = backbone(llm, dataset, lr=1e-3)
    found = made.alignment(dataset.samples(), dataset.queries("valid"), AlignmentConfig(share=0.5), RUNTIME, tmp_path)
    assert (np.abs(found) <= 1).all()
    assert (found[alike][:, None] > found[~alike]).mean() > 0.8


@pytest.mark.parametrize("n", [1, 2])
def test_few_samples(llm: Path, tmp_path: Path, n: int) -> None:
    few = SAMPLES.take(SAMPLES.ids[:n])
    settings = AlignmentConfig(epochs=1, validation_users=1)
    found = backbone(llm).alignment(few, VALIDATION, settings, RUNTIME, tmp_path)
    assert found.shape == (n,)
    assert np.isfinite(found).all()


def test_nothing_to_score_and_nobody_to_align_with(llm: Path, tmp_path: Path) -> None:
    none = SAMPLES.take(SAMPLES.ids[:0])
    assert backbone(llm).alignment(none, VALIDATION, SETTINGS, RUNTIME, tmp_path).shape == (0,)
    with pytest.raises(RecommenderError, match="walks has no validation users to align with") as caught:
        backbone(llm).alignment(SAMPLES, VALIDATION.take(np.empty(0)), SETTINGS, RUNTIME, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_warm_up_that_diverges_says_so(llm: Path, tmp_path: Path) -> None:
    made = backbone(llm)
    model = add_adapter(made.base(RUNTIME), made.config, RUNTIME)
    model.get_base_model().lm_head.weight.data[3] = np.inf
    with pytest.raises(RecommenderError, match=r"diverged at a rate of 0\.01: give a lower method\.lr") as caught:
        less.alignment(model, made.prompts(model), SAMPLES, VALIDATION, made.config, SETTINGS, RUNTIME, tmp_path)
    assert "\n" not in str(caught.value)


# -- method ---------------------------------------------------------------------------------------------------------


def test_the_method_keeps_the_contract() -> None:
    check_method(LESS)
    check_method(LESS, {"epochs": 2, "projection": None, "validation_users": 5}, n=2)


def test_the_method_keeps_the_highest() -> None:
    samples = example_samples(30)
    values = np.random.default_rng(0).permutation(30).astype(np.float32)
    method = LESS(LESS.Config())
    chosen = method.select(samples, {"less": values}, 7, RUNTIME)
    np.testing.assert_array_equal(chosen.ids, np.sort(samples.ids[values >= 23]))
    assert len(method.select(samples, {"less": values * 0}, 30, RUNTIME).ids) == 30
    assert len(method.select(samples, {"less": values * 0}, 0, RUNTIME).ids) == 0
    with pytest.raises(MethodError, match="cannot be met"):
        method.select(samples, {"less": values}, 31, RUNTIME)
