"""Scores and draws of the pruning methods: our paths timed against the slow, obvious way, on the same data."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from prunebench.benchmark.timing import row, timed
from prunebench.datasets.schema import RecDataset, Samples
from prunebench.methods.clustering import farthest_first
from prunebench.methods.herding import herd
from prunebench.methods.selection import priorities
from prunebench.methods.transport import cost_matrix, cover
from prunebench.recommenders.runtime import Runtime
from prunebench.recommenders.surrogates.config import SASRecConfig
from prunebench.recommenders.surrogates.sasrec import SASRec
from prunebench.recommenders.target_errors import target_errors

Float32 = NDArray[np.float32]


def rows(
    dataset: RecDataset, scored: int = 512, chosen: int = 48, users: int = 4096, targets: int = 512
) -> list[dict[str, Any]]:
    """Rows ``{name, ours_s, reference_s, ratio}``. Raises RecommenderError where a result differs from its reference's.

    ``scored`` samples get a score; ``chosen`` of ``users`` are chosen by their vectors, for ``targets`` validation users.
    """
    runtime = Runtime()
    drawn = runtime.rng("perf methods").permutation(dataset.samples().ids)
    model = SASRec(SASRecConfig(epochs=1), dataset.n_items)
    model.fit(dataset.samples().take(drawn[:users]), None, runtime)
    many = dataset.samples().take(drawn[:users])
    vectors = model.user_vectors(many.sequences, runtime)
    aims = model.user_vectors(dataset.queries("valid").histories, runtime)[:targets]
    return [
        _errors(model, dataset.samples().take(drawn[:scored]), runtime),
        _gradients(model, dataset.samples().take(drawn[:scored]), runtime),
        _farthest(vectors, many.ids, chosen, runtime),
        _herding(vectors, many.ids, chosen, runtime),
        _covering(vectors, aims, many.ids, chosen, runtime),
    ]


def _errors(model: SASRec, samples: Samples, runtime: Runtime) -> dict[str, Any]:
    users, items = model.user_vectors(samples.histories, runtime), model.item_vectors()

    def one_by_one() -> Float32:
        errors = []
        for user, target in zip(users, samples.targets, strict=True):
            scores = items @ user
            p = np.exp(scores - scores.max())
            p /= p.sum()
            p[target] -= 1
            errors.append(np.linalg.norm(p))
        return np.array(errors, np.float32)

    ours = timed(lambda: target_errors(users, items, samples.targets, runtime)[0])
    return row(f"EL2N, {len(samples)} samples × {len(items)} items, against one at a time", ours, timed(one_by_one))


def _gradients(model: SASRec, samples: Samples, runtime: Runtime) -> dict[str, Any]:
    objective = model.objective(samples, "all", runtime)
    parameters = {name: value.clone().requires_grad_() for name, value in objective.parameters.items()}

    def one_by_one() -> Float32:
        norms = []
        for position in range(len(samples)):
            loss = objective.losses(parameters, np.array([position])).sum()
            found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
            norms.append(float(sum(part.square().sum() for part in found if part is not None)) ** 0.5)
        return np.array(norms, np.float32)

    ours = timed(lambda: model.gradient_norms(samples, "all", runtime))
    return row(f"GraNd, {len(samples)} samples, all parameters, against one at a time", ours, timed(one_by_one))


def _farthest(vectors: Float32, ids: NDArray[np.int64], budget: int, runtime: Runtime) -> dict[str, Any]:
    def plainly() -> NDArray[np.int64]:
        chosen = [int(np.argmin(np.linalg.norm(vectors - vectors.mean(0, np.float64), axis=1)))]
        while len(chosen) < budget:
            distances = np.linalg.norm(vectors[:, None] - vectors[chosen], axis=2)
            chosen.append(int(np.argmax(distances.min(1))))
        return np.array(chosen)

    ours = timed(lambda: farthest_first(vectors, ids, budget, 0, runtime))
    return row(f"k-center, {budget} of {len(ids)}, against all distances anew", ours, timed(plainly))


def _herding(vectors: Float32, ids: NDArray[np.int64], budget: int, runtime: Runtime) -> dict[str, Any]:
    def plainly() -> NDArray[np.int64]:
        chosen: list[int] = []
        rows = vectors.astype(np.float64)
        for _ in range(budget):
            means = (rows[chosen].sum(0) + rows) / (len(chosen) + 1)
            distances = np.linalg.norm(means - rows.mean(0), axis=1)
            distances[chosen] = np.inf
            chosen.append(int(np.argmin(distances)))
        return np.array(chosen)

    ours = timed(lambda: herd(vectors, ids, budget, 0, runtime))
    return row(f"herding, {budget} of {len(ids)}, against all means anew", ours, timed(plainly))


def _covering(
    vectors: Float32, targets: Float32, ids: NDArray[np.int64], budget: int, runtime: Runtime
) -> dict[str, Any]:
    cost = cost_matrix(vectors, targets, None, 0.0, runtime)

    def plainly() -> NDArray[np.int64]:
        chosen = [int(np.argmin(cost.sum(1, dtype=np.float64)))]
        nearest, holder = cost[chosen[0]].copy(), np.full(cost.shape[1], chosen[0])
        while len(np.unique(holder)) < budget:
            chosen.append(int(np.argmax(np.maximum(nearest - cost, 0).sum(1))))
            closer = cost[chosen[-1]] < nearest
            nearest[closer], holder[closer] = cost[chosen[-1]][closer], chosen[-1]
        return np.array(sorted(set(holder.tolist()), key=chosen.index))

    ours = timed(lambda: cover(cost, budget, priorities(ids, 0), runtime))
    name = f"GORACS' greedy start, {budget} of {len(ids)} × {len(targets)}, against every gain anew"
    return row(name, ours, timed(plainly))
