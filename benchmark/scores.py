"""One number per sample, stored beside the sample ids it belongs to."""

from __future__ import annotations

import numpy as np

from prunebench.benchmark.signals import Context
from prunebench.benchmark.store import Artefact, Workspace
from prunebench.recommenders.base import RecommenderError


def keep_scores(work: Workspace, ids: np.ndarray, scores: np.ndarray) -> None:
    """Write an artefact that is one array whose first axis is the samples'. Raises RecommenderError where it is not."""
    if len(scores) != len(ids):
        raise RecommenderError(f"{len(scores)} scores for {len(ids)} samples: a signal must give one for each")
    np.savez(work.folder / "scores.npz", ids=ids, scores=scores)


def scores_of(artefact: Artefact, context: Context) -> np.ndarray:
    """Stored scores, float32 [n, …], joined by sample id."""
    with np.load(artefact.folder / "scores.npz") as arrays:
        order = np.argsort(arrays["ids"], kind="stable")
        where = order[np.searchsorted(arrays["ids"], context.samples.ids, sorter=order)]
        if not np.array_equal(arrays["ids"][where], context.samples.ids):
            raise RecommenderError(
                f"stored {artefact.stage} scores do not cover these samples; remove {artefact.folder} and run again"
            )
        return arrays["scores"][where].astype(np.float32, copy=False)
