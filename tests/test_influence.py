"""Influence: parity with the released implementation, closed forms, solvers against each other, invariances."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from prunebench.datasets.schema import RecDataset, Samples, Sequences
from prunebench.methods.base import MethodError
from prunebench.methods.influence import InfluenceConfig, conjugate_gradient, influence, lissa
from prunebench.recommenders.derivatives import (
    Vector,
    directional_derivatives,
    dot,
    hessian_product,
    mean_gradient,
)
from prunebench.recommenders.runtime import Runtime
from prunebench.recommenders.surrogates.config import SASRecConfig
from prunebench.recommenders.surrogates.objective import SequenceObjective
from prunebench.recommenders.surrogates.sasrec import SASRec
from prunebench.recommenders.surrogates.windows import Examples, Windows

GOLDEN = Path(__file__).parent / "golden" / "sasrec_influence.npz"
BLOCK = "item_encoder.layer.1.attention.dense.weight"
RUNTIME = Runtime()


def relative(ours: NDArray, golden: NDArray) -> float:
    return float(np.abs(ours - golden).max() / np.abs(golden).max())


@pytest.fixture(scope="module")
def golden() -> Mapping[str, NDArray]:
    with np.load(GOLDEN, allow_pickle=False) as file:
        return {name: file[name] for name in file}


def golden_model(golden: Mapping[str, NDArray]) -> SASRec:
    model = SASRec(SASRecConfig(d=16, max_length=12), 120)
    model.load_released({name[2:]: torch.from_numpy(golden[name]) for name in golden if name.startswith("w/")})
    return model


def golden_objective(golden: Mapping[str, NDArray], scope: str = "block") -> SequenceObjective:
    """The released model inputs, fed as they are."""
    model = golden_model(golden)
    real = golden["input_ids"] > 0
    targets = (golden["target_pos"][real] - 1).astype(np.int32)
    negatives = (golden["target_neg"][real] - 1).astype(np.int32)
    inputs = Sequences.from_flat(golden["input_ids"][real] - 1, real.sum(1))
    nothing = np.empty(0, np.int64)
    windows = Windows(inputs, targets, nothing, nothing, 120)
    return SequenceObjective(model, model.parameters, model.scope(scope), Examples.of(windows, negatives), 64, RUNTIME)


@pytest.mark.parametrize("scope", ["block", "last_layer", "all"])
def test_losses_and_gradients_equal_the_released_ones(golden: Mapping[str, NDArray], scope: str) -> None:
    objective = golden_objective(golden, scope)
    assert relative(objective.losses({}, np.arange(80)).numpy(), golden["loss"]) < 1e-5
    mean = mean_gradient(objective, RUNTIME)
    assert relative(mean.vector[BLOCK].numpy(), golden["mean_per_sample_grad"]) < 1e-4
    for row in range(0, 80, 7):
        weight = objective.parameters[BLOCK].clone().requires_grad_()
        loss = objective.losses({BLOCK: weight}, np.array([row])).sum()
        assert relative(torch.autograd.grad(loss, weight)[0].numpy(), golden["per_sample_grad"][row]) < 1e-4


def test_the_released_pooled_gradient_is_the_means_weighted_by_length(golden: Mapping[str, NDArray]) -> None:
    lengths = (golden["input_ids"] > 0).sum(1)
    objective = golden_objective(golden)
    gradients = golden["per_sample_grad"].reshape(80, -1)
    pooled = (gradients * (lengths / lengths.sum())[:, None]).sum(0)
    assert relative(pooled.reshape(16, 16), golden["v"]) < 1e-4
    assert (objective._examples.lengths == lengths).all()


def test_replayed_lissa_and_influence_equal_the_released_ones(golden: Mapping[str, NDArray]) -> None:
    objective = golden_objective(golden)
    v = {BLOCK: torch.from_numpy(golden["v"])}
    h = lissa(objective, v, golden["lissa_samples"].astype(np.int64), InfluenceConfig(), RUNTIME)
    assert relative(h[BLOCK].numpy(), golden["h"]) < 1e-4
    assert relative(directional_derivatives(objective, h, RUNTIME), golden["influence"]) < 1e-4


def test_the_jvp_pass_equals_autograd_one_sample_at_a_time(golden: Mapping[str, NDArray]) -> None:
    for scope in ("block", "last_layer", "all"):
        objective = golden_objective(golden, scope)
        make = torch.Generator().manual_seed(0)
        direction = {name: torch.randn(value.shape, generator=make) for name, value in objective.parameters.items()}
        slow = []
        for row in range(len(objective)):
            leaves = {name: value.clone().requires_grad_() for name, value in objective.parameters.items()}
            objective.losses(leaves, np.array([row])).sum().backward()
            slow.append(
                sum(float((direction[n] * leaf.grad).sum()) for n, leaf in leaves.items() if leaf.grad is not None)
            )
        assert relative(directional_derivatives(objective, direction, RUNTIME), np.array(slow)) < 1e-4


def test_standard_error_of_the_mean_gradient(golden: Mapping[str, NDArray]) -> None:
    gradients = golden["per_sample_grad"].reshape(80, -1).astype(np.float64)
    exact = np.sqrt(gradients.var(0, ddof=1).sum() / 80)
    mean = mean_gradient(golden_objective(golden), RUNTIME, groups=80)
    assert mean.standard_error == pytest.approx(exact, rel=1e-4)
    assert mean.norm == pytest.approx(np.linalg.norm(gradients.mean(0)), rel=1e-4)
    assert mean_gradient(golden_objective(golden), RUNTIME).standard_error == pytest.approx(exact, rel=0.2)


def test_hessian_product_equals_the_explicit_hessian(golden: Mapping[str, NDArray]) -> None:
    objective = golden_objective(golden)
    hessian = explicit_hessian(objective)
    direction = torch.randn(16, 16, generator=torch.Generator().manual_seed(0))
    product = hessian_product(objective, {BLOCK: direction})[BLOCK]
    assert relative(product.numpy().ravel(), hessian @ direction.numpy().ravel()) < 1e-4


def explicit_hessian(objective: SequenceObjective) -> NDArray[np.float64]:
    shape = objective.parameters[BLOCK].shape

    def mean_loss(flat: Tensor) -> Tensor:
        return objective.losses({BLOCK: flat.view(shape)}, np.arange(len(objective))).mean()

    return torch.func.hessian(mean_loss)(objective.parameters[BLOCK].flatten()).double().numpy()


def test_cg_equals_the_closed_form(golden: Mapping[str, NDArray]) -> None:
    objective = golden_objective(golden)
    v = mean_gradient(objective, RUNTIME).vector
    config = InfluenceConfig(damping=0.05, scale=4.0, tolerance=1e-6)
    solution = conjugate_gradient(objective, v, config, RUNTIME)
    system = explicit_hessian(objective) + solution.damping * np.eye(256)
    exact = np.linalg.solve(system, v[BLOCK].double().numpy().ravel())
    assert relative(solution.vector[BLOCK].numpy().ravel(), exact) < 1e-4
    assert solution.residual <= 1e-6


class Quadratic:
    """L_s(x) = ½ (x - c_s)ᵀ A_s (x - c_s), the mean Hessian known: closed forms for everything."""

    def __init__(self, matrices: NDArray, centres: NDArray) -> None:
        self.matrices, self.centres = torch.from_numpy(matrices), torch.from_numpy(centres)
        self.parameters: Vector = {"x": torch.zeros(matrices.shape[1], dtype=torch.float64)}

    def __len__(self) -> int:
        return len(self.matrices)

    def batches(self, positions: NDArray[np.int64] | None = None) -> list[NDArray[np.int64]]:
        return np.array_split(np.arange(len(self)) if positions is None else positions, 2 if positions is None else 1)

    def losses(self, parameters: Mapping[str, Tensor], positions: NDArray[np.int64]) -> Tensor:
        away = parameters["x"] - self.centres[positions]
        return 0.5 * torch.einsum("bi,bij,bj->b", away, self.matrices[positions], away)


def quadratic(smallest: float) -> Quadratic:
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((5, 5)))[0]
    common = basis @ np.diag([smallest, 0.5, 1.0, 2.0, 3.0]) @ basis.T
    return Quadratic(np.repeat(common[None], 6, 0), rng.standard_normal((6, 5)))


def test_cg_and_lissa_reach_the_closed_form_on_a_known_hessian() -> None:
    objective = quadratic(0.2)
    v = mean_gradient(objective, RUNTIME).vector
    config = InfluenceConfig(damping=0.02, scale=10.0, tolerance=1e-10)
    exact = np.linalg.solve(objective.matrices[0].numpy() + 0.2 * np.eye(5), v["x"].numpy())
    assert np.allclose(conjugate_gradient(objective, v, config, RUNTIME).vector["x"].numpy(), exact, rtol=1e-8)
    drawn = np.random.default_rng(1).integers(6, size=(1500, 1))
    h = lissa(objective, v, drawn, config, RUNTIME)
    assert np.allclose(h["x"].numpy() / config.scale, exact, rtol=1e-8)


def test_cg_raises_the_damping_on_negative_curvature_and_records_it() -> None:
    objective = quadratic(-1.0)
    v = mean_gradient(objective, RUNTIME).vector
    solution = conjugate_gradient(objective, v, InfluenceConfig(damping=0.02, scale=10.0, tolerance=1e-9), RUNTIME)
    assert solution.damping > 0.2
    assert solution.restarts >= 1
    system = objective.matrices[0].numpy() + solution.damping * np.eye(5)
    assert np.allclose(solution.vector["x"].numpy(), np.linalg.solve(system, v["x"].numpy()), rtol=1e-6)


def test_lissa_says_that_it_diverges() -> None:
    objective = quadratic(0.2)
    v = mean_gradient(objective, RUNTIME).vector
    with pytest.raises(MethodError, match="raise its scale"):
        lissa(objective, v, np.zeros((3000, 1), np.int64), InfluenceConfig(scale=0.5), RUNTIME)


def samples_and_model(loss: str = "bce") -> tuple[SASRec, Samples]:
    rng = np.random.default_rng(0)
    rows = [rng.integers(30, size=rng.integers(2, 14)).tolist() for _ in range(50)]
    data = RecDataset(
        "random",
        tuple(map(str, range(30))),
        Sequences.from_rows(rows),
        Sequences.from_rows([[int(rng.integers(30))] for _ in rows]),
        Sequences.empty(50),
    )
    model = SASRec(SASRecConfig(d=8, max_length=10, loss=loss, epochs=4, learning_rate=0.01, batch_size=10), 30)
    model.fit(data.samples(), data.queries("valid"), RUNTIME)
    return model, data.samples()


def test_lissa_converges_to_the_scores_of_cg() -> None:
    model, samples = samples_and_model()
    exact = influence(model, samples, InfluenceConfig(damping=0.05, tolerance=1e-6), RUNTIME)
    config = InfluenceConfig(solver="lissa", damping=0.05, steps=200, batch_size=50)
    recursion = influence(model, samples, config, RUNTIME)
    assert np.corrcoef(exact.scores, recursion.scores)[0, 1] > 0.999
    assert np.abs(recursion.scores - exact.scores).max() < 0.05 * np.abs(exact.scores).max()


@pytest.mark.parametrize("loss", ["bce", "ce"])
@pytest.mark.parametrize("scope", ["block", "all"])
def test_influence_predicts_the_closed_form(loss: str, scope: str) -> None:
    """Σ_s I(s) = vᵀ(H + λI)⁻¹v, whatever the scope and loss: Eq. 11's 1/n factors, summed over all samples."""
    model, samples = samples_and_model(loss)
    result = influence(model, samples, InfluenceConfig(scope=scope, tolerance=1e-6), RUNTIME)
    objective = model.objective(samples, scope, RUNTIME)
    v = mean_gradient(objective, RUNTIME).vector
    config = InfluenceConfig(scope=scope, tolerance=1e-6)
    x = conjugate_gradient(objective, v, config, RUNTIME).vector
    assert float(result.scores.sum()) == pytest.approx(dot(v, x), rel=1e-3)
    assert result.scores.shape == (len(samples),)
    assert result.notes["residual"] <= 1e-6


def test_scores_do_not_depend_on_what_shares_a_batch() -> None:
    model, samples = samples_and_model()
    (name,) = model.scope("block")
    direction = {name: torch.randn(8, 8, generator=torch.Generator().manual_seed(0))}
    together = directional_derivatives(model.objective(samples, "block", RUNTIME), direction, RUNTIME)
    for row in range(0, 50, 9):
        alone = model.objective(samples.take(samples.ids[row : row + 1]), "block", RUNTIME)
        assert directional_derivatives(alone, direction, RUNTIME)[0] == pytest.approx(together[row], rel=1e-4, abs=1e-7)


def test_same_seed_same_bytes() -> None:
    model, samples = samples_and_model()
    for config in (InfluenceConfig(), InfluenceConfig(solver="lissa", steps=50)):
        first, again = (influence(model, samples, config, Runtime(4)) for _ in range(2))
        assert first.scores.tobytes() == again.scores.tobytes()
        assert first.notes == again.notes


def test_no_samples_are_refused() -> None:
    model, samples = samples_and_model()
    with pytest.raises(MethodError, match="at least one sample"):
        influence(model, samples.take(np.empty(0, np.int64)), InfluenceConfig(), RUNTIME)
