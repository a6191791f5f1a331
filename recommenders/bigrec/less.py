"""LESS: how well each sample's Adam step on the adapter fits the gradient of validation users.

Xia et al., ICML 2024, arXiv 2402.04333; code princeton-nlp/LESS. The loss ℓ of a sample is the mean over its counted
tokens throughout. For each epoch i of the warm-up, with the mean learning rate η_i of its steps,

    score(s) = Σ_i (η_i / Σ η) · cos(Γ_i(s), mean over validation users of ∇ℓ),   Γ = m̂ / √(v̂ + ε),

m̂ and v̂ being Adam's bias-corrected moments after one more step on s alone, as in the paper. What the released code
does otherwise: it leaves out the bias correction (which a cosine sees only through ε) and averages the cosines to each
validation gradient, where the paper and this module take the cosine to their mean.

The projection is a count sketch (Charikar et al., 2002; Weinberger et al., 2009): each of the P parameters is added,
with a random sign, to one random dimension. Like the paper's dense P × 8192 matrix of signs it keeps inner products in
expectation, at a cost of P per sample, not 8192 · P. As every sample meets one vector, features live for one batch only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from prunebench.datasets.schema import Queries, Samples
from prunebench.recommenders.base import AlignmentConfig, Float32, RecommenderError
from prunebench.recommenders.bigrec.config import BIGRecConfig
from prunebench.recommenders.bigrec.model import sample_losses
from prunebench.recommenders.bigrec.prompts import Batch, PromptBuilder, Prompts
from prunebench.recommenders.bigrec.warm_up import Checkpoint, drawn, warm_up
from prunebench.recommenders.gradients import sample_gradients
from prunebench.recommenders.resumable import in_chunks
from prunebench.recommenders.runtime import Runtime

CELLS = 2**24
"""Gradient entries held at once, 64 MiB; a handful of arrays of that size are alive together."""

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Sketch:
    """Count sketch of vectors [b, P] to [b, width]: ``bucket`` int64 [P], ``sign`` float32 [P]."""

    bucket: Tensor
    sign: Tensor
    width: int

    @classmethod
    def draw(cls, size: int, width: int, runtime: Runtime) -> Sketch:
        generator = runtime.torch_rng("less", "projection")
        bucket = torch.randint(width, (size,), generator=generator)
        sign = torch.randint(2, (size,), generator=generator) * 2.0 - 1.0
        return cls(bucket.to(runtime.device), sign.to(runtime.device), width)

    def __call__(self, vectors: Tensor) -> Tensor:
        return vectors.new_zeros(len(vectors), self.width).index_add_(1, self.bucket, vectors * self.sign)


def alignment(
    model: Any,
    builder: PromptBuilder,
    samples: Samples,
    validation: Queries,
    config: BIGRecConfig,
    settings: AlignmentConfig,
    runtime: Runtime,
    folder: Path,
) -> Float32:
    """LESS's scores of ``samples``, float32 [n], highest first; see the module and ``HasAlignment.alignment``.

    A validation user stands for the first target, its answer's tokens alone, as in the stop loss. Memory is bounded by
    ``CELLS``, whatever n. Draws from the global generators.
    Raises RecommenderError without validation users, or where the warm-up diverged.
    """
    if not len(validation):
        raise RecommenderError(
            f"{samples.dataset.name} has no validation users to align with: choose a method that reads none"
        )
    if not len(samples):
        return np.empty(0, np.float32)
    layers = adapter_layers(model)
    weights: list[Tensor] = [layer.weight for layer in layers]
    checkpoints = warm_up(model, weights, builder, samples, config, settings, runtime, folder)
    chosen = validation.take(drawn(validation.users, settings.validation_users, runtime, "less", "validation users"))
    towards = builder.with_answers(chosen.histories, chosen.targets.items[chosen.targets.offsets[:-1]], "answer")
    project = projection(len(checkpoints[0].weights), settings.projection, runtime)

    def scores_at(number: int, checkpoint: Checkpoint) -> Float32:
        vector_to_parameters(checkpoint.weights.clone(), weights)
        what = f"LESS, checkpoint {number + 1} of {len(checkpoints)}"
        named = replace(runtime, report=lambda done, count, _: runtime.report(done, count, what))
        path = folder / f"goal-{number}.npy"
        if not path.exists():
            _keep(path, mean_gradient(model, weights, towards, config.batch_tokens, named), runtime)
        goal = project(torch.from_numpy(np.load(path)).to(runtime.device)[None])[0]

        def features(gradients: Tensor) -> Tensor:
            return project(checkpoint.features(gradients, settings.epsilon))

        def scores(positions: NDArray[np.int64], inner: Runtime) -> Float32:
            histories, targets = samples.histories.take(positions), samples.targets[positions]
            prompts = builder.with_answers(histories, targets, config.loss_on)
            return cosines(model, layers, prompts, features, goal, config.batch_tokens, inner)

        return in_chunks(folder, f"cosines-{number}", len(samples), scores, named)

    rates = np.array([checkpoint.rate for checkpoint in checkpoints])
    total = np.zeros(len(samples))
    for number, (checkpoint, share) in enumerate(zip(checkpoints, rates / rates.sum(), strict=True)):
        total += share * scores_at(number, checkpoint)
    return total.astype(np.float32)


def adapter_layers(model: Any) -> list[nn.Linear]:
    """The adapter's linear layers, A and B. Raises RecommenderError if there is none."""
    layers = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and (".lora_A." in name or ".lora_B." in name)
    ]
    if not layers:
        raise RecommenderError("LESS needs the adapter on linear layers: choose other lora.targets")
    return layers


