"""How wrong a surrogate is about each sample's target: softmax error norms and ranks, once or after every epoch."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from prunebench.datasets.schema import Int32, Samples
from prunebench.recommenders.base import FitReport, Float32, RecommenderError, Surrogate
from prunebench.recommenders.runtime import Runtime

CELLS = 2**20
"""Scores held at a time: few enough to stay in a processor's cache from one step to the next."""


@dataclass(frozen=True, eq=False)
class Trajectory:
    """One training seen from its samples: ``errors`` float32 [epochs, n] and ``ranks`` int32 [epochs, n] after each epoch."""

    errors: Float32
    ranks: Int32


def target_errors(users: Float32, items: Float32, targets: Int32, runtime: Runtime) -> tuple[Float32, Int32]:
    """‖softmax(u·E) − onehot(y)‖₂, float32 [n], and the rank of y among all items (1 is best), int32 [n].

    ``users`` float32 [n, d], ``items`` float32 [n_items, d], ``targets`` int32 [n]. The norm is EL2N's (Paul et al., NeurIPS
    2021, Definition 2.2). Ties count in full: a constant score ranks the target last. One pass over blocks of users;
    memory is a block of scores. Raises RecommenderError for scores that are not finite.
    """
    n, n_items = len(users), len(items)
    errors, ranks = np.zeros(n, np.float32), np.ones(n, np.int32)
    if n_items < 2:
        return errors, ranks
    device = runtime.device
    user, item = torch.from_numpy(users).to(device), torch.from_numpy(items).to(device).T
    target = torch.from_numpy(targets).to(device).long()
    rows = min(max(CELLS // n_items, 1), max(n, 1))
    scores = torch.empty(rows, n_items, device=device)
    beaten = torch.empty(rows, n_items, dtype=torch.bool, device=device)
    for first in runtime.track(range(0, n, rows), "target errors"):
        here = slice(first, min(first + rows, n))
        block, below = scores[: here.stop - first], beaten[: here.stop - first]
        torch.mm(user[here], item, out=block)
        own = block.gather(1, target[here, None])
        # Without the target, the largest of what is left is 1 after scaling: nothing under- or overflows, and nothing
        # cancels where the target has nearly all of the probability.
        block.scatter_(1, target[here, None], -torch.inf)
        rank = torch.ge(block, own, out=below).sum(1) + 1
        largest = block.amax(1, keepdim=True)
        block.sub_(largest).exp_()
        sums = torch.stack([block.sum(1), torch.linalg.vector_norm(block, dim=1), (own - largest)[:, 0]])
        mass, length, gap = sums.cpu().double()
        # With p the probabilities, Σ_{i≠y} p_i² + (1 − p_y)²; and 1 − p_y is the others' share.
        error = (torch.hypot(length, mass).log() - torch.logaddexp(mass.log(), gap)).exp()
        errors[here], ranks[here] = error.numpy(), rank.cpu().numpy()
    if not np.isfinite(errors).all():
        raise RecommenderError("the surrogate's scores are not finite: train it again with a lower learning rate")
    return errors, ranks


def follow(surrogate: Surrogate, samples: Samples, epochs: int, runtime: Runtime) -> tuple[Trajectory, FitReport]:
    """Train ``surrogate`` for exactly ``epochs`` (its own setting), without early stopping, and look at every sample after each.

    Each sample's history is scored against its target over all items, in evaluation mode.
    """
    errors = np.empty((epochs, len(samples)), np.float32)
    ranks = np.empty((epochs, len(samples)), np.int32)
    quiet = replace(runtime, report=lambda done, total, what: None)

    def look(epoch: int) -> None:
        users = surrogate.user_vectors(samples.histories, quiet)
        errors[epoch], ranks[epoch] = target_errors(users, surrogate.item_vectors(), samples.targets, quiet)

    report = surrogate.fit(samples, None, runtime, look)
    return Trajectory(errors, ranks), report


def forgetting_counts(ranks: NDArray[np.integer], top: int) -> Float32:
    """How often each sample was forgotten, float32 [n], from ``ranks`` [epochs, n].

    A sample is right in an epoch where its target ranks ≤ ``top``, and is forgotten where it was right an epoch before
    and no longer is (Toneva et al., ICLR 2019, who call right what is classified so). One that never was right counts as
    epochs + 1, more than any other; the paper's code gives it the number of epochs, which is the same order.
    """
    right = ranks <= top
    counts = (right[:-1] & ~right[1:]).sum(0)
    return np.where(right.any(0), counts, len(ranks) + 1).astype(np.float32)
