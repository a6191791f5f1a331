"""First and second derivatives of per-sample losses, in passes over batches; no per-sample gradient is ever stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import jvp

from prunebench.recommenders.runtime import Runtime

Vector = dict[str, Tensor]
"""A vector over parameters, by parameter name."""


class Objective(Protocol):
    """Per-sample losses L(s) in evaluation mode as a function of the parameters in scope, the rest held fixed."""

    parameters: Vector

    def __len__(self) -> int:
        """Number of samples n."""
        ...

    def batches(self, positions: NDArray[np.int64] | None = None) -> list[NDArray[np.int64]]:
        """The given sample positions (default: all of them) cut into batches fit for one pass."""
        ...

    def losses(self, parameters: Mapping[str, Tensor], positions: NDArray[np.int64]) -> Tensor:
        """L(s) of the samples at ``positions``, [b], differentiable in ``parameters``."""
        ...


def dot(a: Vector, b: Vector) -> float:
    """Inner product, summed in float64."""
    return float(sum(torch.sum(a[name].double() * b[name].double()) for name in a))


def axpy(scale: float, x: Vector, y: Vector) -> Vector:
    """scale · x + y."""
    return {name: y[name] + scale * x[name] for name in y}


@dataclass(frozen=True, eq=False)
class MeanGradient:
    """(1/n) Σ ∇L(s), its norm, and the standard error of that mean: √(trace of the mean's covariance)."""

    vector: Vector
    norm: float
    standard_error: float


def mean_gradient(objective: Objective, runtime: Runtime, groups: int = 32) -> MeanGradient:
    """Mean gradient in one pass, with its standard error from the spread of ``groups`` random groups' means."""
    n = len(objective)
    groups = max(min(groups, n), 1)
    total = _zeros(objective)
    squares = 0.0
    members = np.array_split(runtime.rng("gradients", "groups").permutation(n), groups)
    for part in runtime.track(members, "mean gradient"):
        here = _summed(objective, objective.batches(np.sort(part)), None)
        squares += dot(here, here) / len(part)
        for name, value in here.items():
            total[name] += value
    mean = {name: (value / n).to(objective.parameters[name].dtype) for name, value in total.items()}
    norm = dot(mean, mean) ** 0.5
    # Σ_k n_k‖g_k - v‖² / (K - 1) estimates the trace of one sample's covariance.
    trace = (squares - n * norm**2) / (groups - 1) if groups > 1 else float("nan")
    return MeanGradient(mean, norm, (max(trace, 0.0) / n) ** 0.5)


def hessian_product(objective: Objective, direction: Vector, positions: NDArray[np.int64] | None = None) -> Vector:
    """Mean over samples (all, or those at ``positions``) of ∇²L(s) · direction, reverse mode twice.

    (Forward over reverse mode is the textbook choice; in PyTorch it took twice as long, eight times for one sample.)
    """
    count = len(objective) if positions is None else len(positions)
    product = _summed(objective, objective.batches(positions), direction)
    return {name: (value / count).to(direction[name].dtype) for name, value in product.items()}


def directional_derivatives(objective: Objective, direction: Vector, runtime: Runtime) -> NDArray[np.float32]:
    """⟨∇L(s), direction⟩ for every sample, float32 [n], by one forward-mode pass."""
    result = np.empty(len(objective), np.float32)
    for positions in runtime.track(objective.batches(), "directional derivatives"):
        slope = jvp(partial(objective.losses, positions=positions), (objective.parameters,), (direction,))[1]
        result[positions] = slope.detach().cpu().numpy()
    return result


def _summed(objective: Objective, batches: Iterable[NDArray[np.int64]], direction: Vector | None) -> Vector:
    """Σ ∇L(s), or Σ ∇²L(s) · direction, over the batches' samples; float64."""
    total = _zeros(objective)
    for positions in batches:
        leaves = {name: value.detach().requires_grad_() for name, value in objective.parameters.items()}
        loss = objective.losses(leaves, positions).sum()
        part = torch.autograd.grad(loss, list(leaves.values()), create_graph=direction is not None)
        if direction is not None:
            # What the loss is linear in has no second derivative, hence no graph.
            seeds = [direction[name] for name in leaves]
            part = torch.autograd.grad(part, list(leaves.values()), seeds, materialize_grads=True)
        for name, value in zip(leaves, part, strict=True):
            total[name] += value
    return total


def _zeros(objective: Objective) -> Vector:
    return {name: torch.zeros_like(value, dtype=torch.float64) for name, value in objective.parameters.items()}
