"""What submitted runs are held against: the data set if it is here, else other runs on it, and the parts we know by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from prunebench.benchmark.config import NO_METHOD, ConfigError
from prunebench.benchmark.generated import generated
from prunebench.benchmark.plugins import Kind, Registry
from prunebench.benchmark.recorded import name_of, resolved
from prunebench.datasets.library import Library
from prunebench.datasets.schema import RecDataset
from prunebench.leaderboard import paper_figures
from prunebench.leaderboard.archive import shown
from prunebench.leaderboard.record import Record
from prunebench.leaderboard.truth import Int64, Targets, Truth, truth_of_data, truth_of_runs

_ROOTS = ("selection", "fit", "predictions")
_PARTS: dict[str, Kind] = {"method": "methods", "backbone": "backbones", "surrogate": "surrogates"}


class Truths:
    """By fingerprint; ``dataset_from`` names the one data set that every run is to be held against."""

    def __init__(self, home: Path, dataset_from: str | None = None):
        self.registry, self.library = Registry(), Library(home)
        self._known: dict[str, Truth] = {}
        self._only = self._load(dataset_from) if dataset_from else None

    def hear(self, runs: Sequence[tuple[Record, Int64]], source: str, least: int = 1) -> None:
        """Learn about data sets that are not here from ``least`` runs or more. Who was heard first is believed."""
        by_data: dict[str, list[tuple[Record, Int64]]] = {}
        for record, users in runs:
            by_data.setdefault(record.dataset.fingerprint, []).append((record, users))
        for fingerprint, found in by_data.items():
            if fingerprint not in self._known and len(found) >= least:
                truth = self._installed(found[0][0]) or truth_of_runs(source, found)
                if truth is not None:
                    self._known[fingerprint] = truth

    def of(self, record: Record) -> Truth | None:
        """What a run must agree with; None where nothing is known of its data."""
        if self._only is not None:
            return self._only
        if record.dataset.name in self.registry.names("datasets"):
            return self._load(record.dataset.name)
        return self._known.get(record.dataset.fingerprint) or self._installed(record)

    def _installed(self, record: Record) -> Truth | None:
        asked = record.dataset
        names = [one["name"] for one in self.library.installed() if one.get("fingerprint") == asked.fingerprint]
        return self._load(asked.name if asked.name in names else names[0]) if names else None

    def _load(self, name: str) -> Truth:
        made = self.registry.names("datasets")
        for truth in self._known.values():
            if truth.source == f"data set {name}":
                return truth
        data = generated(self.registry, name) if name in made else self.library.load(name, also=made)
        self._known[data.fingerprint] = truth_of(data)
        return self._known[data.fingerprint]


def truth_of(data: RecDataset) -> Truth:
    """What a data set says of its test split."""
    queries, samples = data.queries("test"), data.samples()
    keys = np.unique(queries.targets.rows_of_items() * data.n_items + queries.targets.items)
    rows, items = np.divmod(keys, data.n_items)
    warm = data.popularity[items] > 0
    every, own = (np.bincount(part, minlength=len(queries)).astype(np.int64) for part in (rows, rows[warm]))
    counts = {"users": data.n_users, "items": data.n_items, "samples": len(samples), "test_users": len(queries)}
    return truth_of_data(
        f"data set {data.name}",
        data.fingerprint,
        counts,
        queries.users,
        Targets(every, own),
        samples.ids,
        None if data.labels is None else np.asarray(data.labels, np.str_),
    )


def name_faults(record: Record, registry: Registry) -> list[str]:
    """What a run calls itself and its parts, where that is not so."""
    faults = []
    due = paper_figures.FINGERPRINTS.get(record.dataset.name)
    if due not in (None, record.dataset.fingerprint):
        faults.append(
            f"data set {record.dataset.name} is not the paper's (fingerprint {shown(record.dataset.fingerprint)}, not {due}); use another name"
        )
    surrogate = record.config.get("surrogate")
    plugins = record.config.get("plugins")
    names = {"method": record.method, "backbone": record.backbone}
    names |= {"surrogate": str(surrogate.get("name"))} if isinstance(surrogate, dict) else {}
    for part, name in names.items():
        marked = isinstance(plugins, dict) and part in plugins
        known = name in registry.names(_PARTS[part]) or (part == "method" and name == NO_METHOD)
        if not known and not marked:
            faults.append(
                f"{part} {shown(name)} is not known here, and config.plugins does not mark it: update prunebench, or install what brings it"
            )
    return faults + (
        []
        if _named_rightly(record)
        else [f"run {shown(record.run)} is not what its configuration and artefacts are called"]
    )


def _named_rightly(record: Record) -> bool:
    """Whether the name is the hash it should be; it also covers a surrogate that had no part, which no record has."""
    if "surrogate" not in record.config:
        return True
    hashes = {entry.stage: entry.hash for entry in record.bill}
    roots = [hashes[stage] for stage in _ROOTS if stage in hashes]
    try:
        return name_of(resolved(record), record.dataset.fingerprint, roots, record.schema_version) == record.run
    except (ConfigError, ValueError, TypeError, AttributeError):
        return False
