"""Runs that were recorded: found by name, and what they were configured as."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from prunebench.benchmark.config import ConfigError, RunConfig, Seeds
from prunebench.leaderboard.record import SCHEMA_VERSION, Record, load_record

METRICS_VERSION = 1


def find_run(folder: Path, asked: str) -> Record:
    """The record of the run that ``find_folder`` finds. Raises RecordError for a damaged one as well."""
    return load_record(find_folder(folder, asked) / "record.json")


def find_folder(folder: Path, asked: str) -> Path:
    """Where the one recorded run is whose name starts so. Raises ConfigError for none and for several."""
    names = sorted(path.parent.name for path in folder.glob("*/record.json"))
    found = [name for name in names if name == asked] or [name for name in names if name.startswith(asked)]
    if not asked:
        raise ConfigError("'' is no run: give a run's name or its first letters; `bench ls runs` lists all")
    if not names:
        raise ConfigError(f"there are no runs in {folder} yet; `bench run` makes one")
    if not found:
        # The first letters of a name are what is typed.
        starts = {name[: len(asked)]: name for name in names}
        near = [starts[start] for start in difflib.get_close_matches(asked, starts, 3)]
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise ConfigError(f"no run is called {asked!r}; {hint}`bench ls runs` lists all")
    if len(found) > 1:
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        raise ConfigError(f"several runs start with {asked!r}: {', '.join(found[:5])}{more}; give more letters")
    return folder / found[0]


def resolved(record: Record) -> RunConfig:
    """The configuration that a record was made with. Where no surrogate had a part, the default one stands in."""
    surrogate = dict(record.config.get("surrogate", {}))
    return RunConfig(
        method=record.method,
        backbone=record.backbone,
        surrogate=surrogate.pop("name", RunConfig.model_fields["surrogate"].default),
        dataset=record.dataset.name,
        budget=record.budget,
        split="valid" if record.protocol.split == "valid" else "test",
        seeds=Seeds(**record.seeds.model_dump()),
        method_config=record.config.get("method", {}),
        backbone_config=record.config.get("backbone", {}),
        surrogate_config=surrogate,
        llm_config=record.config.get("llm", {}),
        plugins=record.config.get("plugins", {}),
    )


def name_of(run: RunConfig, fingerprint: str, roots: Iterable[str], schema_version: int = SCHEMA_VERSION) -> str:
    """What a run's folder is called: the hash of its configuration, its data, and its own artefacts' hashes."""
    identity = [METRICS_VERSION, schema_version, run.model_dump(mode="json"), fingerprint, *roots]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
