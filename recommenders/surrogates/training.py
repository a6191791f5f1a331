"""SASRec's training loop: batches by length, negatives per epoch, early stopping on validation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from prunebench.datasets.schema import Int64, Queries
from prunebench.recommenders.base import FitReport, Float32, RecommenderError
from prunebench.recommenders.batching import length_batches, pad_left
from prunebench.recommenders.derivatives import Vector
from prunebench.recommenders.runtime import Runtime
from prunebench.recommenders.surrogates import network
from prunebench.recommenders.surrogates.config import SASRecConfig
from prunebench.recommenders.surrogates.windows import Windows, hashed_items

VALIDATION_ROWS = 1024


def train(
    parameters: Vector,
    config: SASRecConfig,
    windows: Windows,
    ids: Int64,
    validate: Callable[[], float],
    runtime: Runtime,
) -> FitReport:
    """Fit ``parameters`` in place; of all epochs, the one with the lowest ``validate()`` remains.

    A step minimises the mean over its samples of L(s), the risk whose gradient Eq. 11 uses. ``ids`` int64 [n] are the
    sample ids of the windows' rows. Raises RecommenderError for no samples.
    """
    if not len(ids):
        raise RecommenderError("SASRec cannot be trained on no samples: give it a budget above 0")
    leaves = [value.requires_grad_() for value in parameters.values()]
    optimiser = torch.optim.Adam(leaves, lr=config.learning_rate, fused=True)
    dropout = network.make_dropout(config.dropout, runtime.torch_rng("sasrec", "dropout", device=runtime.device))
    losses: list[float] = []
    best: list[Tensor] = []
    steps = best_step = 0
    for epoch in runtime.track(range(config.epochs), "surrogate epochs"):
        negatives = windows.negatives(ids, runtime.derive("sasrec", "training negatives", epoch))
        for rows in length_batches(
            windows.inputs.lengths, config.batch_size, rng=runtime.rng("sasrec", "order", epoch)
        ):
            runtime.checkpoint()
            optimiser.zero_grad()
            batch_loss(parameters, config, windows, negatives, rows, dropout).backward()
            optimiser.step()
            steps += 1
        loss = validate()
        if not losses or loss < min(losses):
            best, best_step = [value.detach().clone() for value in leaves], steps
        losses.append(loss)
        if not np.isfinite(loss):
            raise RecommenderError(f"SASRec diverged in epoch {epoch + 1}: lower its learning_rate")
        if len(losses) - 1 - int(np.argmin(losses)) >= config.patience:
            break
    for leaf, value in zip(leaves, best or leaves, strict=True):
        leaf.requires_grad_(False).copy_(value)
    return FitReport(steps, len(losses) * len(windows.targets), len(ids), tuple(losses), best_step)


def batch_loss(
    p: Vector,
    config: SASRecConfig,
    windows: Windows,
    negatives: NDArray[np.int32],
    rows: Int64,
    dropout: network.Dropout = network.no_dropout,
    width: int | None = None,
) -> Tensor:
    """Mean over the batch's samples of L(s), the mean loss over the sample's positions; padded to the longest or ``width``."""
    items = p["item_embeddings.weight"]
    source, is_real = pad_left(windows.inputs.offsets, rows, width)
    real = torch.from_numpy(is_real).to(items.device)
    cells = np.stack([windows.inputs.items[source], windows.targets[source], negatives[source]]).astype(np.int64)
    ids = torch.from_numpy(np.where(is_real, cells + 1, 0)).to(items.device)
    weight = real / (real.sum(1, keepdim=True) * len(rows))
    is_bce = config.loss == "bce"
    # One look-up for all three, because its backward pass fills a matrix of the catalogue's size.
    looked_up = F.embedding(ids if is_bce else ids[:1], items)
    x = network.embed(p, looked_up[0], dropout)
    bias = network.attention_bias(real, x.dtype)
    hidden = network.layers_forward(p, x, bias, config.heads, range(config.layers), dropout)
    if is_bce:
        return (network.bce(hidden, looked_up[1], looked_up[2]) * weight).sum()
    return network.summed_cross_entropy(hidden[real], items, ids[1][real], weight[real])


def validation_loss(users: Float32, items: Float32, queries: Queries, config: SASRecConfig, runtime: Runtime) -> float:
    """What early stopping minimises, averaged over each user's targets and then over users.

    ``users`` float32 [n, d] and ``items`` float32 [n_items, d]. ``rank``: log of the target's rank among all items, which
    unlike NDCG@10 (``ndcg``, negated) learns something from every user; ties count in full, so that a constant score is
    never rewarded. ``loss``: the training loss, BCE's negatives hashed from (seed, user, target's index).
    """
    user, item = torch.from_numpy(users), torch.from_numpy(items)
    rows, targets = torch.from_numpy(queries.targets.rows_of_items()), torch.from_numpy(queries.targets.items).long()
    values = torch.empty(len(targets))
    if config.stop_on == "loss" and config.loss == "bce":
        place = np.arange(len(targets)) - queries.targets.offsets[:-1][rows.numpy()]
        drawn = hashed_items(
            queries.users[rows.numpy()], place, runtime.derive("sasrec", "validation negatives"), len(items)
        )
        values = network.bce(user[rows], item[targets], item[torch.from_numpy(drawn)])
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
