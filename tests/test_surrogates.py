"""Every surrogate against loops over samples: losses, gradient norms, directional derivatives, Hessians, influence."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from prunebench.datasets.schema import Queries, RecDataset, Samples, Sequences
from prunebench.methods.influence import InfluenceConfig, influence
from prunebench.recommenders.base import RecommenderError, Surrogate
from prunebench.recommenders.derivatives import Vector, directional_derivatives, hessian_product
from prunebench.recommenders.gradients import Use, squared_norm
from prunebench.recommenders.runtime import Runtime
from prunebench.recommenders.surrogates.base import WEIGHTS, SequenceSurrogate
from prunebench.recommenders.surrogates.windows import Windows, hashed_shares

# Settings beside the common ones that make a surrogate tiny.
TINY: dict[str, dict[str, Any]] = {"sasrec": {}, "gru4rec": {"hidden": 6, "layers": 2}, "bert4rec": {}, "dcrec": {}}
SURROGATES = list(TINY)
SCOPES = ["block", "last_layer", "all"]
LOSSES = ["bce", "ce"]
N_ITEMS = 12
RUNTIME = Runtime(3)

every_surrogate = pytest.mark.parametrize("name", SURROGATES)
every_scope = pytest.mark.parametrize("scope", SCOPES)
every_loss = pytest.mark.parametrize("loss", LOSSES)


def made(name: str, n_items: int = N_ITEMS, **settings: Any) -> SequenceSurrogate:
    surrogate = entry_points(group="prunebench.surrogates")[name].load()
    tiny = {"d": 4, "max_length": 5, "dropout": 0.0, "batch_size": 8, "epochs": 3, "learning_rate": 0.02}
    return surrogate(surrogate.Config(**{**tiny, **TINY[name], **settings}), n_items)


def samples_of(rows: list[list[int]]) -> Samples:
    """One sample a row; between them users with one item, who have none, so that ids are not positions."""
    train = Sequences.from_rows([row for pair in zip(rows, [[0]] * len(rows), strict=True) for row in pair])
    return RecDataset("tiny", tuple(map(str, range(N_ITEMS))), train, *[Sequences.empty(len(train))] * 2).samples()


def random_samples(n: int = 14) -> Samples:
    """Rows shorter and longer than the window, with repeated items."""
    rng = np.random.default_rng(0)
    return samples_of([rng.integers(N_ITEMS, size=rng.integers(2, 9)).tolist() for _ in range(n)])


def queries_of(samples: Samples) -> Queries:
    targets = Sequences.from_flat(samples.targets, np.ones(len(samples), np.int64))
    return Queries(samples.dataset, "valid", samples.ids, samples.histories, targets)


@cache
def trained(name: str, loss: str = "bce") -> SequenceSurrogate:
    model, samples = made(name, loss=loss), random_samples()
    model.fit(samples, queries_of(samples), RUNTIME)
    return model


def one_at_a_time(model: SequenceSurrogate, samples: Samples, scope: str) -> list[tuple[Tensor, Vector]]:
    """Every sample's loss and gradient by autograd, alone in its batch, nothing kept from below the scope."""
    # Asked for in scope "all", whose passes start at the inputs.
    objective = model.objective(samples, "all", RUNTIME)
    results = []
    for row in range(len(samples)):
        leaves = {name: model.parameters[name].clone().requires_grad_() for name in model.scope(scope)}
        loss = objective.losses(leaves, np.array([row])).sum()
        gradients = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True, allow_unused=True)
        results.append((loss.detach(), dict(zip(leaves, gradients, strict=True))))
    return results


def flat(vector: Vector) -> NDArray[np.float64]:
    return torch.cat([value.flatten() for value in vector.values()]).double().numpy()


def close(ours: NDArray, reference: NDArray, tolerance: float = 1e-4) -> bool:
    return bool(np.abs(ours - reference).max() <= tolerance * np.abs(reference).max())


def random_direction(model: SequenceSurrogate, scope: str) -> Vector:
    make = torch.Generator().manual_seed(1)
    return {name: torch.randn(model.parameters[name].shape, generator=make) for name in model.scope(scope)}


@every_surrogate
def test_it_is_a_surrogate(name: str) -> None:
    model: Surrogate = trained(name)
    assert {"epochs", "patience"} <= set(model.Config.model_fields)
    assert model.Config.model_validate_json(trained(name).config.model_dump_json()) == trained(name).config
    assert model.item_vectors().shape == (N_ITEMS, 4)
    vectors = model.user_vectors(Sequences.from_rows([[], [1, 2], [3]]), RUNTIME)
    assert vectors.shape == (3, 4)
    assert not vectors[0].any()
    assert vectors[1:].any(1).all()


