"""SASRec's training loop: batches by length, negatives per epoch, early stopping on validation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from prunebench.datasets.schema import Queries, Samples
from prunebench.recommenders.base import FitReport, RecommenderError
from prunebench.recommenders.batching import length_batches, pad_left
from prunebench.recommenders.runtime import Runtime
from prunebench.recommenders.surrogates import network
from prunebench.recommenders.surrogates.windows import Windows, bounded, mix

if TYPE_CHECKING:
    from prunebench.recommenders.surrogates.sasrec import SASRec

VALIDATION_ROWS = 1024


def train(model: SASRec, samples: Samples, valid: Queries, runtime: Runtime) -> FitReport:
    """Fit ``model.parameters`` in place and restore the best epoch's.

    A step minimises the mean over its samples of L(s), the risk whose gradient Eq. 11 uses. Raises RecommenderError for
    no samples.
    """
    c = model.config
    if not len(samples):
        raise RecommenderError("SASRec cannot be trained on no samples: give it a budget above 0")
    windows = Windows.of(samples.sequences, c.max_length, model.n_items)
    leaves = {name: value.requires_grad_() for name, value in model.parameters.items()}
    optimiser = torch.optim.Adam(leaves.values(), lr=c.learning_rate, fused=True)
    dropout = network.make_dropout(c.dropout, runtime.torch_rng("sasrec", "dropout", device=runtime.device))
    stop = _Stop(c.patience)
    steps = 0
    for epoch in runtime.track(range(c.epochs), "surrogate epochs"):
        negatives = windows.negatives(samples.ids, runtime.derive("sasrec", "training negatives", epoch))
        order = length_batches(windows.inputs.lengths, c.batch_size, rng=runtime.rng("sasrec", "order", epoch))
        for rows in order:
            runtime.checkpoint()
            optimiser.zero_grad()
            batch_loss(leaves, windows, negatives, rows, c.heads, c.loss, dropout, runtime).backward()
            optimiser.step()
        steps += len(order)
        if stop.update(validation_loss(model, valid, runtime), steps, leaves):
            break
    model.parameters = stop.best if stop.best else {name: value.detach() for name, value in leaves.items()}
    return FitReport(
        steps=steps,
        tokens=(epoch + 1) * len(windows.targets) if c.epochs else 0,
        samples=len(samples),
        valid_losses=tuple(stop.losses),
        best_step=stop.best_step,
    )


class _Stop:
    """Keeps the parameters with the lowest loss and tells when ``patience`` epochs brought nothing lower."""

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.losses: list[float] = []
        self.best: dict[str, Tensor] = {}
        self.best_step = 0

    def update(self, loss: float, step: int, parameters: dict[str, Tensor]) -> bool:
        if not self.losses or loss < min(self.losses):
            self.best = {name: value.detach().clone() for name, value in parameters.items()}
            self.best_step = step
        self.losses.append(loss)
        return len(self.losses) - 1 - int(np.argmin(self.losses)) >= self.patience


def batch_loss(
    p: dict[str, Tensor],
    windows: Windows,
    negatives: NDArray[np.int32],
    rows: NDArray[np.int64],
    heads: int,
    loss: str,
    dropout: network.Dropout,
    runtime: Runtime,
) -> Tensor:
    """Mean over the batch's samples of L(s), the mean loss over the sample's positions."""
    source, is_real = pad_left(windows.inputs.offsets, rows)
    real = torch.from_numpy(is_real).to(runtime.device)
    cells = np.stack([windows.inputs.items[source], windows.targets[source], negatives[source]]).astype(np.int64)
    ids = torch.from_numpy(np.where(is_real, cells + 1, 0)).to(runtime.device)
    items = p["item_embeddings.weight"]
    weight = real / (real.sum(1, keepdim=True) * len(rows))
    layers = range(sum(name.endswith("attention.dense.weight") for name in p))
    if loss == "bce":
        # One look-up for all three, because its backward pass is one dense matrix of the catalogue's size.
        vectors, positive, negative = F.embedding(ids, items)
    else:
        vectors = F.embedding(ids[0], items)
    x = network.embed(p, vectors, dropout)
    hidden = network.layers_forward(p, x, network.attention_bias(real, x.dtype), heads, layers, dropout)
    if loss == "bce":
        return (network.bce(hidden, positive, negative) * weight).sum()
    return (network.cross_entropy(hidden[real], items, ids[1][real]) * weight[real]).sum()


def validation_loss(model: SASRec, valid: Queries, runtime: Runtime) -> float:
    """What early stopping minimises: the loss of the valid targets at the history's end, or -NDCG@10 over all items.

    Users without history or target do not count; BCE's negatives are hashed from (seed, user, target's index).
    """
    known = np.flatnonzero((valid.histories.lengths > 0) & (valid.targets.lengths > 0))
    if not len(known):
        raise RecommenderError("early stopping needs validation users with a history and a target, and there are none")
    queries = valid.take(known)
    users = torch.from_numpy(model.user_vectors(queries.histories, runtime))
    items = torch.from_numpy(model.item_vectors())
    targets = torch.from_numpy(queries.targets.items.astype(np.int64))
    rows = torch.from_numpy(queries.targets.rows_of_items())
    share = 1 / torch.from_numpy(queries.targets.lengths)[rows].double()
    if model.config.stop_on == "loss" and model.config.loss == "bce":
        seed = runtime.derive("sasrec", "validation negatives")
        place = np.arange(len(targets), dtype=np.uint64) - queries.targets.offsets[:-1][rows.numpy()].astype(np.uint64)
        hashed = mix(mix(queries.users[rows.numpy()].astype(np.uint64) + mix(np.uint64(seed))) + place)
        drawn = torch.from_numpy(bounded(hashed, model.n_items))
        return float((network.bce(users[rows], items[targets], items[drawn]).double() * share).sum() / len(queries))
    total = 0.0
    for first in range(0, len(queries), VALIDATION_ROWS):
        part = (rows >= first) & (rows < first + VALIDATION_ROWS)
        logits = users[first : first + VALIDATION_ROWS] @ items.T
        row, target = rows[part] - first, targets[part]
        own = logits[row, target]
        if model.config.stop_on == "loss":
            total += float(((logits.logsumexp(1)[row] - own).double() * share[part]).sum())
        else:
            # Ties count in full, so that a constant score is never rewarded.
            rank = logits[row].ge_(own[:, None]).sum(1)
            gain = torch.where(rank <= 10, 1 / torch.log2(rank + 1.0), 0.0)
            total -= float((gain.double() * share[part]).sum())
    return total / len(queries)
