"""The plan of a study: its runs resolved and checked, what is there already, what they share, and what it may cost."""

from __future__ import annotations

import itertools
import json
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from prunebench.benchmark.config import NO_METHOD, RunConfig
from prunebench.benchmark.errors import BAD_INPUT, explain
from prunebench.benchmark.harness import Harness, ids_digest
from prunebench.benchmark.meter import Bill
from prunebench.benchmark.progress import Report
from prunebench.benchmark.records import run_name
from prunebench.benchmark.store import _CARD, Artefact, Store, Workspace
from prunebench.benchmark.study import ALL_SAMPLES, Study, Task, refuse, tasks
from prunebench.benchmark.workbench import Workbench, describe
from prunebench.datasets.files import read_json, verify
from prunebench.datasets.schema import DataError, RecDataset
from prunebench.leaderboard.record import Record, RecordError, load_record


@dataclass(frozen=True)
class Piece:
    """An artefact that runs of the plan use. ``there``: in the store; ``seconds``: what it cost, or what its like did
    on this hardware, None where there is no like; ``runs``: numbers of those that use it."""

    stage: str
    hash: str
    there: bool
    seconds: float | None
    runs: tuple[int, ...]


@dataclass(frozen=True)
class Planned:
    """One run. ``record``: its name if it is recorded, whole; ``missing``: hashes of artefacts that are not in the store,
    in order; ``stands_for``: combinations of the study that come to this run; ``varied``: those of its settings, as
    `--set` has them, that tell it from others of its method and backbone."""

    number: int
    task: Task
    run: RunConfig
    record: str | None
    missing: tuple[str, ...]
    stands_for: int = 1
    varied: tuple[str, ...] = ()

    @property
    def settings(self) -> dict[str, Any]:
        """What was set, but for the method where nothing is selected."""
        given = dict(self.task.settings)
        unused = "method." if self.run.method == NO_METHOD else None
        return {key: value for key, value in given.items() if not (unused and key.startswith(unused))}

    @property
    def words(self) -> str:
        """The run in a line, without its number."""
        what = f"{self.run.method} × {self.run.backbone}" if self.run.method != NO_METHOD else self.run.backbone
        samples = f", {self.run.budget:,} samples" if self.run.budget else ""
        settings = "".join(f", {setting}" for setting in self.varied)
        return f"{what} on {self.run.dataset}{samples}{settings}, {self.seeds}"

    @property
    def seeds(self) -> str:
        chosen, tuned = self.run.seeds.selection, self.run.seeds.finetune
        return f"seed {chosen}" if chosen == tuned else f"seeds {chosen} and {tuned}"


@dataclass(frozen=True)
class Plan:
    """``runs`` in the order of the study, ``pieces`` by hash."""

    name: str
    runs: tuple[Planned, ...]
    pieces: dict[str, Piece] = field(default_factory=dict)

    @property
    def todo(self) -> list[Planned]:
        return [run for run in self.runs if run.record is None]

    def to_build(self, runs: Iterable[Planned]) -> list[Piece]:
        """What has to be built for these runs, each piece once."""
        return [self.pieces[address] for address in dict.fromkeys(address for run in runs for address in run.missing)]

    def estimate(self, runs: Iterable[Planned]) -> tuple[float | None, int]:
        """Seconds of work that is left for these runs, as far as known, and for how many pieces nothing is known."""
        known = [piece.seconds for piece in self.to_build(runs)]
        seconds = [value for value in known if value is not None]
        return (sum(seconds) if seconds or not known else None), len(known) - len(seconds)


def plan(bench: Workbench, study: Study, name: str) -> Plan:
    """Resolve and check every run of a study; nothing is built. Raises ConfigError telling all mistakes in one line."""
    mistakes: list[str] = []
    foresight = Foresight(bench)
    runs: dict[str, Planned] = {}
    for task in fitting(bench, study, name):
        try:
            run, dataset, _ = bench.resolve(task.choices, task.set_options, {}, task.seeds)
            key = _identity(bench, run)
            if key in runs:
                runs[key] = replace(runs[key], stands_for=runs[key].stands_for + 1)
                continue
            record, used = foresight.look(run, dataset, len(runs) + 1)
        except BAD_INPUT as error:
            mistakes.append(explain(error)[0])
            continue
        missing = tuple(address for address in used if not foresight.pieces[address].there)
        runs[key] = Planned(len(runs) + 1, task, run, record, missing)
    refuse(name, list(dict.fromkeys(mistakes)))
    return Plan(name, _told_apart(runs.values()), foresight.pieces)


