"""The harness: prune, fine-tune, rank all items, measure; every step an artefact with a bill, the record last."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from prunebench.benchmark import metrics
from prunebench.benchmark.blame import (
    blaming,
    checked_evidence,
    checked_fitted,
    checked_key,
    checked_notes,
    checked_rankings,
    checked_report,
    checked_requests,
    checked_scores,
    checked_selection,
    read_only,
)
from prunebench.benchmark.config import NO_METHOD, RunConfig
from prunebench.benchmark.plugins import Kind, Registry
from prunebench.benchmark.progress import Reporter
from prunebench.benchmark.rankings import load_rankings, save_rankings
from prunebench.benchmark.signals import (
    Context,
    Graph,
    LoadedResources,
    parse_sections,
    split_validation,
    with_resources,
)
from prunebench.benchmark.store import Artefact, Store, Workspace
from prunebench.datasets.schema import Queries, RecDataset, Samples, Sequences
from prunebench.leaderboard.score_summary import ScoreSummary, summarise
from prunebench.methods.base import Evidence, HasScores, MethodError, PruningMethod, Selection
from prunebench.recommenders.base import (
    Backbone,
    Fitted,
    HasDiagnostics,
    Rankings,
    RanksUsers,
    RecommenderError,
    Request,
    Stage,
)
from prunebench.recommenders.runtime import Runtime

EVIDENCE_VERSION = SELECTION_VERSION = PREDICTIONS_VERSION = 1
CUTOFFS = (5, 10, 20, 50)
_KINDS: dict[str, Kind] = {"method": "methods", "backbone": "backbones"}
CHUNK = 1024
"""Users ranked between two points a killed run can continue from."""


@dataclass(frozen=True)
class Pruned:
    """What pruning gave: the selection, its artefact, what it ``uses`` (surrogate, LLM or backbone, text, validation), and
    the artefact of its evidence."""

    selection: Selection
    artefact: Artefact | None
    uses: tuple[str, ...] = ()
    evidence: Artefact | None = None


@dataclass(frozen=True)
class Outcome:
    """Everything a record is made from."""

    run: RunConfig
    dataset: RecDataset
    samples: Samples
    queries: Queries
    pruned: Pruned
    fitted: Artefact
    predictions: Artefact
    rankings: Rankings
    per_user: dict[str, metrics.PerUser]
    reads: dict[str, list[str]]
    scores: ScoreSummary | None


class Harness:
    """Runs one configuration on one data set over one store."""

    def __init__(
        self,
        run: RunConfig,
        dataset: RecDataset,
        registry: Registry,
        store: Store,
        reporter: Reporter,
        runtime: Runtime,
    ) -> None:
        self.run, self.dataset, self.store, self.reporter = run, dataset, store, reporter
        self.registry, self.runtime = registry, runtime
        self.method: PruningMethod
        self.backbone: Backbone
        self.method, self.backbone, surrogate = parse_sections(registry, run, dataset)
        self.samples = dataset.samples()
        self.select_users, self.stop_users = split_validation(dataset.queries("valid"))
        context = Context(
            dataset, self.samples, self.stop_users, self.select_users, run, registry, surrogate, self.backbone, runtime
        )
        self.graph = Graph(context, store, reporter)

    # -- prune ---------------------------------------------------------------------------------------------------

    def prune(self) -> Pruned:
        """Evidence, then the selection. A budget of 0, or a reference that uses no samples, needs neither."""
        if self.run.method == NO_METHOD or self.run.budget == 0:
            return Pruned(Selection(np.empty(0, np.int64)), None)
        requests = self._requests()
        self.graph.check(requests.values())
        shared = {
            "method": self.run.method,
            "code": self.method.version,
            "plugin": self.run.plugins.get("method"),
            **self._data_key(),
        }
        with self._blaming("method", "evidence_key"):
            settings = checked_key(f"method {self.run.method}: evidence_key", self.method.evidence_key())
        evidence = self._stage(
            "evidence",
            EVIDENCE_VERSION,
            {**shared, "config": settings, "seed": self.run.seeds.signal},
            lambda work: self._prepare(work, self.graph.values(requests)),
            self._artefacts(requests),
            "pruning",
        )
        selection = self._stage(
            "selection",
            SELECTION_VERSION,
            {**shared, "config": self.run.method_config, "budget": self.run.budget, "seed": self.run.seeds.selection},
            lambda work: self._select(work, evidence),
            [evidence],
            "pruning",
        )
        chosen = Selection(np.load(selection.folder / "ids.npy"), selection.info["notes"])
        return Pruned(chosen, selection, self._uses(), evidence)

    def _requests(self) -> dict[str, Request]:
        with self._blaming("method", "requests"):
            requests = self.method.requests()
        return checked_requests(f"method {self.run.method}: requests", requests)

    def _needs(self, stage: Stage) -> dict[str, Request]:
        with self._blaming("backbone", "needs"):
            needs = self.backbone.needs(stage)
        return checked_requests(f"backbone {self.run.backbone}: needs", needs)

    def _uses(self) -> tuple[str, ...]:
        """What the signals resolved so far come from; text counts where it is read as such, not by way of the LLM."""
        reads = [set(parts) for parts in self.graph.reads.values()]
        used = {
            "surrogate": "surrogate" in self.graph.models,
            "LLM": "llm" in self.graph.reads,
            "backbone": "backbone" in self.graph.models and "llm" not in self.graph.reads,
            "text": "text" in self.graph.models,
            "validation": any("select" in parts for parts in reads),
        }
        return tuple(name for name, is_used in used.items() if is_used)

    def _prepare(self, work: Workspace, signals: dict[str, Any]) -> None:
        runtime, name = self._runtime(self.run.seeds.signal), self.run.method
        with self._blaming("method", "prepare"):
            made = self.method.prepare(read_only(self.samples), signals, runtime)
        shared, partial = (frozenset(getattr(self.method, kind, ())) for kind in ("shared", "partial"))
        evidence = checked_evidence(name, made, self.samples, shared, partial)
        arrays: dict[str, Any] = {f"evidence_{name}": values for name, values in evidence.items()}
        np.savez(work.folder / "evidence.npz", ids=self.samples.ids, **arrays)

    def read_evidence(self, evidence: Artefact) -> Evidence:
        """What the method prepared, by name. Raises MethodError where it is that of other samples."""
        with np.load(evidence.folder / "evidence.npz") as arrays:
            if not np.array_equal(arrays["ids"], self.samples.ids):
                raise MethodError(
                    f"method {self.run.method}: stored evidence belongs to other samples; remove the store and run again"
                )
            return {name.removeprefix("evidence_"): arrays[name] for name in arrays.files if name != "ids"}

    def _select(self, work: Workspace, evidence: Artefact) -> dict[str, Any]:
        values = self.read_evidence(evidence)
        runtime, name = self._runtime(self.run.seeds.selection), self.run.method
        with self._blaming("method", "select"):
            chosen = self.method.select(read_only(self.samples), values, self.run.budget, runtime)
        ids, notes = checked_selection(name, chosen, self.samples, self.run.budget)
        np.save(work.folder / "ids.npy", ids)
        return {"notes": notes}

    # -- fine-tune -----------------------------------------------------------------------------------------------

    def fit(self, ids: np.ndarray) -> Artefact:
        """Fine-tune on the samples with these ids. Two methods that chose the same samples share the result."""
        backbone, needs, samples = self.backbone, self._needs("fit"), self.samples.take(ids)

        def make(work: Workspace) -> dict[str, Any]:
            with self.reporter.stage("fine-tuning") as report:
                runtime = replace(self._runtime(self.run.seeds.finetune, report), saved=work.keep)
                ready = self._backbone_for(needs)
                with self._blaming("backbone", "fit"):
                    fitted = ready.fit(samples, self.stop_users, runtime, work.scratch)
            checked_fitted(f"backbone {self.run.backbone}: fit", fitted)
            with self._blaming("backbone", "save"):
                fitted.save(work.folder)
            return checked_report(f"backbone {self.run.backbone}", fitted.report)

        key = {
            "backbone": self.run.backbone,
            "code": backbone.version,
            "config": self._key("fit"),
            "plugin": self.run.plugins.get("backbone"),
            "samples": ids_digest(ids),
            "seed": self.run.seeds.finetune,
            **self._data_key(),
        }
        unused = {"samples", "stop"} if self.backbone.uses_samples and not len(ids) else set()
        self.graph.reads["fine-tuning"] = [part for part in backbone.reads if part not in unused]
        return self._stage("fit", backbone.version, key, make, self._artefacts(needs), "fine-tuning")

    # -- rank and measure ----------------------------------------------------------------------------------------

    def queries(self) -> Queries:
        """The users evaluated: all of test, or the validation users nobody stops on."""
        return self.dataset.queries("test") if self.run.split == "test" else self.select_users

    def predict(self, fitted: Artefact) -> Artefact:
        """Rank all items for every user, deep enough that masking the history still leaves the largest cut-off."""
        backbone, needs, queries = self.backbone, self._needs("recommend"), self.queries()

        def load(runtime: Runtime) -> Fitted:
            ready = self._backbone_for(needs)
            with self._blaming("backbone", "load"):
                loaded = ready.load(fitted.folder, runtime)
            return checked_fitted(f"backbone {self.run.backbone}: load", loaded)

        def make(work: Workspace) -> dict[str, Any]:
            runtime = self._runtime(self.run.seeds.finetune)
            order = np.argsort(queries.histories.lengths, kind="stable")
            chunks = [order[start : start + CHUNK] for start in range(0, len(order), CHUNK)]
            with self.reporter.stage("inference") as report:
                model = None
                for number, chunk in enumerate(chunks):
                    report(min(number * CHUNK, len(order)), len(order), "users ranked")
                    part = work.scratch / f"ranked-{number:05d}.npz"
                    if part.exists():
                        continue
                    model = model or load(runtime)
                    histories = queries.histories.take(chunk)
                    depth = np.minimum(max(CUTOFFS) + histories.lengths, self.dataset.n_items)
                    inner = runtime if len(chunks) > 1 else replace(runtime, report=report)
                    with self._blaming("backbone", "recommend"):
                        given = _rank(model, queries.users[chunk], histories, depth.copy(), inner)
                    save_rankings(part, checked_rankings(self.run.backbone, given, depth, self.dataset.n_items))
                    work.keep()
                ranked = Rankings.concatenate(
                    [load_rankings(work.scratch / f"ranked-{n:05d}.npz") for n in range(len(chunks))]
                )
                model = model or load(runtime)
                with self._blaming("backbone", "diagnose"):
                    said = (
                        model.diagnose(queries.users, queries.histories, runtime)
                        if isinstance(model, HasDiagnostics)
                        else {}
                    )
                notes = checked_notes(f"backbone {self.run.backbone}", said)
            save_rankings(work.folder / "rankings.npz", ranked.take(np.argsort(order, kind="stable")))
            return {"notes": notes}

        key = {
            "backbone": self.run.backbone,
            "code": backbone.version,
            "config": self._key("recommend"),
            "split": self.run.split,
            "cutoffs": list(CUTOFFS),
            **self._data_key(),
        }
        return self._stage(
            "predictions", PREDICTIONS_VERSION, key, make, [fitted, *self._artefacts(needs)], "inference"
        )

    def check(self) -> None:
        """Raise what can be known to go wrong before anything is built, pruning, which may take hours, above all."""
        if self.run.split == "valid" and "valid" in self.backbone.reads:
            raise RecommenderError(
                f"backbone {self.run.backbone} has counted the validation targets; use --set backbone.count=train with --split valid"
            )
        if self.run.split == "valid" and self.run.method != NO_METHOD:
            self._check_unseen()
        self.graph.check([*self._needs("fit").values(), *self._needs("recommend").values()])

    def execute(self) -> Outcome:
        """All stages, each from the store where it is there already."""
        self.check()
        pruned = self.prune()
        fitted = self.fit(pruned.selection.ids)
        predictions = self.predict(fitted)
        rankings = load_rankings(predictions.folder / "rankings.npz")
        queries = self.queries()
        per_user = {
            "unmasked": metrics.evaluate(rankings, queries.targets, CUTOFFS),
            "masked": metrics.evaluate(metrics.mask(rankings, queries.histories), queries.targets, CUTOFFS),
        }
        self.graph.reads["inference"] = ["train", "valid"] if self.run.split == "test" else ["train"]
        self.graph.reads["evaluation"] = [self.run.split if self.run.split == "test" else "select"]
        return Outcome(
            self.run,
            self.dataset,
            self.samples,
            queries,
            pruned,
            fitted,
            predictions,
            rankings,
            per_user,
            dict(self.graph.reads),
            self._scores(pruned),
        )

    def _scores(self, pruned: Pruned) -> ScoreSummary | None:
        """How the method's scores are spread; None where it has none. Nobody is billed for it: it is for the board."""
        if pruned.evidence is None or not isinstance(self.method, HasScores):
            return None
        name, chosen = self.run.method, pruned.selection
        evidence = self.read_evidence(pruned.evidence)
        with self._blaming("method", "scores"):
            runtime = self._runtime(self.run.seeds.selection)
            said = self.method.scores(read_only(self.samples), evidence, chosen, runtime)
        found = checked_scores(name, said, self.samples)
        kept = np.isin(self.samples.ids, chosen.ids)
        return summarise(found.name, found.values, kept, found.strata, found.dropped_from)

    def _check_unseen(self) -> None:
        """Raise RecommenderError where the method chooses by the very validation users it would be evaluated on."""
        for signal, parts in self.graph.check(self._requests().values()):
            if "select" in parts:
                raise RecommenderError(
                    f"method {self.run.method} chooses by validation users (signal {signal} reads `select`), the ones --split valid evaluates on; evaluate it on --split test, or choose another method"
                )

    # -- shared --------------------------------------------------------------------------------------------------

    def _backbone_for(self, needs: dict[str, Request]) -> Backbone:
        resources = LoadedResources(self.dataset, self.graph.values(needs))
        with self._blaming("backbone", "its constructor"):
            return with_resources(self.backbone, resources)

    def _key(self, stage: Stage) -> dict[str, Any]:
        with self._blaming("backbone", "key"):
            return checked_key(f"backbone {self.run.backbone}: key", self.backbone.key(stage))

    def _blaming(self, kind: Literal["method", "backbone"], step: str) -> AbstractContextManager[None]:
        name: str = getattr(self.run, kind)
        return blaming(f"{kind} {name}: {step}", self.registry.built_in(_KINDS[kind], name))

    def _artefacts(self, needs: dict[str, Request]) -> list[Artefact]:
        return [self.graph.artefact(request) for request in needs.values()]

    def _data_key(self) -> dict[str, Any]:
        return {"data": self.graph.data_key}

    def _runtime(self, seed: int, report: Any = None) -> Runtime:
        runtime = self.runtime.with_seed(seed)
        return replace(runtime, report=report) if report else runtime

    def _stage(
        self, stage: str, version: int, key: dict[str, Any], make: Any, upstream: Sequence[Artefact], phase: str
    ) -> Artefact:
        artefact = self.store.get_or_build(stage, version, key, make, upstream, phase=phase)
        self.reporter.built(artefact)
        return artefact


def _rank(model: Fitted, users: np.ndarray, histories: Sequences, depth: np.ndarray, runtime: Runtime) -> Rankings:
    if isinstance(model, RanksUsers):
        return model.recommend_users(users, histories, depth, runtime)
    return model.recommend(histories, depth, runtime)


def ids_digest(ids: np.ndarray) -> str:
    """sha256 of the sorted sample ids."""
    return hashlib.sha256(np.sort(ids).astype("<i8").tobytes()).hexdigest()
