"""`bench explain`: why a run kept a sample or did not, from its record and the artefacts of its selection."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prunebench.benchmark.blame import blaming, read_only
from prunebench.benchmark.commands import workbench
from prunebench.benchmark.config import NO_METHOD, ConfigError
from prunebench.benchmark.explained import EvidenceFacts, Explained, ItemFacts, StepFacts, print_explained
from prunebench.benchmark.harness import Harness, ids_digest
from prunebench.benchmark.outcome import Pruned
from prunebench.benchmark.output import clean_output, print_json
from prunebench.benchmark.plugins import Kind, Registry
from prunebench.benchmark.recorded import find_run, resolved
from prunebench.benchmark.store import Store
from prunebench.datasets.schema import DataError, RecDataset, Samples
from prunebench.leaderboard.record import Record
from prunebench.methods.base import Explains, Explanation, MethodError


def explain(home: Path, *, sample: int, run_name: str, plugin_files: tuple[Path, ...], as_json: bool) -> None:
    """Print why ``sample`` is in a run's selection or is not. Raises an error of one line for all that stands against it."""
    record = find_run(home / "runs", run_name)
    if record.method == NO_METHOD:
        raise ConfigError(
            f"run {record.run} ({record.backbone}) has no selection: zero-shot runs have none, nor references that learn from no samples"
        )
    with clean_output() as out:
        bench = workbench(home, "auto", plugin_files)
        _check_plugins(record, bench.registry)
        dataset = bench.dataset(record.dataset.name)
        if dataset.fingerprint != record.dataset.fingerprint:
            raise DataError(
                f"data set {dataset.name} has fingerprint {dataset.fingerprint}, and run {record.run} saw {record.dataset.fingerprint}: install the one it saw"
            )
        samples = dataset.samples()
        position = position_of(sample, samples)
        gone = missing_artefacts(record, bench.store)
        if gone:
            bench.reporter.say(f"gone from the store: {', '.join(gone)}; made again as far as needed")
        try:
            harness = bench.harness(resolved(record), dataset)
        except ConfigError as error:
            raise ConfigError(f"run {record.run} is of another version of its parts: {error}") from None
        pruned = harness.prune()
        if ids_digest(pruned.selection.ids) != record.selection.sha256:
            raise MethodError(
                f"run {record.run} kept other samples than its configuration selects now: it was made by another version (commit {record.environment.git_commit or 'unknown'}), use that"
            )
        found = facts(record, harness, pruned, position, gone)
        if as_json:
            print_json(out, found.model_dump(mode="json"))
        else:
            print_explained(found, out)


def _check_plugins(record: Record, registry: Registry) -> None:
    """Raise ConfigError unless every part of the run that a file brought is here, brought by the same file."""
    used = record.config.get("plugins", {})
    parts: dict[str, tuple[Kind, str | None]] = {
        "method": ("methods", record.method),
        "backbone": ("backbones", record.backbone),
        "surrogate": ("surrogates", record.config.get("surrogate", {}).get("name")),
    }
    for part, (kind, name) in parts.items():
        then = used.get(part)
        if name is None or (then is None and name not in registry.names(kind)):
            continue
        if name not in registry.names(kind):
            raise ConfigError(
                f"run {record.run} had its {part} {name} from a file (sha256 {then[:12]}…): give it by --plugin FILE"
            )
        now = registry.origin(kind, name).sha256
        if now != then:
            was, is_now = (f"a file of sha256 {code[:12]}…" if code else "an installed package" for code in (then, now))
            raise ConfigError(
                f"{part} {name} is not the one of run {record.run}: that came from {was}, this from {is_now}; give the one it used"
            )


def position_of(sample: int, samples: Samples) -> int:
    """Where a sample id is among the samples. Raises DataError saying why it is none."""
    dataset = samples.dataset
    if not 0 <= sample < dataset.n_users:
        raise DataError(f"there is no sample {sample} in {dataset.name}: its users are 0 … {dataset.n_users - 1}")
    items = int(dataset.train.lengths[sample])
    if items < 2:
        has = "a single training item" if items else "no training item"
        raise DataError(f"user {sample} of {dataset.name} has {has}, and a sample takes two: a history and a target")
    return int(samples.positions(np.array([sample]))[0])


def missing_artefacts(record: Record, store: Store) -> list[str]:
    """Stages that the selection was made by and that are no longer on disk."""
    return [
        entry.stage
        for entry in record.bill
        if entry.phase in ("pruning", "pretraining") and not (store.home / "store" / entry.stage / entry.hash).is_dir()
    ]


def facts(record: Record, harness: Harness, pruned: Pruned, position: int, gone: list[str]) -> Explained:
    """All there is to say about one sample of a run. Raises MethodError where the method contradicts its selection."""
    samples, dataset = harness.samples, harness.dataset
    sample = int(samples.ids[position])
    is_kept = bool((pruned.selection.ids == sample).any())
    assert pruned.evidence is not None  # a run with a method has evidence, be it empty
    evidence = harness.read_evidence(pruned.evidence)
    steps: list[StepFacts] | None = None
    if isinstance(harness.method, Explains):
        name, runtime = record.method, harness.runtime.with_seed(record.seeds.selection)
        with blaming(f"method {name}: explain", harness.registry.built_in("methods", name)):
            said: Explanation = harness.method.explain(
                read_only(samples), dict(evidence), pruned.selection, runtime, position
            )
            steps = [StepFacts.of(step) for step in said.steps]
            kept = bool(said.kept)
        if kept != is_kept:
            raise MethodError(
                f"method {name} explains why sample {sample} was {'kept' if kept else 'left out'}, and it was {'kept' if is_kept else 'left out'}: its explain and its select disagree"
            )
    shared: frozenset[str] = frozenset(getattr(harness.method, "shared", ()))
    return Explained(
        run=record.run,
        method=record.method,
        backbone=record.backbone,
        dataset=dataset.name,
        fingerprint=dataset.fingerprint,
        samples=len(samples),
        budget=record.budget,
        seeds={"signal": record.seeds.signal, "selection": record.seeds.selection},
        sample=sample,
        user=dataset.user_keys[sample] if dataset.user_keys is not None else None,
        label=str(dataset.labels[sample]) if dataset.labels is not None else None,
        kept=is_kept,
        evidence=[standing(name, values, position) for name, values in evidence.items() if name not in shared],
        steps=steps,
        history=[_item(dataset, item) for item in samples.histories[position].tolist()],
        target=_item(dataset, int(samples.targets[position])),
        notes=pruned.selection.notes,
        made_again=gone,
    )


def standing(name: str, values: NDArray, position: int) -> EvidenceFacts:
    """One sample's evidence, and where it stands among all: of a vector, its length."""
    if values.ndim == 2:
        length = float(np.linalg.norm(values[position].astype(np.float64)))
        return EvidenceFacts(name=name, length=length, dimensions=values.shape[1], of=len(values))
    present = values[~np.isnan(values)] if values.dtype.kind == "f" else values
    value = float(values[position])
    if np.isnan(value):
        return EvidenceFacts(name=name, of=len(present))
    return EvidenceFacts(
        name=name,
        value=value,
        rank=int((present > values[position]).sum()) + 1,
        of=len(present),
        percentile=100 * float((present < values[position]).mean()),
    )


def _item(dataset: RecDataset, item: int) -> ItemFacts:
    key = dataset.item_keys[item] if dataset.item_keys is not None else None
    return ItemFacts(item=item, key=key, title=dataset.titles[item])
