"""Signals made with the surrogate: the trained model itself, influence, and scores from how it trains."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field

from prunebench.benchmark.scores import keep_scores, scores_of
from prunebench.benchmark.signals import Context, users_digest
from prunebench.benchmark.store import Artefact, Workspace
from prunebench.methods.influence import InfluenceConfig, influence
from prunebench.methods.scores import EL2NConfig, ForgettingConfig, GraNdConfig
from prunebench.recommenders.base import Config, FitReport, Request
from prunebench.recommenders.runtime import Runtime
from prunebench.recommenders.target_errors import Trajectory, follow, forgetting_counts


def surrogate_key(context: Context, epochs: int | None) -> dict[str, Any]:
    """What a trained surrogate depends on; with ``epochs`` given, the run's own upper bound is not part of it."""
    settings = context.run.surrogate_config
    return {
        "surrogate": context.run.surrogate,
        "code": context.registry.resolve("surrogates", context.run.surrogate).version,
        "settings": {name: value for name, value in settings.items() if epochs is None or name != "epochs"},
        "plugin": context.run.plugins.get("surrogate"),
    }


def run_runtime(runtime: Runtime, run: int) -> Runtime:
    """Run 0 has the signal's own seed, each further run another, by name."""
    return runtime.with_seed(runtime.derive("surrogate run", run)) if run else runtime


def facts(report: FitReport) -> dict[str, Any]:
    return {"steps": report.steps, "best_step": report.best_step, "valid_losses": list(report.valid_losses)}


class SurrogateSignal:
    """The small recommender trained on all of D, whose losses and gradients stand in for the LLM's."""

    class Config(Config):
        run: int = Field(0, ge=0, description="which training, each from a seed of its own")
        epochs: int | None = Field(None, ge=1, description="exactly this many; null: until validation stops improving")

    version, phase, seeded, reads = 1, "pruning", True, ("train", "stop")

    def reads_with(self, config: Config) -> tuple[str, ...]:
        return ("train",) if config.epochs else self.reads

    def needs(self, config: Config, context: Context) -> dict[str, Request]:
        return {}

    def key(self, config: Config, context: Context) -> dict[str, Any]:
        stopping = {} if config.epochs else {"users": users_digest(context.stop)}
        return {**surrogate_key(context, config.epochs), **stopping}

    def build(self, config: Config, context: Context, work: Workspace) -> dict[str, Any]:
        runtime = run_runtime(context.runtime, config.run)
        if config.epochs is None:
            surrogate, valid = context.surrogate(), context.stop
        else:
            surrogate, valid = context.surrogate(epochs=config.epochs), None
        report = surrogate.fit(context.samples, valid, runtime)
        surrogate.save(work.folder)
        return facts(report)

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


class TrajectorySignal:
    """One training without early stopping, seen from its samples after every epoch: a ``Trajectory``."""

    class Config(Config):
        run: int = Field(0, ge=0, description="which training, each from a seed of its own")
        epochs: int = Field(10, ge=1, description="length of the training")

    version, phase, seeded, reads = 1, "pruning", True, ("train",)

    def needs(self, config: Config, context: Context) -> dict[str, Request]:
        return {}

    def key(self, config: Config, context: Context) -> dict[str, Any]:
        return surrogate_key(context, config.epochs)

    def build(self, config: Config, context: Context, work: Workspace) -> dict[str, Any]:
        surrogate, runtime = context.surrogate(epochs=config.epochs), run_runtime(context.runtime, config.run)
        seen, report = follow(surrogate, context.samples, config.epochs, runtime)
        # Samples first, and ranks as float32 (exact up to 16 million items): stored like any score.
        keep_scores(work, context.samples.ids, np.stack([seen.errors.T, seen.ranks.T.astype(np.float32)], 2))
        return facts(report)

    def load(self, config: Config, context: Context, artefact: Artefact) -> Trajectory:
        errors, ranks = np.moveaxis(scores_of(artefact, context), 0, -1).swapaxes(0, 1)
        return Trajectory(errors, ranks.astype(np.int32))


class EL2NSignal:
    """‖softmax − onehot‖₂ of each sample, averaged over runs and their first epochs, float32 [n]."""

    Config = EL2NConfig
    version, phase, seeded, reads = 1, "pruning", True, ("train",)

    def needs(self, config: EL2NConfig, context: Context) -> dict[str, Request]:
        return {str(run): Request("trajectory", {"run": run, "epochs": config.epochs}) for run in range(config.runs)}

    def key(self, config: EL2NConfig, context: Context) -> dict[str, Any]:
        return {}

    def build(self, config: EL2NConfig, context: Context, work: Workspace) -> None:
        scores = np.mean([seen.errors.mean(0, np.float64) for seen in context.inputs.values()], 0)
        keep_scores(work, context.samples.ids, scores.astype(np.float32))

    def load(self, config: EL2NConfig, context: Context, artefact: Artefact) -> np.ndarray:
        return scores_of(artefact, context)


class GraNdSignal:
    """Gradient norm of each sample early in training, averaged over surrogates from several seeds, float32 [n]."""

    Config = GraNdConfig
    version, phase, seeded, reads = 1, "pruning", True, ("train",)

    def needs(self, config: GraNdConfig, context: Context) -> dict[str, Request]:
        return {str(run): Request("surrogate", {"run": run, "epochs": config.epochs}) for run in range(config.runs)}

    def key(self, config: GraNdConfig, context: Context) -> dict[str, Any]:
        return {}

    def build(self, config: GraNdConfig, context: Context, work: Workspace) -> None:
        total = np.zeros(len(context.samples))
        for run, surrogate in context.inputs.items():
            runtime = run_runtime(context.runtime, int(run))
            total += surrogate.gradient_norms(context.samples, config.scope, runtime)
        keep_scores(work, context.samples.ids, (total / config.runs).astype(np.float32))

    def load(self, config: GraNdConfig, context: Context, artefact: Artefact) -> np.ndarray:
        return scores_of(artefact, context)


class ForgettingSignal:
    """How often each sample was unlearnt during one training, float32 [n]; epochs + 1 where it never was learnt."""

    Config = ForgettingConfig
    version, phase, seeded, reads = 1, "pruning", True, ("train",)

    def needs(self, config: ForgettingConfig, context: Context) -> dict[str, Request]:
        return {"trajectory": Request("trajectory", {"epochs": config.epochs})}

    def key(self, config: ForgettingConfig, context: Context) -> dict[str, Any]:
        return {}

    def build(self, config: ForgettingConfig, context: Context, work: Workspace) -> dict[str, Any]:
        ranks = context.inputs["trajectory"].ranks
        keep_scores(work, context.samples.ids, forgetting_counts(ranks, config.top))
        never = int((ranks > config.top).all(0).sum())
        return {"notes": {"never_right": never}}

    def load(self, config: ForgettingConfig, context: Context, artefact: Artefact) -> np.ndarray:
        return scores_of(artefact, context)
