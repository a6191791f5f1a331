"""The harness: prune, fine-tune, rank all items, measure; every step an artefact with a bill, the record last."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from prunebench.benchmark import metrics
from prunebench.benchmark.blame import (
    blaming,
    checked_evidence,
    checked_fitted,
    checked_key,
    checked_notes,
    checked_report,
    checked_requests,
    checked_scores,
    checked_selection,
    read_only,
)
from prunebench.benchmark.config import NO_METHOD, RunConfig
from prunebench.benchmark.crew import Crew
from prunebench.benchmark.outcome import Outcome, Pruned
from prunebench.benchmark.plugins import Kind, Registry
from prunebench.benchmark.progress import Reporter
from prunebench.benchmark.rankings import dealt_back, diagnosis, load_rankings, ranked, save_rankings
from prunebench.benchmark.signals import (
    Context,
    Graph,
    LoadedResources,
    parse_sections,
    split_validation,
    with_resources,
)
from prunebench.benchmark.store import Artefact, Store, Workspace
from prunebench.datasets.schema import Queries, RecDataset
from prunebench.leaderboard.score_summary import ScoreSummary, summarise
from prunebench.methods.base import Evidence, HasScores, MethodError, PruningMethod, Selection
from prunebench.recommenders.base import (
    Backbone,
    Fitted,
    Rankings,
    RecommenderError,
    Request,
    Stage,
)
from prunebench.recommenders.distributed import ALONE, Team
from prunebench.recommenders.runtime import Runtime

EVIDENCE_VERSION = SELECTION_VERSION = PREDICTIONS_VERSION = 1
CUTOFFS = (5, 10, 20, 50)
_KINDS: dict[str, Kind] = {"method": "methods", "backbone": "backbones"}
CHUNK = 1024
"""Users ranked between two points a killed run can continue from."""
Load = Callable[[Runtime], Fitted]
"""Gives the fine-tuned model."""
Making = Callable[[Workspace, Load], Any]


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
        crew: Crew | None = None,
    ) -> None:
        self.run, self.dataset, self.store, self.reporter, self.crew = run, dataset, store, reporter, crew
        self.registry, self.runtime = registry, runtime
        self.method: PruningMethod
        self.backbone: Backbone
        self.method, self.backbone, surrogate = parse_sections(registry, run, dataset)
        self.joint = bool(getattr(self.backbone, "joint", False))
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
        backbone, needs = self.backbone, self._needs("fit")

        def make(work: Workspace) -> dict[str, Any]:
            call = {"ids": ids.tolist(), "folder": str(work.scratch)}
            with self.reporter.stage("fine-tuning") as report, self._together(call, work) as team:
                runtime = replace(self._runtime(self.run.seeds.finetune, report), saved=work.keep, team=team)
                fitted = self._fitted(ids, runtime, work.scratch)
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

    def _fitted(self, ids: np.ndarray, runtime: Runtime, folder: Path) -> Fitted:
        ready = self._backbone_for(self._needs("fit"))
        with self._blaming("backbone", "fit"):
            fitted = ready.fit(self.samples.take(ids), self.stop_users, runtime, folder)
        return checked_fitted(f"backbone {self.run.backbone}: fit", fitted)

    # -- rank and measure ----------------------------------------------------------------------------------------

    def queries(self) -> Queries:
        """The users evaluated: all of test, or the validation users nobody stops on."""
        return self.dataset.queries("test") if self.run.split == "test" else self.select_users

    def predict(self, fitted: Artefact) -> Artefact:
        """Rank all items for every user, deep enough that masking the history still leaves the largest cut-off."""
        queries, chunks = self.queries(), self._chunks()

        def make(work: Workspace, load: Load) -> dict[str, Any]:
            runtime, total = self._runtime(self.run.seeds.finetune), len(queries)
            model = functools.cache(lambda: load(runtime))
            parts = [work.scratch / f"ranked-{number:05d}.npz" for number in range(len(chunks))]
            todo = [number for number, part in enumerate(parts) if not part.exists()]
            call = {"fitted": str(fitted.folder), "chunks": todo}
            with self.reporter.stage("inference") as report:
                with self._together(call, work) if todo else nullcontext(ALONE) as team:
                    shared = replace(runtime, team=team)
                    inner = shared if len(chunks) > 1 else replace(shared, report=report)
                    for number in todo:
                        report(number * CHUNK, total, "users ranked")
                        save_rankings(parts[number], self._ranked(chunks[number], model(), inner))
                        work.keep()
                with self._blaming("backbone", "diagnose"):
                    said = diagnosis(model(), queries, runtime)
                notes = checked_notes(f"backbone {self.run.backbone}", said)
            everyone = Rankings.concatenate(map(load_rankings, parts))
            place = np.argsort(np.concatenate([np.empty(0, np.int64), *chunks]))
            save_rankings(work.folder / "rankings.npz", everyone.take(place))
            return {"notes": notes}

        return self.infer("predictions", PREDICTIONS_VERSION, {"cutoffs": list(CUTOFFS)}, make, fitted)

    def _chunks(self) -> list[np.ndarray]:
        order = np.argsort(self.queries().histories.lengths, kind="stable")
        return np.split(order, np.arange(CHUNK, len(order), CHUNK)) if len(order) else []

    def _ranked(self, chunk: np.ndarray, model: Fitted, runtime: Runtime) -> Rankings:
        """The leader gets the rankings of a chunk of users, of which each process of the team makes its share."""
        mine, n_items = chunk[runtime.team.mine], self.dataset.n_items
        with self._blaming("backbone", "recommend"):
            made = ranked(self.run.backbone, model, self.queries(), mine, max(CUTOFFS), n_items, runtime)
        return dealt_back(runtime.team.gathered(made))

    def infer(self, stage: str, version: int, settings: dict[str, Any], make: Making, fitted: Artefact) -> Artefact:
        """What a fine-tuned model says of the users evaluated; ``settings``, beside those of inference, enter the hash."""
        needs = self._needs("recommend")
        key = {
            "backbone": self.run.backbone,
            "code": self.backbone.version,
            "config": self._key("recommend"),
            "split": self.run.split,
            **settings,
            **self._data_key(),
        }
        used = [fitted, *self._artefacts(needs)]
        load = functools.partial(self._load, fitted.folder)
        return self._stage(stage, version, key, lambda work: make(work, load), used, "inference")

    def _load(self, folder: Path, runtime: Runtime) -> Fitted:
        ready = self._backbone_for(self._needs("recommend"))
        with self._blaming("backbone", "load"):
            loaded = ready.load(folder, runtime)
        return checked_fitted(f"backbone {self.run.backbone}: load", loaded)

    def join(self, call: dict[str, Any], team: Team) -> None:
        """Another process's part in what the leader called it to: a fit, or the ranking of some chunks of users."""
        runtime = replace(self._runtime(self.run.seeds.finetune), team=team)
        if "ids" in call:
            self._fitted(np.array(call["ids"], np.int64), runtime, Path(call["folder"]))
        else:
            model, chunks = self._load(Path(call["fitted"]), runtime), self._chunks()
            for number in call["chunks"]:
                self._ranked(chunks[number], model, runtime)

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

    def _together(self, call: dict[str, Any], work: Workspace) -> AbstractContextManager[Team]:
        """The team for a piece of work; alone where there is nobody else, or the backbone cannot share it."""
        if self.crew is None or not self.joint:
            return nullcontext(ALONE)
        return self.crew.joined(call, work.include)

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


def ids_digest(ids: np.ndarray) -> str:
    """sha256 of the sorted sample ids."""
    return hashlib.sha256(np.sort(ids).astype("<i8").tobytes()).hexdigest()