def _told_apart(runs: Iterable[Planned]) -> tuple[Planned, ...]:
    """The runs with what is ``varied`` of their settings and the surrogate; a setting that only some have is."""
    chosen = [
        (run, ({"surrogate": run.task.surrogate} if run.run.method != NO_METHOD else {}) | run.settings) for run in runs
    ]
    values: dict[tuple[str, ...], set[str]] = defaultdict(set)
    keys = dict.fromkeys(key for _, given in chosen for key in given)
    for (run, given), key in itertools.product(chosen, keys):
        values[run.run.method, run.run.backbone, key].add(json.dumps(given[key]) if key in given else "")
    told = []
    for run, given in chosen:
        varied = [key for key in given if len(values[run.run.method, run.run.backbone, key]) > 1]
        told.append(replace(run, varied=tuple(f"{key}={json.dumps(given[key])}" for key in varied)))
    return tuple(told)


def fitting(bench: Workbench, study: Study, name: str) -> list[Task]:
    """The study's runs, ``llm`` and ``preset`` left out for backbones that take none. Raises ConfigError."""
    fitted, used = [], {"llm": study.llm is None, "preset": study.preset is None}
    for task in tasks(study, name):
        try:
            backbone = bench.registry.resolve("backbones", task.backbone)
        except BAD_INPUT:
            fitted.append(task)  # told with the other mistakes
            used = dict.fromkeys(used, True)
            continue
        takes = {"llm": "llm" in backbone.Config.model_fields, "preset": bool(getattr(backbone, "PRESETS", {}))}
        llm, preset = (getattr(task, key) if can else None for key, can in takes.items())
        fitted.append(replace(task, llm=llm, preset=preset))
        used = {key: used[key] or takes[key] for key in used}
    refuse(
        name, [f"{key} is set, but no backbone of the study takes one; leave it out" for key in used if not used[key]]
    )
    return fitted


def _identity(bench: Workbench, run: RunConfig) -> str:
    """What two combinations have in common that come to the same run.

    A reference that no selection can change is run once for all seeds, unless its class says that it is ``seeded``; the
    seed of a selection that keeps nothing or everything makes no difference.
    """
    seeds, plugins = run.seeds.model_dump(), run.plugins
    backbone = bench.registry.resolve("backbones", run.backbone)
    if run.method in (NO_METHOD, ALL_SAMPLES):
        seeds = {"finetune": run.seeds.finetune}
    if not backbone.uses_samples and not getattr(backbone, "seeded", False):
        seeds = {}
    if run.method == NO_METHOD:
        plugins = {part: code for part, code in plugins.items() if part != "method"}
    return json.dumps({**run.model_dump(mode="json"), "seeds": seeds, "plugins": plugins}, sort_keys=True)


class _Silent:
    """Reports nothing: looking ahead does no work."""

    def stage(self, name: str) -> AbstractContextManager[Report]:
        return nullcontext(lambda done, total, what: None)

    def built(self, artefact: Artefact) -> None: ...

    def say(self, line: str) -> None: ...


class _Unchosen(Exception):
    """A selection that is not in the store."""

    def __init__(self, artefact: Artefact) -> None:
        super().__init__(artefact.hash)
        self.artefact = artefact


