"""Influence scores: what removing a sample would do to the empirical risk, by one inverse-Hessian product (Eq. 11)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from prunebench.datasets.schema import Samples
from prunebench.methods.base import MethodError
from prunebench.recommenders.base import Config, Surrogate
from prunebench.recommenders.derivatives import (
    Objective,
    Vector,
    axpy,
    directional_derivatives,
    dot,
    hessian_product,
    mean_gradient,
)
from prunebench.recommenders.runtime import Runtime


class InfluenceConfig(Config):
    """Settings of Eq. 11. ``damping`` δ and ``scale`` σ are LiSSA's; both solvers solve (H + δσI) x = v."""

    solver: Literal["cg", "lissa"] = Field(
        default="cg", description="conjugate gradient over all the data, or Alg. 1's recursion"
    )
    scope: Literal["block", "last_layer", "all"] = Field(default="block", description="surrogate parameters that count")
    damping: float = Field(default=0.01, gt=0, lt=1, description="δ")
    scale: float = Field(default=25.0, gt=0, description="σ")
    steps: int = Field(default=5000, ge=1, description="lissa: steps of the recursion")
    batch_size: int = Field(default=1, ge=1, description="lissa: samples per step")
    iterations: int = Field(default=200, ge=1, description="cg: upper bound")
    tolerance: float = Field(default=1e-4, gt=0, description="cg: residual norm relative to v's at which it stops")


@dataclass(frozen=True, eq=False)
class InfluenceResult:
    """``scores`` float32 [n], aligned with ``samples.ids``; ``notes``: solver, its damping and residual, ‖v‖ and its error."""

    scores: NDArray[np.float32]
    notes: dict[str, float | int | str]


@dataclass(frozen=True, eq=False)
class Solution:
    """``vector`` x with (H + ``damping`` I) x = v up to ``residual``, relative to ‖v‖ (NaN where it was not measured)."""

    vector: Vector
    damping: float
    iterations: int
    residual: float
    restarts: int = 0


def influence(surrogate: Surrogate, samples: Samples, config: InfluenceConfig, runtime: Runtime) -> InfluenceResult:
    """I(s) = (1/n) ∇L(s)ᵀ (H + δσI)⁻¹ v with v = (1/n) Σ ∇L(s_i) and H = (1/n) Σ ∇²L(s_i), Eq. 11.

    LiSSA's h converges to σ times the inverse-Hessian product, and the released code leaves σ in; here it is divided out,
    so both solvers and all scales give the same numbers. Raises MethodError where the solver breaks down.
    """
    n = len(samples)
    if not n:
        raise MethodError("influence needs at least one sample, and there are none")
    objective = surrogate.objective(samples, config.scope, runtime)
    mean = mean_gradient(objective, runtime)
    if config.solver == "cg":
        solution = conjugate_gradient(objective, mean.vector, config, runtime)
    else:
        drawn = runtime.rng("influence", "lissa").integers(n, size=(config.steps, config.batch_size))
        h = lissa(objective, mean.vector, drawn, config, runtime)
        inverse = {name: value / config.scale for name, value in h.items()}
        solution = Solution(inverse, config.damping * config.scale, config.steps, float("nan"))
    scores = directional_derivatives(objective, solution.vector, runtime) / n
    if not np.isfinite(scores).all():
        raise MethodError("influence scores are not finite: train the surrogate again with a lower learning rate")
    notes: dict[str, float | int | str] = {
        "solver": config.solver,
        "scope": config.scope,
        "gradient_norm": mean.norm,
        "gradient_standard_error": mean.standard_error,
        "damping": solution.damping,
        "iterations": solution.iterations,
        "restarts": solution.restarts,
    }
    if config.solver == "cg":
        notes["residual"] = solution.residual
    return InfluenceResult(scores.astype(np.float32), notes)


def lissa(
    objective: Objective, v: Vector, drawn: NDArray[np.int64], config: InfluenceConfig, runtime: Runtime
) -> Vector:
    """Alg. 1 as released: h ← v + (1 - δ) h - (∇²L(s_t) h) / σ from h = v; converges to σ (H + δσI)⁻¹ v.

    ``drawn`` int64 [steps] or [steps, b]: the sample positions of every step. Raises MethodError where it diverges.
    """
    h = v
    for step, positions in enumerate(runtime.track(drawn, "lissa")):
        product = hessian_product(objective, h, np.atleast_1d(positions))
        h = {name: v[name] + (1 - config.damping) * h[name] - product[name] / config.scale for name in v}
        if step % 100 == 99 and not np.isfinite(dot(h, h)):
            raise MethodError(f"lissa diverged by step {step + 1}: raise its scale ({config.scale}) or use solver cg")
    if not np.isfinite(dot(h, h)):
        raise MethodError(f"lissa diverged: raise its scale ({config.scale}) or use solver cg")
    return h


def conjugate_gradient(objective: Objective, v: Vector, config: InfluenceConfig, runtime: Runtime) -> Solution:
    """Solve (H + λI) x = v, λ = δσ. Away from a minimum H may be indefinite: where a direction of negative curvature
    turns up, λ is raised to twice what it lacked there, at least doubled, and the solve starts again."""
    damping, restarts, products = config.damping * config.scale, 0, 0
    norm = dot(v, v) ** 0.5
    if norm == 0:
        return Solution(v, damping, 0, 0.0)
    x = {name: value * 0 for name, value in v.items()}
    residual = direction = v
    squared = norm**2
    while products < config.iterations and squared**0.5 > config.tolerance * norm:
        runtime.checkpoint()
        runtime.report(products, config.iterations, "conjugate gradient")
        image = axpy(damping, direction, hessian_product(objective, direction))
        products += 1
        length, curvature = dot(direction, direction), dot(direction, image)
        if not np.isfinite(curvature):
            raise MethodError("the surrogate's curvature is not finite: train it again with a lower learning rate")
        if curvature <= 0:
            damping, restarts = max(2 * damping, damping - 2 * curvature / length), restarts + 1
            x = {name: value * 0 for name, value in v.items()}
            residual = direction = v
            squared = norm**2
            continue
        step = squared / curvature
        x, residual = axpy(step, direction, x), axpy(-step, image, residual)
        before, squared = squared, dot(residual, residual)
        direction = axpy(squared / before, direction, residual)
    if squared**0.5 > config.tolerance * norm:
        runtime.report(products, config.iterations, "conjugate gradient stopped short of its tolerance")
    return Solution(x, damping, products, squared**0.5 / norm, restarts)
