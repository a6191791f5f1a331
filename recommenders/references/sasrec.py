"""SASRec trained on exactly the selected samples: with `--method full`, the honest rival of every LLM."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from prunebench.datasets.schema import Queries, Samples, Sequences
from prunebench.recommenders.base import (
    Rankings,
    Request,
    Resources,
    Stage,
)
from prunebench.recommenders.references.chunks import ranked_in_chunks
from prunebench.recommenders.runtime import Runtime
from prunebench.recommenders.surrogates.config import SASRecConfig
from prunebench.recommenders.surrogates.sasrec import SASRec


class SASRecBackboneConfig(SASRecConfig):
    """SASRec as a recommender in its own right: softmax over all items, which is far stronger than one negative."""

    loss: Literal["bce", "ce"] = Field(
        default="ce", description="softmax over all items, or one sampled negative per position"
    )


class SASRecBackbone:
    """SASRec trained on nothing but the given samples: with `--method full`, the honest rival of every LLM."""

    Config: ClassVar[type[SASRecBackboneConfig]] = SASRecBackboneConfig
    version: ClassVar[int] = 2
    uses_samples: ClassVar[bool] = True
    reads: ClassVar[tuple[str, ...]] = ("samples", "stop")

    def __init__(self, config: SASRecBackboneConfig, resources: Resources) -> None:
        self.config, self.resources = config, resources

    def needs(self, stage: Stage) -> dict[str, Request]:
        return {}

    def key(self, stage: Stage) -> dict[str, Any]:
        return self.config.model_dump(mode="json") if stage == "fit" else {}

    def fit(self, samples: Samples, stop: Queries, runtime: Runtime, folder: Path) -> FittedSASRec:
        """Raises RecommenderError for no samples: nothing is known of any item then."""
        model = SASRec(self.config, self.resources.dataset.n_items)
        model.fit(samples, stop, runtime)
        return FittedSASRec(model)

    def load(self, folder: Path, runtime: Runtime) -> FittedSASRec:
        return FittedSASRec(SASRec.load(folder, runtime))


class FittedSASRec:
    """A trained SASRec that ranks; without a history all items tie."""

    def __init__(self, model: SASRec) -> None:
        self.model, self.report = model, model.report

    def recommend(self, histories: Sequences, depth: NDArray[np.int64], runtime: Runtime) -> Rankings:
        users, items = self.model.user_vectors(histories, runtime), self.model.item_vectors()
        return ranked_in_chunks(lambda rows: users[rows] @ items.T, len(items), depth, runtime)

    def save(self, folder: Path) -> None:
        self.model.save(folder)