class Foresight(Store):
    """A store that builds nothing: where an artefact is not there, its address and what it may cost are."""

    def __init__(self, bench: Workbench) -> None:
        device = describe(bench.torch_device)
        super().__init__(bench.home, device=device)
        self.bench, self.device = bench, device
        self.pieces: dict[str, Piece] = {}
        self._run: RunConfig
        self._number = 0
        self._after: str | None = None
        self._used: dict[str, None] = {}
        self._alike: dict[str, dict[str, list[Bill]]] = {}

    def look(self, run: RunConfig, dataset: RecDataset, number: int) -> tuple[str | None, list[str]]:
        """The record of a run, by name, if there is one; and all it uses. ``number`` is kept with the pieces."""
        self._run, self._number, self._after, self._used = run, number, None, {}
        bench = self.bench
        harness = Harness(run, dataset, bench.registry, self, _Silent(), bench.evaluated(run, dataset).runtime)
        harness.check()
        root: Artefact | None
        ids: np.ndarray | None
        try:
            pruned = harness.prune()
            root, ids = pruned.artefact, pruned.selection.ids
        except _Unchosen as unchosen:
            root = unchosen.artefact
            ids = self._recorded_ids.get(root.hash, lambda: None)()
            self._after = root.hash if ids is None else None
        fitted = harness.fit(np.empty(0, np.int64) if ids is None else ids)
        predictions = harness.predict(fitted)
        if ids is None:
            return None, [*self._used]
        roots = [artefact for artefact in (root, fitted, predictions) if artefact]
        name = run_name(run, dataset.fingerprint, roots)
        return (name if is_whole(self.home / "runs" / name) else None), [*self._used]

    def get_or_build(
        self,
        stage: str,
        version: int,
        key: dict[str, Any],
        make: Callable[[Workspace], dict[str, Any] | None],
        upstream: Sequence[Artefact] = (),
        phase: str = "",
    ) -> Artefact:
        """The artefact if it is there; else one without files or a bill."""
        if stage == "fit" and self._after is not None:
            key = {**key, "samples": f"those of selection {self._after}"}
        address = self.address(stage, version, key, upstream)
        self._verified.add(address)  # sizes will do here: a run looks closer
        found = self._load(stage, address)
        self._used[address] = None
        known = self.pieces.get(address)
        if known is not None:
            piece = replace(known, runs=tuple(dict.fromkeys((*known.runs, self._number))))
        elif found is not None:
            piece = Piece(stage, address, True, found.bill.wall_s, (self._number,))
        else:
            piece = Piece(stage, address, False, self._seconds(stage, key), (self._number,))
        self.pieces[address] = piece
        artefact = found or Artefact(
            stage=stage,
            version=version,
            hash=address,
            folder=self._folder(stage, address),
            phase=phase,
            bill=Bill.zero(),
            killed=Bill.zero(),
            info={},
            upstream=tuple(parent.hash for parent in upstream),
            created=0.0,
            hit=False,
        )
        if stage == "selection" and found is None:
            raise _Unchosen(artefact)
        return artefact

    # -- what like artefacts cost ----------------------------------------------------------------------------------

    def _seconds(self, stage: str, key: dict[str, Any]) -> float | None:
        """Median of what others cost here that differ in no more than seeds, and in which of as many samples."""
        bills = self._of(stage).get(_like(key, self._run.budget if stage == "fit" else None), [])
        seconds = [bill.wall_s for bill in bills if bill.devices == (self.device,)]
        return statistics.median(seconds) if seconds else None

    def _of(self, stage: str) -> dict[str, list[Bill]]:
        """Bills of what the store has of a stage, by what is alike."""
        if stage not in self._alike:
            likes: dict[str, list[Bill]] = {}
            self._alike[stage] = likes
            for path in sorted((self.home / "store" / stage).glob(f"*/{_CARD}")):
                try:
                    card = read_json(path)
                    budget = self._budgets[card["hash"]] if stage == "fit" else None
                    likes.setdefault(_like(card["key"], budget), []).append(Bill.from_json(card["bill"]))
                except (DataError, LookupError, TypeError, ValueError):
                    continue  # damaged, or fine-tuned in a run that was never recorded
        return self._alike[stage]

    @cached_property
    def _records(self) -> list[tuple[Path, Record]]:
        found = []
        for path in sorted((self.home / "runs").glob("*/record.json")):
            try:
                found.append((path.parent, load_record(path)))
            except RecordError:
                continue  # the board tells of it
        return found

    @cached_property
    def _budgets(self) -> dict[str, int]:
        """Samples that a recorded fine-tuning had, by its hash."""
        return {
            entry.hash: record.budget for _, record in self._records for entry in record.bill if entry.stage == "fit"
        }

    @cached_property
    def _recorded_ids(self) -> dict[str, Callable[[], np.ndarray | None]]:
        """Selections that a record has kept, by their hash: the store may have been emptied."""

        def reader(folder: Path, record: Record) -> Callable[[], np.ndarray | None]:
            def read() -> np.ndarray | None:
                try:
                    ids = np.loadtxt(folder / "selection.txt", dtype=np.int64, ndmin=1)
                except (OSError, ValueError):
                    return None
                return ids if ids_digest(ids) == record.selection.sha256 else None

            return read

        return {
            entry.hash: reader(folder, record)
            for folder, record in self._records
            for entry in record.bill
            if entry.stage == "selection"
        }


def _like(key: dict[str, Any], budget: int | None) -> str:
    return json.dumps({**key, "seed": None, "samples": budget}, sort_keys=True)


def is_whole(folder: Path) -> bool:
    """Whether a run is recorded there, and nothing of it is damaged."""
    try:
        verify(folder)
        load_record(folder / "record.json")
    except (DataError, RecordError):
        return False
    return True
