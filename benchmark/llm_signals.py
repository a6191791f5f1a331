"""Signals made with the LLM backbone beyond effort: token errors, alignment with validation users."""

from __future__ import annotations

from typing import Any

import numpy as np

from prunebench.benchmark.providers import able, backbone_key
from prunebench.benchmark.scores import keep_scores, scores_of
from prunebench.benchmark.signals import Context, users_digest
from prunebench.benchmark.store import Artefact, Workspace
from prunebench.recommenders.base import (
    AlignmentConfig,
    Config,
    HasAlignment,
    HasTokenErrors,
    RecommenderError,
    Request,
)
from prunebench.recommenders.resumable import in_chunks
from prunebench.recommenders.runtime import Runtime


class NoSettings(Config):
    """Of a signal that takes all it depends on from the backbone."""


class TokenErrorsSignal:
    """Mean error of the LLM over the tokens of each sample's answer, float32 [n]: EL2N of a language model."""

    Config = NoSettings
    # A fresh adapter changes nothing yet, so no seed does.
    version, phase, seeded, reads = 1, "pruning", False, ("train", "titles")

    def needs(self, config: NoSettings, context: Context) -> dict[str, Request]:
        return self._backbone(context).needs("errors")

    def key(self, config: NoSettings, context: Context) -> dict[str, Any]:
        return backbone_key(context, self._backbone(context), "errors")

    def build(self, config: NoSettings, context: Context, work: Workspace) -> None:
        backbone, samples = context.backbone_with(context.inputs), context.samples

        def errors(positions: np.ndarray, runtime: Runtime) -> np.ndarray:
            return backbone.token_errors(samples.take(samples.ids[positions]), runtime)

        scores = in_chunks(work.scratch, "token-errors", len(samples), errors, context.runtime)
        keep_scores(work, samples.ids, scores)

    def load(self, config: NoSettings, context: Context, artefact: Artefact) -> np.ndarray:
        return scores_of(artefact, context)

    def _backbone(self, context: Context) -> Any:
        return able(
            context,
            HasTokenErrors,
            "has no token errors; set method.signal=surrogate, or prune for a backbone that has them, e.g. bigrec",
        )


class LESSSignal:
    """LESS's influence of each sample on the loss of the `select` validation users, float32 [n]; reads their targets."""

    Config = AlignmentConfig
    version, phase, seeded, reads = 1, "pruning", True, ("train", "select", "titles")

    def needs(self, config: AlignmentConfig, context: Context) -> dict[str, Request]:
        if not len(context.select):
            raise RecommenderError(
                f"data set {context.dataset.name} has no validation users that a method may read; choose a method that needs none"
            )
        return self._backbone(context).needs("alignment")

    def key(self, config: AlignmentConfig, context: Context) -> dict[str, Any]:
        return {**backbone_key(context, self._backbone(context), "alignment"), "users": users_digest(context.select)}

    def build(self, config: AlignmentConfig, context: Context, work: Workspace) -> dict[str, Any]:
        backbone, samples, select = context.backbone_with(context.inputs), context.samples, context.select
        keep_scores(work, samples.ids, backbone.alignment(samples, select, config, context.runtime, work.scratch))
        return {"validation_users": min(len(select), config.validation_users or len(select))}

    def load(self, config: AlignmentConfig, context: Context, artefact: Artefact) -> np.ndarray:
        return scores_of(artefact, context)

    def _backbone(self, context: Context) -> Any:
        return able(
            context,
            HasAlignment,
            "has no adapter gradients for LESS; prune for a backbone that has them, e.g. bigrec, or choose another method",
        )
