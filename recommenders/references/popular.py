"""Items by number of interactions, the same for everyone; a reference no selection can change."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from prunebench.datasets.schema import Queries, Samples, Sequences
from prunebench.recommenders.base import (
    Config,
    FitReport,
    Float32,
    Rankings,
    RecommenderError,
    Request,
    Resources,
    Stage,
)
from prunebench.recommenders.runtime import Runtime

COUNTS = "counts.npy"


class PopularConfig(Config):
    """``count``: the splits whose interactions are counted. Validation is closer to the test in time, and stronger."""

    count: Literal["train", "train+valid"] = Field(
        default="train+valid", description="splits whose interactions are counted"
    )


class Popular:
    """Items by number of interactions in the whole data set, the same for everyone: it does not use the samples.

    Meant for the test split: with ``train+valid``, a ranking for validation users has counted their targets.
    """

    Config: ClassVar[type[PopularConfig]] = PopularConfig
    version: ClassVar[int] = 1
    uses_samples: ClassVar[bool] = False

    def __init__(self, config: PopularConfig, resources: Resources) -> None:
        self.config, self.resources = config, resources

    @property
    def reads(self) -> tuple[str, ...]:
        return ("train",) if self.config.count == "train" else ("train", "valid")

    def needs(self, stage: Stage) -> dict[str, Request]:
        return {}

    def key(self, stage: Stage) -> dict[str, Any]:
        return self.config.model_dump(mode="json") if stage == "fit" else {}

    def fit(self, samples: Samples, stop: Queries, runtime: Runtime, folder: Path) -> FittedPopular:
        dataset = self.resources.dataset
        counts = dataset.popularity
        if self.config.count == "train+valid":
            counts = counts + np.bincount(dataset.valid.items, minlength=dataset.n_items)
        return FittedPopular(counts.astype(np.float32))

    def load(self, folder: Path, runtime: Runtime) -> FittedPopular:
        """Raises RecommenderError where ``folder`` holds no counts of this catalogue."""
        try:
            counts = np.load(folder / COUNTS, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise RecommenderError(f"{folder / COUNTS} cannot be read ({error}): fit `popular` again") from error
        if counts.shape != (self.resources.dataset.n_items,):
            raise RecommenderError(f"{folder / COUNTS} counts another catalogue's items: fit `popular` again")
        return FittedPopular(counts)


class FittedPopular:
    """``counts`` float32 [n_items]."""

    def __init__(self, counts: Float32) -> None:
        self.counts, self.report = counts, FitReport()

    def recommend(self, histories: Sequences, depth: NDArray[np.int64], runtime: Runtime) -> Rankings:
        order = np.argsort(-self.counts, kind="stable").astype(np.int32)
        descending = self.counts[order]
        edge = descending[np.clip(depth, 1, len(order)) - 1]
        kept = np.searchsorted(-descending, -edge, side="right")
        offsets = np.concatenate([[0], np.cumsum(kept)]).astype(np.int64)
        place = np.arange(offsets[-1]) - np.repeat(offsets[:-1], kept)
        return Rankings(order[place], descending[place], offsets)

    def save(self, folder: Path) -> None:
        np.save(folder / COUNTS, self.counts)
