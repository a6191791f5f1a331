"""How hard each user evaluated is to a fine-tuned model: the loss of its targets, an artefact with a bill of its own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunebench.benchmark.blame import blaming
from prunebench.benchmark.harness import Harness, Load
from prunebench.benchmark.store import Artefact, Workspace
from prunebench.recommenders.base import Float32, HasTargetLosses, RecommenderError
from prunebench.recommenders.resumable import in_chunks
from prunebench.recommenders.runtime import Runtime

STAGE, VERSION = "user_losses", 1
FILE = "losses.npz"
CHUNK = 2048
"""Targets between two points a killed run can continue from."""


@dataclass(frozen=True, eq=False)
class RunLosses:
    """``users`` int64 [n], ``losses`` float64 [n]: the mean over a user's targets of −log P(target | history), in nats."""

    users: NDArray[np.int64]
    losses: NDArray[np.float64]
    artefact: Artefact


def user_losses(harness: Harness, fitted: Artefact) -> RunLosses:
    """The losses of all users that the run evaluates, built once per fine-tuned model; no run is billed for them.

    Histories are those of inference. Raises RecommenderError where the backbone cannot say them.
    """
    queries, run = harness.queries(), harness.run

    def make(work: Workspace, load: Load) -> dict[str, Any]:
        row_of = queries.targets.rows_of_items()
        # Like lengths together: a chunk's batches are padded to its own histories.
        order = np.argsort(queries.histories.lengths[row_of], kind="stable")
        model = None

        def compute(positions: NDArray[np.int64], inner: Runtime) -> Float32:
            nonlocal model
            model = model or _able(load(runtime), run.backbone)
            pairs = order[positions]
            rows = row_of[pairs]
            with blaming(
                f"backbone {run.backbone}: target_losses", harness.registry.built_in("backbones", run.backbone)
            ):
                said = model.target_losses(
                    queries.users[rows], queries.histories.take(rows), queries.targets.items[pairs], inner
                )
            return _checked(said, len(pairs), run.backbone)

        with harness.reporter.stage("user losses") as report:
            runtime = replace(harness.runtime.with_seed(run.seeds.finetune), report=report, saved=work.keep)
            found = in_chunks(work.scratch, "losses", len(order), compute, runtime, CHUNK)
        sums = np.bincount(row_of[order], found.astype(np.float64), len(queries))
        np.savez(work.folder / FILE, users=queries.users, losses=sums / queries.targets.lengths)
        return {}

    artefact = harness.infer(STAGE, VERSION, {}, make, fitted)
    with np.load(artefact.folder / FILE) as arrays:
        return RunLosses(arrays["users"], arrays["losses"], artefact)


def _able(model: object, backbone: str) -> HasTargetLosses:
    if not isinstance(model, HasTargetLosses):
        raise RecommenderError(
            f"backbone {backbone} cannot say its losses, which users are grouped by: take bigrec or tiger, or give its fitted model target_losses (prunebench.recommenders.base.HasTargetLosses)"
        )
    return model


def _checked(losses: Any, count: int, backbone: str) -> Float32:
    """The answer of ``target_losses``. Raises RecommenderError unless it has a finite number for every row."""
    if not isinstance(losses, np.ndarray) or losses.shape != (count,) or losses.dtype.kind != "f":
        shape = f"{losses.dtype} {list(losses.shape)}" if isinstance(losses, np.ndarray) else type(losses).__name__
        raise RecommenderError(
            f"backbone {backbone}: target_losses gave {shape}; give float32 [{count}], a loss per row"
        )
    if not np.isfinite(losses).all():
        raise RecommenderError(
            f"backbone {backbone}: the loss of a user's target is {losses[~np.isfinite(losses)][0]}; lower the learning rate"
        )
    return losses.astype(np.float32)