@every_surrogate
@every_loss
def test_it_learns_a_walk(name: str, loss: str) -> None:
    """Users step from item to item by one: the next item is certain."""
    rng = np.random.default_rng(0)
    rows = [(rng.integers(N_ITEMS) + np.arange(rng.integers(3, 9))) % N_ITEMS for _ in range(200)]
    samples = samples_of([row.tolist() for row in rows])
    model = made(name, d=16, loss=loss, epochs=60, batch_size=25)
    model.fit(samples, None, RUNTIME)
    histories = Sequences.from_rows([[i, (i + 1) % N_ITEMS, (i + 2) % N_ITEMS] for i in range(N_ITEMS)])
    best = model.scores(histories, RUNTIME).argsort(1)[:, -3:]
    assert (best == (np.arange(N_ITEMS)[:, None] + 3) % N_ITEMS).any(1).mean() > 0.8  # by chance: 3 of 12


@every_surrogate
@every_loss
def test_losses_and_gradient_norms_equal_a_loop(name: str, loss: str) -> None:
    model, samples = trained(name, loss), random_samples()
    for scope in SCOPES:
        slow = one_at_a_time(model, samples, scope)
        norms = np.array([np.linalg.norm(flat(gradient)) for _, gradient in slow])
        assert norms.min() > 0
        assert np.allclose(model.gradient_norms(samples, scope, RUNTIME), norms, rtol=1e-4, atol=0)
    assert np.allclose(model.losses(samples, RUNTIME), [float(value) for value, _ in slow], rtol=1e-5)


@every_surrogate
@every_scope
@every_loss
def test_directional_derivatives_equal_a_loop(name: str, scope: str, loss: str) -> None:
    model, samples = trained(name, loss), random_samples()
    direction = random_direction(model, scope)
    slow = [flat(gradient) @ flat(direction) for _, gradient in one_at_a_time(model, samples, scope)]
    ours = directional_derivatives(model.objective(samples, scope, RUNTIME), direction, RUNTIME)
    assert close(ours, np.array(slow))


@every_surrogate
@every_scope
@every_loss
def test_hessian_products_equal_differences_of_gradients(name: str, scope: str, loss: str) -> None:
    """Central differences in double precision, one sample at a time."""
    model, samples = made(name, loss=loss), random_samples(5)
    model.load_released(in_double({**trained(name, loss).parameters, **trained(name, loss).fixed}))
    direction = {key: value.double() for key, value in random_direction(model, scope).items()}
    ours = hessian_product(model.objective(samples, scope, RUNTIME), direction)
    step, means, start = 1e-5, [], model.parameters
    for sign in (1, -1):
        model.parameters = {**start, **{key: start[key] + sign * step * direction[key] for key in direction}}
        means.append(np.mean([flat(gradient) for _, gradient in one_at_a_time(model, samples, scope)], 0))
    model.parameters = start
    assert close(flat(ours), (means[0] - means[1]) / (2 * step))


def in_double(state: Vector) -> Vector:
    return {key: value.double() if value.is_floating_point() else value for key, value in state.items()}


@every_surrogate
@every_loss
def test_influence_equals_the_dense_solve(name: str, loss: str) -> None:
    model, samples = trained(name, loss), random_samples()
    config = InfluenceConfig(damping=0.05, scale=10, tolerance=1e-7)
    result = influence(model, samples, config, RUNTIME)
    (block,) = model.scope("block")
    objective = model.objective(samples, "all", RUNTIME)
    shape = model.parameters[block].shape

    def mean_loss(weight: Tensor) -> Tensor:
        return objective.losses({block: weight.view(shape)}, np.arange(len(samples))).mean()

    hessian = torch.func.hessian(mean_loss)(model.parameters[block].flatten()).double().numpy()
    gradients = np.stack([flat(gradient) for _, gradient in one_at_a_time(model, samples, "block")])
    system = hessian + float(result.notes["damping"]) * np.eye(len(hessian))
    expected = gradients @ np.linalg.solve(system, gradients.mean(0)) / len(samples)
    assert close(result.scores, expected, 1e-3)


@every_surrogate
@every_loss
def test_batches_and_order_change_nothing(name: str, loss: str) -> None:
    model, samples = trained(name, loss), random_samples()
    order = np.random.default_rng(5).permutation(len(samples))
    histories, targets = samples.histories.take(order), samples.targets[order]
    turned = Samples(samples.dataset, samples.ids[order], histories, targets)
    for values, there in (
        (model.losses(samples, RUNTIME), model.losses(turned, RUNTIME)),
        (model.gradient_norms(samples, "all", RUNTIME), model.gradient_norms(turned, "all", RUNTIME)),
        (model.user_vectors(samples.histories, RUNTIME), model.user_vectors(histories, RUNTIME)),
    ):
        assert np.allclose(values[order], there, rtol=1e-4, atol=1e-6)
    for row in (0, 5, 13):
        alone = samples.take(samples.ids[row : row + 1])
        assert np.allclose(model.losses(alone, RUNTIME), model.losses(samples, RUNTIME)[row], rtol=1e-5)
        norm = model.gradient_norms(samples, "all", RUNTIME)[row]
        assert np.allclose(model.gradient_norms(alone, "all", RUNTIME), norm, rtol=1e-4)


