"""Items whose titles are nearest to the history's, by sentence vectors; a reference no selection can change."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from prunebench.datasets.schema import Queries, Samples, Sequences
from prunebench.recommenders.base import (
    Config,
    FitReport,
    Float32,
    Rankings,
    Request,
    Resources,
    Stage,
)
from prunebench.recommenders.references.chunks import ranked_in_chunks
from prunebench.recommenders.runtime import Runtime
from prunebench.recommenders.user_texts import mean_title_vectors


class ContentKNNConfig(Config):
    """``last``: how many of the latest history items count; all by default."""

    last: int | None = Field(default=None, ge=1, description="latest history items that count; all by default")


class ContentKNN:
    """Cosine of each title's sentence vector with the mean over the history's: it does not use the samples.

    Without a history nothing is preferred: all items tie. Items with the same title always tie.
    """

    Config: ClassVar[type[ContentKNNConfig]] = ContentKNNConfig
    version: ClassVar[int] = 2
    uses_samples: ClassVar[bool] = False
    reads: ClassVar[tuple[str, ...]] = ("titles",)

    def __init__(self, config: ContentKNNConfig, resources: Resources) -> None:
        self.config, self.resources = config, resources

    def needs(self, stage: Stage) -> dict[str, Request]:
        return {"title_vectors": Request("title_vectors")} if stage == "recommend" else {}

    def key(self, stage: Stage) -> dict[str, Any]:
        return self.config.model_dump(mode="json") if stage == "recommend" else {}

    def fit(self, samples: Samples, stop: Queries, runtime: Runtime, folder: Path) -> FittedContentKNN:
        return FittedContentKNN(self.config, self.resources)

    def load(self, folder: Path, runtime: Runtime) -> FittedContentKNN:
        return FittedContentKNN(self.config, self.resources)


class FittedContentKNN:
    """Nothing is learned: title vectors are looked up when recommending."""

    def __init__(self, config: ContentKNNConfig, resources: Resources) -> None:
        self.config, self.resources, self.report = config, resources, FitReport()

    def recommend(self, histories: Sequences, depth: NDArray[np.int64], runtime: Runtime) -> Rankings:
        vectors = np.asarray(self.resources.title_vectors(), np.float32)
        # One column per distinct title, because a product's rounding may differ between equal columns.
        _, first, title_of = np.unique(self.resources.dataset.titles, return_index=True, return_inverse=True)
        if self.config.last is not None:
            histories = histories.tail(self.config.last)

        def score(rows: NDArray[np.int64]) -> Float32:
            users = mean_title_vectors(histories.take(rows), vectors)
            return (users @ vectors[first].T)[:, title_of]

        return ranked_in_chunks(score, len(vectors), depth, runtime)

    def save(self, folder: Path) -> None:
        return None
