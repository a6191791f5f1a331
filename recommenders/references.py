"""References every row is read against: most popular, nearest by title, and SASRec trained on the given samples."""

from __future__ import annotations

from collections.abc import Callable
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
from prunebench.recommenders.surrogates.config import SASRecConfig
from prunebench.recommenders.surrogates.sasrec import SASRec

COUNTS = "counts.npy"
CELLS = 2**24  # scores held at once: 64 MiB


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


class ContentKNNConfig(Config):
    """``last``: how many of the latest history items count; all by default."""

    last: int | None = Field(default=None, ge=1, description="latest history items that count; all by default")


class ContentKNN:
    """Cosine of each title's sentence vector with the mean over the history's: it does not use the samples.

    Without a history nothing is preferred: all items tie. Items with the same title always tie.
    """

    Config: ClassVar[type[ContentKNNConfig]] = ContentKNNConfig
    version: ClassVar[int] = 1
    uses_samples: ClassVar[bool] = False

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
            part = histories.take(rows)
            users = np.zeros((len(rows), vectors.shape[1]), np.float32)
            known = np.flatnonzero(part.lengths)
            if len(known):
                users[known] = np.add.reduceat(vectors[part.items], part.offsets[:-1][known])
                users[known] /= np.maximum(np.linalg.norm(users[known], axis=1, keepdims=True), 1e-12)
            return (users @ vectors[first].T)[:, title_of]

        return ranked_in_chunks(score, len(vectors), depth, runtime)

    def save(self, folder: Path) -> None:
        return None


class SASRecBackboneConfig(SASRecConfig):
    """SASRec as a recommender in its own right: softmax over all items, which is far stronger than one negative."""

    loss: Literal["bce", "ce"] = Field(
        default="ce", description="softmax over all items, or one sampled negative per position"
    )


class SASRecBackbone:
    """SASRec trained on nothing but the given samples: with `--method full`, the honest rival of every LLM."""

    Config: ClassVar[type[SASRecBackboneConfig]] = SASRecBackboneConfig
    version: ClassVar[int] = 1
    uses_samples: ClassVar[bool] = True

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


def ranked_in_chunks(
    score: Callable[[NDArray[np.int64]], Float32], n_items: int, depth: NDArray[np.int64], runtime: Runtime
) -> Rankings:
    """Rankings from ``score(rows)`` float32 [len(rows), n_items], a bounded number of scores at a time."""
    rows = np.arange(len(depth), dtype=np.int64)
    step = max(CELLS // n_items, 1)
    chunks = [rows[first : first + step] for first in range(0, len(rows), step)]
    return Rankings.concatenate(
        Rankings.from_scores(score(chunk), depth[chunk]) for chunk in runtime.track(chunks, "users ranked")
    )
