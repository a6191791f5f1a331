"""A small TIGER on walks of items, for the tests of its parts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tiny_llm import make_dataset

from prunebench.datasets.schema import RecDataset
from prunebench.recommenders.base import (
    Stage,
)
from prunebench.recommenders.fine_tuning import trained_weights
from prunebench.recommenders.runtime import Runtime
from prunebench.recommenders.tiger.backbone import TIGER, FittedTIGER
from prunebench.recommenders.tiger.config import TIGERConfig, TokeniserConfig
from prunebench.recommenders.tiger.semantic_ids import SemanticIDs
from prunebench.recommenders.tiger.tokeniser import fit_semantic_ids

DATASET = make_dataset(users=120)
QUICK = TIGERConfig(
    tokeniser=TokeniserConfig(codes=4), layers=1, heads=2, head_width=8, width=16, feed_forward=32, dropout=0.05,
    lr=1e-2, batch=32, micro_batch=8, max_steps=40, eval_every=8, max_history=3, beams=4,
)  # fmt: skip
RUNTIME = Runtime(seed=3)
STAGES: tuple[Stage, ...] = ("effort", "fit", "recommend")


@dataclass
class Fitted:
    """The semantic IDs of random vectors, and nothing else."""

    dataset: RecDataset
    ids: SemanticIDs

    def get(self, name: str) -> SemanticIDs:
        assert name == "semantic_ids"
        return self.ids


def backbone(ids: SemanticIDs, **changes) -> TIGER:
    return TIGER(QUICK.model_copy(update=changes), Fitted(DATASET, ids))  # type: ignore[arg-type]


def fit(made: TIGER, folder: Path, runtime: Runtime = RUNTIME) -> FittedTIGER:
    return made.fit(DATASET.samples(), DATASET.queries("valid"), runtime, folder)


def same(one: FittedTIGER, other: FittedTIGER) -> bool:
    weights, others = trained_weights(one.model), trained_weights(other.model)
    return weights.keys() == others.keys() and all(torch.equal(weights[name], others[name]) for name in weights)


def random_ids() -> SemanticIDs:
    """The semantic IDs of random vectors, two of them equal: items 3 and 20 collide."""
    torch.set_num_threads(1)
    vectors = np.random.default_rng(1).normal(size=(DATASET.n_items, 6)).astype(np.float32)
    vectors[20] = vectors[3]
    return fit_semantic_ids(vectors, QUICK.tokeniser, Runtime())
