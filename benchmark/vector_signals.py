"""Signals that say in one vector what a user is: to the surrogate, to the LLM, by the titles' text."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
from pydantic import Field

from prunebench.benchmark.providers import able, backbone_key
from prunebench.benchmark.scores import keep_scores, scores_of
from prunebench.benchmark.signals import Context
from prunebench.benchmark.store import Artefact, Workspace
from prunebench.datasets.schema import Sequences
from prunebench.recommenders.base import Config, Float32, HasUserVectors, RecommenderError, Request
from prunebench.recommenders.encoder import SentenceEncoder
from prunebench.recommenders.resumable import in_chunks
from prunebench.recommenders.runtime import Runtime
from prunebench.recommenders.user_texts import TextReader, mean_title_vectors, title_tokens, unit_rows, user_texts

CHUNK = 2048
"""Users read between two points a killed run can continue from; half a minute of the packaged encoder on two cores."""


class UserVectorsConfig(Config):
    """Whose vectors."""

    source: Literal["surrogate", "backbone"] = Field(
        "surrogate", description="what reads the sequence: the trained surrogate, or the LLM before fine-tuning"
    )


class UserVectorsSignal:
    """One vector per sample for the user's whole training sequence, float32 [n, d]."""

    Config = UserVectorsConfig
    # Only a surrogate's training draws, and that is upstream.
    version, phase, seeded, reads = 1, "pruning", False, ("train", "titles")

    def reads_with(self, config: UserVectorsConfig) -> tuple[str, ...]:
        return ("train",) if config.source == "surrogate" else self.reads

    def needs(self, config: UserVectorsConfig, context: Context) -> dict[str, Request]:
        if config.source == "surrogate":
            return {"surrogate": Request("surrogate")}
        return _with_vectors(context).needs("vectors")

    def key(self, config: UserVectorsConfig, context: Context) -> dict[str, Any]:
        return {} if config.source == "surrogate" else backbone_key(context, _with_vectors(context), "vectors")

    def build(self, config: UserVectorsConfig, context: Context, work: Workspace) -> dict[str, Any]:
        samples = context.samples
        if config.source == "surrogate":
            vectors = context.inputs["surrogate"].user_vectors(samples.sequences, context.runtime)
        else:
            vectors = _read_by_backbone(samples.sequences, context, work)
        keep_scores(work, samples.ids, vectors)
        return {"dimensions": vectors.shape[1]}

    def load(self, config: UserVectorsConfig, context: Context, artefact: Artefact) -> Float32:
        return scores_of(artefact, context)


class TextConfig(Config):
    """Settings of a signal that is made of users' texts: the titles of their sequence, oldest first."""

    source: TextReader = Field(
        "encoder",
        description="what reads the user's titles: the sentence encoder, all at once or as the mean of single titles, or the LLM",
    )


class UserTextVectorsSignal:
    """Unit vector of each sample's text, the titles of history and target joined by "; ", float32 [n, d]."""

    Config = TextConfig
    version, phase, seeded, reads = 1, "pruning", False, ("train", "titles")

    def needs(self, config: TextConfig, context: Context) -> dict[str, Request]:
        if config.source != "backbone":
            return {"title_vectors": Request("title_vectors")}
        return {"user_vectors": Request("user_vectors", {"source": "backbone"})}

    def key(self, config: TextConfig, context: Context) -> dict[str, Any]:
        return {}

    def build(self, config: TextConfig, context: Context, work: Workspace) -> dict[str, Any]:
        samples = context.samples
        if config.source == "encoder":
            vectors = _read_by_encoder(samples.sequences, context, work)
        elif config.source == "titles":
            vectors = mean_title_vectors(samples.sequences, context.inputs["title_vectors"].vectors)
        else:
            vectors = unit_rows(context.inputs["user_vectors"])
        keep_scores(work, samples.ids, vectors)
        return {"dimensions": vectors.shape[1]}

    def load(self, config: TextConfig, context: Context, artefact: Artefact) -> Float32:
        return scores_of(artefact, context)


class ValidationTextVectorsSignal:
    """Unit vector of each `select` validation user's text, history and targets, float32 [m, d]."""

    Config = TextConfig
    version, phase, seeded, reads = 1, "pruning", False, ("titles", "train", "select")

    def needs(self, config: TextConfig, context: Context) -> dict[str, Request]:
        if not len(context.select):
            raise RecommenderError(
                f"data set {context.dataset.name} has no validation users that a method may read; choose a method that needs none"
            )
        if config.source != "backbone":
            return {"title_vectors": Request("title_vectors")}
        return _with_vectors(context).needs("vectors")

    def key(self, config: TextConfig, context: Context) -> dict[str, Any]:
        return {} if config.source != "backbone" else backbone_key(context, _with_vectors(context), "vectors")

    def build(self, config: TextConfig, context: Context, work: Workspace) -> dict[str, Any]:
        sequences = context.select.histories.join(context.select.targets)
        if config.source == "encoder":
            vectors = _read_by_encoder(sequences, context, work)
        elif config.source == "titles":
            vectors = mean_title_vectors(sequences, context.inputs["title_vectors"].vectors)
        else:
            vectors = unit_rows(_read_by_backbone(sequences, context, work))
        np.savez(work.folder / "vectors.npz", users=context.select.users, vectors=vectors)
        return {"dimensions": vectors.shape[1]}

    def load(self, config: TextConfig, context: Context, artefact: Artefact) -> Float32:
        with np.load(artefact.folder / "vectors.npz") as arrays:
            if not np.array_equal(arrays["users"], context.select.users):
                raise RecommenderError(
                    f"stored {artefact.stage} belong to other validation users; remove {artefact.folder} and run again"
                )
            return arrays["vectors"]


def _read_by_encoder(sequences: Sequences, context: Context, work: Workspace) -> Float32:
    """Unit vectors of the rows' texts, float32 [n, d]: each text once, and only the newest titles if not all fit."""
    encoder: SentenceEncoder = context.inputs["title_vectors"].encoder
    titles = context.dataset.titles
    texts = user_texts(title_tokens(encoder.tokenizer, titles), titles, sequences, encoder.window)
    # By length, so that a batch pads little.
    distinct = sorted(set(texts), key=lambda text: (len(text), text))

    def read(positions: np.ndarray, runtime: Runtime) -> Float32:
        def report(done: int, total: int | None, what: str) -> None:
            runtime.report(len(positions) * done // (total or 1), None, "sentence vectors of users")

        return encoder.encode([distinct[position] for position in positions], replace(runtime, report=report))

    vectors = in_chunks(work.scratch, "texts", len(distinct), read, context.runtime, CHUNK)
    row = {text: number for number, text in enumerate(distinct)}
    return vectors[[row[text] for text in texts]]


def _read_by_backbone(sequences: Sequences, context: Context, work: Workspace) -> Float32:
    """What the backbone makes of the rows before any fine-tuning, float32 [n, d]."""
    backbone = context.backbone_with(context.inputs)

    def read(positions: np.ndarray, runtime: Runtime) -> Float32:
        return backbone.user_vectors(sequences.take(positions), runtime)

    return in_chunks(work.scratch, "users", len(sequences), read, context.runtime, CHUNK)


def _with_vectors(context: Context) -> Any:
    return able(
        context,
        HasUserVectors,
        "has no user vectors; take them from the surrogate and the sentence encoder, or prune for a backbone that has them, e.g. bigrec",
    )
