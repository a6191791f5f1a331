"""Surrogate and influence: our batched paths timed against plain padded, per-sample references, on the same subset."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from prunebench.benchmark.timing import row, timed
from prunebench.datasets.schema import RecDataset, Samples
from prunebench.methods.influence import InfluenceConfig, conjugate_gradient
from prunebench.recommenders.batching import length_batches
from prunebench.recommenders.derivatives import Vector, directional_derivatives, hessian_product, mean_gradient
from prunebench.recommenders.runtime import Runtime
from prunebench.recommenders.surrogates.config import SASRecConfig
from prunebench.recommenders.surrogates.layers import make_dropout, no_dropout
from prunebench.recommenders.surrogates.sasrec import SASRec
from prunebench.recommenders.surrogates.windows import Examples, Windows


def rows(dataset: RecDataset, epoch_samples: int = 4096, gradient_samples: int = 512) -> list[dict[str, Any]]:
    """Rows ``{name, ours_s, reference_s, ratio}`` on random samples of ``dataset``; ratio is reference over ours.

    Reference: every row padded to the window of 50, autograd through the whole network, one sample at a time where
    derivatives per sample are wanted. Both sides' numbers are compared: RecommenderError where they disagree.
    """
    runtime = Runtime()
    drawn = runtime.rng("perf").permutation(dataset.samples().ids)
    model = SASRec(SASRecConfig(epochs=0), dataset.n_items)
    model.fit(dataset.samples().take(drawn[:2]), dataset.queries("valid"), runtime)
    epoch, gradients = dataset.samples().take(drawn[:epoch_samples]), dataset.samples().take(drawn[:gradient_samples])
    return [_training_epoch(model, epoch, runtime), *_influence(model, gradients, runtime)]


def _training_epoch(model: SASRec, samples: Samples, runtime: Runtime) -> dict[str, Any]:
    config = model.config
    windows = Windows.of(samples.sequences, config.max_length, model.n_items)
    examples = Examples.of(windows, windows.negatives(samples.ids, runtime.derive("perf negatives")))

    def epoch(width: int | None, order: list[NDArray[np.int64]]) -> float:
        leaves = {name: value.clone().requires_grad_() for name, value in model.parameters.items()}
        optimiser = torch.optim.Adam(leaves.values(), lr=config.learning_rate, fused=width is None)
        dropout = make_dropout(config.dropout, runtime.torch_rng("perf dropout"))
        batch = examples.batch(order[0], runtime.device, width)
        first = float(model.training_loss(leaves, batch, no_dropout).detach())
        for part in order:
            optimiser.zero_grad()
            model.training_loss(leaves, examples.batch(part, runtime.device, width), dropout).backward()
            optimiser.step()
        return first

    by_length = length_batches(windows.inputs.lengths, config.batch_size, rng=runtime.rng("perf order"))
    ours = timed(lambda: epoch(None, by_length))
    reference = timed(lambda: epoch(config.max_length, by_length))
    return row(f"SASRec epoch, {len(samples)} samples, against padding to {config.max_length}", ours, reference)


def _influence(model: SASRec, samples: Samples, runtime: Runtime) -> list[dict[str, Any]]:
    (name,) = model.scope("block")
    windows = Windows.of(samples.sequences, model.config.max_length, model.n_items)
    examples = Examples.of(windows, windows.negatives(samples.ids, runtime.derive("sasrec", "negatives")))
    weight = model.parameters[name].clone().requires_grad_()
    parameters = {**model.parameters, name: weight}

    def loss(position: int) -> torch.Tensor:
        one = examples.batch(np.array([position]), runtime.device, model.config.max_length)
        return model.training_loss(parameters, one, no_dropout)

    def products(direction: torch.Tensor) -> torch.Tensor:
        total = torch.zeros_like(weight)
        for position in range(len(samples)):
            (slope,) = torch.autograd.grad(loss(position), weight, create_graph=True)
            total += torch.autograd.grad(slope, weight, direction)[0]
        return total / len(samples)

    def slopes(direction: torch.Tensor) -> NDArray[np.float32]:
        gradients = (torch.autograd.grad(loss(position), weight)[0] for position in range(len(samples)))
        return np.array([float((gradient * direction).sum()) for gradient in gradients], np.float32)

    objective = model.objective(samples, "block", runtime)
    v: Vector = mean_gradient(objective, runtime).vector
    h = conjugate_gradient(objective, v, InfluenceConfig(), runtime).vector
    # PyTorch sets forward mode up on its first use in a process, once for all: a second or so that is no sample's.
    directional_derivatives(objective, h, runtime)
    label = f"{len(samples)} samples, against one at a time"
    return [
        row(
            f"Hessian-vector product, {label}",
            timed(lambda: hessian_product(objective, h)[name].numpy()),
            timed(lambda: products(h[name]).numpy()),
        ),
        row(
            f"influence scores, {label}",
            timed(lambda: directional_derivatives(objective, h, runtime)),
            timed(lambda: slopes(h[name])),
        ),
    ]
