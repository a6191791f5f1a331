"""Signals made with the surrogate: the trained model itself, influence."""

from __future__ import annotations

from typing import Any

import numpy as np

from prunebench.benchmark.scores import keep_scores, scores_of
from prunebench.benchmark.signals import Context
from prunebench.benchmark.store import Artefact, Workspace
from prunebench.methods.influence import InfluenceConfig, influence
from prunebench.recommenders.base import Config, Request


class SurrogateSignal:
    """The small recommender trained on all of D, whose losses and gradients stand in for the LLM's."""

    class Config(Config):
        pass

    version, phase, seeded, reads = 1, "pruning", True, ("train", "stop")

    def needs(self, config: Config, context: Context) -> dict[str, Request]:
        return {}

    def key(self, config: Config, context: Context) -> dict[str, Any]:
        code = context.registry.resolve("surrogates", context.run.surrogate).version
        return {
            "surrogate": context.run.surrogate,
            "code": code,
            "settings": context.run.surrogate_config,
            "plugin": context.run.plugins.get("surrogate"),
        }

    def build(self, config: Config, context: Context, work: Workspace) -> dict[str, Any]:
        surrogate = context.surrogate()
        report = surrogate.fit(context.samples, context.stop, context.runtime)
        surrogate.save(work.folder)
        return {"steps": report.steps, "best_step": report.best_step, "valid_losses": list(report.valid_losses)}

    def load(self, config: Config, context: Context, artefact: Artefact) -> Any:
        return context.registry.resolve("surrogates", context.run.surrogate).load(artefact.folder, context.runtime)


class InfluenceSignal:
    """Influence of each sample on the mean training loss (Eq. 11), float32 [n]."""

    Config = InfluenceConfig
    version, phase, seeded, reads = 1, "pruning", True, ("train",)

    def needs(self, config: InfluenceConfig, context: Context) -> dict[str, Request]:
        return {"surrogate": Request("surrogate")}

    def key(self, config: InfluenceConfig, context: Context) -> dict[str, Any]:
        return {}

    def build(self, config: InfluenceConfig, context: Context, work: Workspace) -> dict[str, Any]:
        result = influence(context.inputs["surrogate"], context.samples, config, context.runtime)
        keep_scores(work, context.samples.ids, result.scores)
        return {"notes": result.notes}

    def load(self, config: InfluenceConfig, context: Context, artefact: Artefact) -> np.ndarray:
        return scores_of(artefact, context)
