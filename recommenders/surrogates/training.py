"""The surrogates' training loop: batches by length, fresh draws per epoch, early stopping on validation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from prunebench.datasets.schema import Int64, Queries
from prunebench.recommenders.base import FitReport, Float32, RecommenderError
from prunebench.recommenders.batching import length_batches
from prunebench.recommenders.derivatives import Vector
from prunebench.recommenders.runtime import Runtime
from prunebench.recommenders.surrogates.config import SequenceConfig
from prunebench.recommenders.surrogates.layers import Dropout, Parameters, make_dropout
from prunebench.recommenders.surrogates.losses import bce
from prunebench.recommenders.surrogates.windows import Batch, Examples, Windows, hashed_items

VALIDATION_ROWS = 1024


class Learner(Protocol):
    """What the loop trains: ``base.SequenceSurrogate``."""

    config: SequenceConfig
    parameters: Vector
    name: ClassVar[str]

    def examples(self, windows: Windows, ids: Int64, draw: Callable[[str], int]) -> Examples: ...

    def training_loss(self, p: Parameters, batch: Batch, dropout: Dropout) -> Tensor: ...


def train(
    learner: Learner,
    fixed: Parameters,
    windows: Windows,
    ids: Int64,
    validate: Callable[[], float] | None,
    after_epoch: Callable[[int], None] | None,
    runtime: Runtime,
) -> FitReport:
    """Fit the parameters in place; of all epochs, the one with the lowest ``validate()`` remains, or without it the last.

    A step minimises the mean over its samples of L(s), the risk whose gradient Eq. 11 uses. ``ids`` int64 [n] are the
    sample ids of the windows' rows, ``fixed`` what is read beside the parameters. Raises RecommenderError for no samples
    and where training diverges.
    """
    name, config, title = learner.name, learner.config, type(learner).__name__
    if not len(ids):
        raise RecommenderError(f"{title} cannot be trained on no samples: give it a budget above 0")
    leaves = [value.requires_grad_() for value in learner.parameters.values()]
    p = {**fixed, **learner.parameters}
    optimiser = torch.optim.Adam(leaves, lr=config.learning_rate, fused=True)
    dropout = make_dropout(config.dropout, runtime.torch_rng(name, "dropout", device=runtime.device))
    losses: list[float] = []
    best: list[Tensor] = []
    steps = best_step = tokens = 0
    for epoch in runtime.track(range(config.epochs), "surrogate epochs"):
        examples = learner.examples(windows, ids, partial(_epoch_seed, runtime, name, epoch))
        last = torch.zeros(())
        for rows in length_batches(examples.lengths, config.batch_size, rng=runtime.rng(name, "order", epoch)):
            runtime.checkpoint()
            optimiser.zero_grad()
            last = learner.training_loss(p, examples.batch(rows, runtime.device), dropout)
            last.backward()
            optimiser.step()
            steps += 1
        tokens += len(examples.inputs)
        if not np.isfinite(loss := float(last.detach()) if validate is None else validate()):
            raise RecommenderError(f"{title} diverged in epoch {epoch + 1}: lower its learning_rate")
        if after_epoch is not None:
            after_epoch(epoch)
        if validate is None:
            best_step = steps
            continue
        if not losses or loss < min(losses):
            best, best_step = [value.detach().clone() for value in leaves], steps
        losses.append(loss)
        if len(losses) - 1 - int(np.argmin(losses)) >= config.patience:
            break
    for leaf, value in zip(leaves, best or leaves, strict=True):
        leaf.requires_grad_(False).copy_(value)
    return FitReport(steps, tokens, len(ids), tuple(losses), best_step)


def _epoch_seed(runtime: Runtime, name: str, epoch: int, purpose: str) -> int:
    return runtime.derive(name, f"training {purpose}", epoch)


def validation_loss(users: Float32, items: Float32, queries: Queries, config: SequenceConfig, seed: int) -> float:
    """What early stopping minimises, averaged over each user's targets and then over users.

    ``users`` float32 [n, d] and ``items`` float32 [n_items, d]. ``rank``: log of the target's rank among all items, which
    unlike NDCG@10 (``ndcg``, negated) learns something from every user; ties count in full, so that a constant score is
    never rewarded. ``loss``: the training loss, BCE's negatives hashed from (``seed``, user, target's index).
    """
    user, item = torch.from_numpy(users), torch.from_numpy(items)
    rows, targets = torch.from_numpy(queries.targets.rows_of_items()), torch.from_numpy(queries.targets.items).long()
    values = torch.empty(len(targets))
    if config.stop_on == "loss" and config.loss == "bce":
        place = np.arange(len(targets)) - queries.targets.offsets[:-1][rows.numpy()]
        drawn = hashed_items(queries.users[rows.numpy()], place, seed, len(items))
        values = bce(user[rows], item[targets], item[torch.from_numpy(drawn)])
    else:
        for first in range(0, len(queries), VALIDATION_ROWS):
            part = (rows >= first) & (rows < first + VALIDATION_ROWS)
            logits, row = user[first : first + VALIDATION_ROWS] @ item.T, rows[part] - first
            own = logits[row, targets[part]]
            if config.stop_on == "loss":
                values[part] = logits.logsumexp(1)[row] - own
            else:
                values[part] = logits[row].ge_(own[:, None]).sum(1)
        if config.stop_on == "rank":
            values.log_()
        elif config.stop_on == "ndcg":
            values = torch.where(values <= 10, -1 / torch.log2(values + 1), 0.0)
    share = 1 / torch.from_numpy(queries.targets.lengths)[rows].double()
    return float((values.double() * share).sum() / len(queries))
