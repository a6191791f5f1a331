"""`bench survey`: every method's selection in one go: what it uses, what it costs, how it differs from the others."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prunebench.benchmark.commands import job_choices, workbench
from prunebench.benchmark.config import SECTIONS, Choices, ConfigError, Seeds, read_file
from prunebench.benchmark.errors import explain
from prunebench.benchmark.output import clean_output, print_json
from prunebench.benchmark.records import selection_facts
from prunebench.benchmark.workbench import Workbench, describe
from prunebench.datasets.schema import RecDataset
from prunebench.leaderboard.record import total
from prunebench.leaderboard.tables import MISSING, duration, escape, markdown_table, memory, percent
from prunebench.recommenders.runtime import Cancelled

ALL_SAMPLES = "full"
BASELINES = ("random", "dealrec")
"""Methods whose selections the others' are laid over."""
PLANTED = {"noise": "noise", "duplicate": "duplicates"}
"""Labels of a synthetic data set that a method should keep few of, and what they are called in the table."""


@dataclass(frozen=True)
class Job:
    """One data set to survey. ``file``: sections of the configuration file."""

    bench: Workbench
    dataset: str
    methods: list[str]
    base: dict[str, Any]
    settings: tuple[str, ...]
    file: dict[str, Any]
    seed: int

    def settings_of(self, method: str | None) -> list[str]:
        """What was set for this method alone, e.g. ``less.epochs=1``, or (None) for all alike."""
        owners = {name: f"{name}." for name in self.bench.registry.names("methods") if name not in SECTIONS}
        if method is not None:
            return [text for text in self.settings if text.startswith(owners[method])]
        return [text for text in self.settings if not text.startswith(tuple(owners.values()))]

    def resolve(self, method: str) -> Any:
        settings = (*self.settings_of(None), *self.settings_of(method))
        choices = Choices(**{**self.base, "method": method, "dataset": self.dataset})
        return self.bench.resolve(choices, settings, self.file, Seeds.all(self.seed), select_only=True)

    def check(self) -> None:
        """Every method's settings and what it asks for, before anything is built. Raises what a run would."""
        for setting in self.settings:
            named = setting.partition(".")[0]
            if named == "method":
                raise ConfigError(f"--set {setting!r}: say whose it is, e.g. {self.methods[-1]}.{setting[7:]}")
            if named in self.bench.registry.names("methods") and named not in (*self.methods, *SECTIONS):
                raise ConfigError(f"--set {setting!r}: {named} is not among the methods surveyed; name it in --methods")
        for method in self.methods:
            self.resolve(method)


def survey(
    home: Path,
    *,
    datasets: tuple[str, ...],
    methods: str | None,
    seed: int | None,
    as_json: bool,
    config_file: Path | None,
    plugin_files: tuple[Path, ...],
    device: str,
    settings: tuple[str, ...],
    **asked: Any,
) -> None:
    """One table per data set. Exit code 1 where a method failed; the others' rows are printed all the same."""
    with clean_output() as out:
        bench = workbench(home, device, plugin_files)
        base, file = job_choices(asked, read_file(config_file) if config_file else {})
        chosen = _chosen(bench, methods)
        jobs = [
            Job(bench, name, chosen, base, settings, file, seed or 0) for name in dict.fromkeys(datasets or ("mini",))
        ]
        for job in jobs:
            job.check()
        surveys = []
        for job in jobs:
            surveys.append(_survey(job))
            if not as_json:
                out.write(("\n" if len(surveys) > 1 else "") + markdown(surveys[-1]))
                out.flush()
        if as_json:
            print_json(out, {"surveys": surveys})
    if any(row["error"] for one in surveys for row in one["rows"]):
        raise SystemExit(1)


def _chosen(bench: Workbench, methods: str | None) -> list[str]:
    """The methods asked for, each known by name; all but `full` by default."""
    if methods is None:
        return [name for name in bench.registry.resolve_all("methods") if name != ALL_SAMPLES]
    named = list(dict.fromkeys(name.strip() for name in methods.split(",") if name.strip()))
    if not named:
        raise ConfigError(f"--methods {methods!r}: give names with commas, e.g. random,dealrec")
    if ALL_SAMPLES in named:
        raise ConfigError(f"--methods: {ALL_SAMPLES} keeps every sample, so there is nothing to survey; leave it out")
    for name in named:
        bench.registry.origin("methods", name)
    return named