def projection(size: int, width: int | None, runtime: Runtime) -> Map:
    """From vectors [b, size] to [b, width]; as they are without a width, or where that would make them longer."""
    return Sketch.draw(size, width, runtime) if width is not None and size > width else lambda vectors: vectors


def mean_gradient(model: Any, weights: list[Tensor], prompts: Prompts, batch_tokens: int, runtime: Runtime) -> Tensor:
    """Mean over ``prompts`` of ∇ℓ, float32 [P] on the CPU, summed batch by batch in float64."""
    total, done = torch.zeros(sum(weight.numel() for weight in weights), dtype=torch.float64), 0
    for positions in prompts.batches(batch_tokens):
        runtime.checkpoint()
        loss = _losses(model, prompts.batch(positions).to(runtime.device)).sum()
        total += (
            parameters_to_vector(torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True))
            .cpu()
            .double()
        )
        done += len(positions)
        runtime.report(done, len(prompts), "validation gradient")
    return (total / len(prompts)).float()


def cosines(
    model: Any,
    layers: list[nn.Linear],
    prompts: Prompts,
    features: Map,
    goal: Tensor,
    batch_tokens: int,
    runtime: Runtime,
) -> Float32:
    """cos(features(∇ℓ), goal) of each prompt, float32 [n]; 0 where either vanishes.

    ``features`` takes gradients [b, P] to the space of ``goal`` [k]. One forward and backward pass per batch.
    """
    result, done = np.empty(len(prompts), np.float32), 0
    tiny = torch.finfo(torch.float32).tiny
    goal = goal / goal.norm().clamp_min(tiny)
    rows = max(1, CELLS // sum(layer.weight.numel() for layer in layers))
    for positions in prompts.batches(batch_tokens, rows):
        runtime.checkpoint()
        batch = prompts.batch(positions).to(runtime.device)

        def losses(batch: Batch = batch) -> Tensor:
            return _losses(model, batch)

        gradients = sample_gradients(model, layers, losses)
        found = features(torch.cat([gradients[layer].flatten(1) for layer in layers], 1))
        result[positions] = (found @ goal / found.norm(dim=1).clamp_min(tiny)).cpu().numpy()
        done += len(positions)
        runtime.report(done, len(prompts), "cosines")
    return result


def _losses(model: Any, batch: Batch) -> Tensor:
    """ℓ: mean over each sample's counted tokens, [b]."""
    sums, counts = sample_losses(model, batch)
    return sums / counts


def _keep(path: Path, vector: Tensor, runtime: Runtime) -> None:
    half = path.with_suffix(".half.npy")
    np.save(half, vector.numpy())
    half.replace(path)
    runtime.saved()