@every_surrogate
def test_same_seed_same_bytes_and_save_and_load(name: str, tmp_path: Path) -> None:
    samples, written = random_samples(), []
    for number, seed in enumerate((0, 0, 1)):
        model = made(name, dropout=0.5)
        model.fit(samples, queries_of(samples), Runtime(seed))
        model.save(tmp_path / str(number))
        written.append((tmp_path / str(number) / WEIGHTS).read_bytes())
    assert written[0] == written[1] != written[2]
    again = type(model).load(tmp_path / "2", RUNTIME)
    assert (again.config, again.report) == (model.config, model.report)
    assert (again.losses(samples, RUNTIME) == model.losses(samples, RUNTIME)).all()
    assert (
        again.scores(queries_of(samples).histories, RUNTIME) == model.scores(queries_of(samples).histories, RUNTIME)
    ).all()
    (tmp_path / "2" / WEIGHTS).write_bytes(b"not weights")
    with pytest.raises(RecommenderError, match="is no saved"):
        type(model).load(tmp_path / "2", RUNTIME)


@every_surrogate
def test_without_validation_every_epoch_runs_and_the_last_is_kept(name: str, tmp_path: Path) -> None:
    samples, seen = random_samples(), []
    model = made(name, epochs=4)

    def after_epoch(epoch: int) -> None:
        norms = model.gradient_norms(samples, "block", RUNTIME)
        seen.append((epoch, model.losses(samples, RUNTIME), norms))
        model.save(tmp_path)

    report = model.fit(samples, None, RUNTIME, after_epoch)
    assert [epoch for epoch, _, _ in seen] == [0, 1, 2, 3]
    assert report.steps == report.best_step == 4 * 2
    assert report.valid_losses == ()
    assert (seen[-1][1] == model.losses(samples, RUNTIME)).all()
    assert (seen[-1][1] == type(model).load(tmp_path, RUNTIME).losses(samples, RUNTIME)).all()
    assert (seen[0][1] != seen[-1][1]).any()
    shorter = made(name, epochs=2)
    shorter.fit(samples, None, RUNTIME)
    assert (seen[1][1] == shorter.losses(samples, RUNTIME)).all()
    assert (seen[1][2] == shorter.gradient_norms(samples, "block", RUNTIME)).all()


@every_surrogate
def test_degenerate_data(name: str) -> None:
    for rows in ([[0, 1]], [[3, 3], [3, 3]], [[1, 2], list(range(N_ITEMS)) * 9]):
        samples = samples_of(rows)
        model = made(name)
        model.fit(samples, None, RUNTIME)
        assert np.isfinite(model.gradient_norms(samples, "all", RUNTIME)).all()
        assert np.isfinite(model.losses(samples, RUNTIME)).all()
    nothing = samples.take(np.empty(0, np.int64))
    assert model.gradient_norms(nothing, "block", RUNTIME).shape == (0,)
    with pytest.raises(RecommenderError, match="no samples"):
        model.fit(nothing, None, RUNTIME)
    with pytest.raises(RecommenderError, match=r"block, last_layer or all"):
        trained(name).scope("blok")
    with pytest.raises(RecommenderError, match="do not fit"):
        made(name).load_released({"item_embeddings.weight": torch.zeros(2, 4)})
    with pytest.raises(RecommenderError, match="no weights yet"):
        made(name).item_vectors()


def test_norms_of_mixed_uses_equal_the_gradient_written_out() -> None:
    """Look-ups, and linear maps that start at different rows, of one table."""
    make = torch.Generator().manual_seed(0)
    rows, logits = torch.randint(0, 6, (3, 4), generator=make), torch.randn(3, 2, 5, generator=make)
    whole = torch.randn(3, 2, 6, generator=make)
    right = [torch.randn(3, tokens, 7, generator=make) for tokens in (4, 2, 2)]
    uses = [Use(rows, right[0]), Use(logits, right[1], first=1), Use(whole, right[2])]
    one_hot = torch.eye(6)[rows]
    padded = torch.cat([torch.zeros(3, 2, 1), logits], 2)
    gradient = sum(left.transpose(1, 2) @ x for left, x in zip((one_hot, padded, whole), right, strict=True))
    assert isinstance(gradient, Tensor)
    torch.testing.assert_close(squared_norm(uses), gradient.square().sum((1, 2)))
    torch.testing.assert_close(
        squared_norm(uses[:2]), (gradient - whole.transpose(1, 2) @ right[2]).square().sum((1, 2))
    )


def test_whole_windows_and_hashed_shares() -> None:
    windows = Windows.whole(Sequences.from_rows([[1, 2, 3, 4, 5], [6], [7, 8]]), 3, 10)
    assert [row.tolist() for row in windows.inputs] == [[3, 4, 5], [6], [7, 8]]
    assert windows.places.tolist() == [2, 3, 4, 0, 0, 1]
    assert (windows.targets == windows.inputs.items).all()
    shares = hashed_shares(np.arange(20_000), np.zeros(20_000, np.int64), 3)
    assert 0 <= shares.min() < 0.001 < 0.999 < shares.max() < 1
    assert np.histogram(shares, 10, (0, 1))[0] == pytest.approx(2000, abs=200)