def _survey(job: Job) -> dict[str, Any]:
    """Title facts and one plain row per method; `random`, which costs nothing, is always there to lay them over."""
    resolved, dataset, _ = job.resolve(BASELINES[0])
    if resolved.budget == 0:
        raise ConfigError("--budget 0 selects nothing; a survey needs 1 or more")
    samples = dataset.samples()
    kept: dict[str, np.ndarray] = {}
    if BASELINES[0] not in job.methods:
        _row(job, BASELINES[0], kept)
    rows = []
    for number, method in enumerate(job.methods, 1):
        job.bench.reporter.say(f"[{number}/{len(job.methods)}] {method} on {dataset.name}, {resolved.budget:,} samples")
        rows.append(_row(job, method, kept))
        if rows[-1]["error"]:
            job.bench.reporter.say(f"  failed: {rows[-1]['error']}")
        # What one method loaded must not stand in the next one's peak memory.
        gc.collect()
    for row in rows:
        ids = kept.get(row["method"])
        row["overlap"] = {
            name: len(np.intersect1d(ids, kept[name])) / resolved.budget if ids is not None and name in kept else None
            for name in BASELINES
        }
    return {
        "dataset": dataset.name,
        "fingerprint": dataset.fingerprint,
        "budget": resolved.budget,
        "samples": len(samples),
        "seed": job.seed,
        "backbone": resolved.backbone,
        "surrogate": resolved.surrogate,
        "settings": job.settings_of(None),
        "device": describe(job.bench.torch_device),
        "planted": _shares(dataset, samples.ids),
        "rows": rows,
    }


def _row(job: Job, method: str, kept: dict[str, np.ndarray]) -> dict[str, Any]:
    """Prune with one method. Its ids go to ``kept``; what it raises is told in one line and stops nobody else."""
    row: dict[str, Any] = {
        "method": method,
        "settings": [text.partition(".")[2] for text in job.settings_of(method)],
        "uses": None,
        "seconds": None,
        "pretraining_s": None,
        "error": None,
    }
    row |= {"peak_rss_mb": 0.0, "peak_gpu_mb": 0.0, "kept": None, "notes": {}}
    try:
        resolved, dataset, _ = job.resolve(method)
        pruned, stages = job.bench.prune(resolved, dataset)
    except Cancelled:
        raise
    except (Exception, SystemExit) as error:
        return {**row, "error": explain(error)[0]}
    kept[method] = pruned.selection.ids
    costs = total(stages)
    counts = selection_facts(None, pruned, dataset.labels).label_counts
    return {
        **row,
        "uses": list(pruned.uses),
        "seconds": costs.total_s,
        "pretraining_s": costs.pretraining_s,
        "peak_rss_mb": costs.peak_rss_mb,
        "peak_gpu_mb": costs.peak_gpu_mb,
        "kept": {name: counts.get(name, 0) / len(pruned.selection.ids) for name in PLANTED} if counts else None,
        "notes": pruned.selection.notes,
    }


def _shares(dataset: RecDataset, ids: np.ndarray) -> dict[str, float] | None:
    """Share of each planted label among all samples."""
    if dataset.labels is None:
        return None
    return {name: float(np.mean(dataset.labels[ids] == name)) for name in PLANTED}


def markdown(survey: dict[str, Any]) -> str:
    """One data set's survey as a section with a table."""
    rows = survey["rows"]
    columns = {
        "method": [escape(" ".join([row["method"], *row["settings"]])) for row in rows],
        "uses": [MISSING if row["uses"] is None else ", ".join(row["uses"]) or "nothing" for row in rows],
        "pruning": [duration(row["seconds"]) for row in rows],
        "memory": [memory(row["peak_rss_mb"], row["peak_gpu_mb"]) for row in rows],
        **{f"as {name}": [percent(row["overlap"][name]) for row in rows] for name in BASELINES},
    }
    planted = survey["planted"]
    if planted:
        for name, called in PLANTED.items():
            columns[f"{called} kept"] = [percent(row["kept"][name] if row["kept"] else None) for row in rows]
    if any(row["error"] for row in rows):
        columns["failed"] = [escape(row["error"] or "") for row in rows]
    budget, share = survey["budget"], survey["budget"] / survey["samples"]
    facts = [
        f"Chosen for {escape(survey['backbone'])} with the surrogate {escape(survey['surrogate'])}. Times are the wall"
        " clock of all a method needed, shared parts counted for each that uses them, without the base LLM's pre-training."
        " Memory is the peak of the process, with what methods before left in it.",
        f"As random, as dealrec: share of the budget both chose; two random draws share {percent(share)}.",
    ]
    if survey["settings"]:
        facts.append(f"Set for all: {escape(', '.join(survey['settings']))}.")
    if planted:
        shares = " and ".join(f"{percent(planted[name])} {called}" for name, called in PLANTED.items())
        facts.append(f"Planted among all samples: {shares}.")
    title = f"## {escape(survey['dataset'])} · {budget:,} of {survey['samples']:,} samples · seed {survey['seed']}"
    table = markdown_table(columns, left=("method", "uses", "failed"))
    return f"{title} · {escape(survey['device'])}\n\n{table}\n{' '.join(facts)}\n"
