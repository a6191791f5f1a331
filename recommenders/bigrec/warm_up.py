"""The warm-up of LESS: a few epochs of the adapter on a share of the samples, Adam's moments kept after each."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from prunebench.datasets.schema import Samples
from prunebench.recommenders.base import AlignmentConfig, RecommenderError
from prunebench.recommenders.bigrec.config import BIGRecConfig
from prunebench.recommenders.bigrec.model import sample_losses
from prunebench.recommenders.bigrec.prompts import PromptBuilder, Prompts
from prunebench.recommenders.fine_tuning import EpochOrder
from prunebench.recommenders.runtime import Runtime

BETAS = (0.9, 0.999)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The adapter after an epoch: weights and Adam's raw moments, float32 [P]; steps so far; the epoch's mean lr."""

    weights: Tensor
    first: Tensor
    second: Tensor
    steps: int
    rate: float

    def save(self, path: Path) -> None:
        half = path.with_suffix(".half")
        torch.save(asdict(self), half)
        half.replace(path)

    @classmethod
    def load(cls, path: Path, device: torch.device) -> Checkpoint:
        return cls(**torch.load(path, map_location=device, weights_only=True))

    def features(self, gradients: Tensor, epsilon: float) -> Tensor:
        """Γ = m̂ / √(v̂ + ε) of samples with gradients [b, P]: Adam's direction were the next step on that one alone."""
        step = self.steps + 1
        (old_first, new_first), (old_second, new_second) = (
            (beta / (1 - beta**step), (1 - beta) / (1 - beta**step)) for beta in BETAS
        )
        scale = gradients.square().mul_(new_second).add_(old_second * self.second).add_(epsilon).sqrt_()
        return gradients.mul(new_first).add_(old_first * self.first).div_(scale)


def warm_up(
    model: Any,
    weights: list[Tensor],
    builder: PromptBuilder,
    samples: Samples,
    config: BIGRecConfig,
    settings: AlignmentConfig,
    runtime: Runtime,
    folder: Path,
) -> list[Checkpoint]:
    """Fine-tune ``weights`` on a share of the samples; the checkpoint of each epoch, kept in ``folder``.

    The loss of a step is the mean over its samples of each one's mean over its counted tokens: what LESS later takes
    gradients of. A loop of its own: the Trainer behind ``training.train`` keeps two checkpoints and stops early, where
    this needs Adam's moments after every epoch of a fixed number. Dropout is on, from a seed per epoch, so that an
    interrupted warm-up continues to the same numbers. Draws from the global generators.
    Raises RecommenderError where the weights are no longer finite.
    """
    count = max(1, round(settings.share * len(samples)))
    rows = drawn(samples.ids, count, runtime, "less", "warm-up samples")
    prompts = builder.with_answers(samples.histories.take(rows), samples.targets[rows], config.loss_on)
    order, steps = EpochOrder(prompts.lengths, config.batch, runtime), -(-count // config.batch)
    top, last = config.lr if settings.lr is None else settings.lr, steps * settings.epochs
    optimizer = torch.optim.AdamW(weights, lr=top, betas=BETAS, weight_decay=config.weight_decay)
    checkpoints: list[Checkpoint] = []
    for epoch in range(settings.epochs):
        path = folder / f"epoch-{epoch}.pt"
        if not path.exists():
            if checkpoints:
                _restore(optimizer, weights, checkpoints[-1])
            done = epoch * steps + np.arange(steps)
            rates = top * (1 - done / last if settings.schedule == "linear" else np.ones(steps))
            torch.manual_seed(runtime.derive("less", "dropout", epoch))
            model.train()
            for step, batch in enumerate(np.split(order.order(epoch), np.arange(config.batch, count, config.batch))):
                runtime.checkpoint()
                optimizer.param_groups[0]["lr"] = float(rates[step])
                _set_gradients(model, weights, prompts, batch, config.micro_batch, runtime)
                optimizer.step()
                runtime.report(int(done[step]) + 1, last, "LESS, warm-up")
            model.eval()
            _snapshot(optimizer, weights, (epoch + 1) * steps, float(rates.mean())).save(path)
            runtime.saved()
        checkpoints.append(Checkpoint.load(path, runtime.device))
        if not bool(checkpoints[-1].weights.isfinite().all()):
            raise RecommenderError(f"the warm-up of LESS diverged at a rate of {top:g}: give a lower method.lr")
    return checkpoints


def drawn(ids: NDArray[np.int64], count: int | None, runtime: Runtime, *purpose: str) -> NDArray[np.int64]:
    """Positions, by increasing id, of ``count`` ids (None, or too many: all) drawn whatever the ids' order."""
    order = np.argsort(ids, kind="stable")
    if count is None or count >= len(ids):
        return order
    luck = runtime.rng(*purpose).random(int(ids.max()) + 1)[ids[order]]
    return order[np.sort(np.argsort(luck, kind="stable")[:count])]


def _set_gradients(
    model: Any, weights: list[Tensor], prompts: Prompts, batch: NDArray[np.int64], rows: int, runtime: Runtime
) -> None:
    """Leave the gradient of the batch's mean loss in the weights, ``rows`` samples at a time."""
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
    for start in range(0, len(batch), rows):
        sums, counts = sample_losses(model, prompts.batch(batch[start : start + rows]).to(runtime.device))
        ((sums / counts).sum() / len(batch)).backward()


def _snapshot(optimizer: torch.optim.Optimizer, weights: list[Tensor], steps: int, rate: float) -> Checkpoint:
    first, second = ([optimizer.state[weight][name] for weight in weights] for name in ("exp_avg", "exp_avg_sq"))
    vectors = [parameters_to_vector(tensors).detach().cpu() for tensors in (weights, first, second)]
    return Checkpoint(vectors[0], vectors[1], vectors[2], steps, rate)


def _restore(optimizer: torch.optim.Optimizer, weights: list[Tensor], checkpoint: Checkpoint) -> None:
    first, second = ([torch.empty_like(weight) for weight in weights] for _ in range(2))
    vector_to_parameters(checkpoint.weights.clone(), weights)
    vector_to_parameters(checkpoint.first.clone(), first)
    vector_to_parameters(checkpoint.second.clone(), second)
    step = torch.tensor(float(checkpoint.steps))
    for weight, one, two in zip(weights, first, second, strict=True):
        optimizer.state[weight] = {"step": step.clone(), "exp_avg": one, "exp_avg_sq": two}
