"""The record of one run: versioned schema, reading and writing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticSerializationError

SCHEMA_VERSION = 3
"""Version 2 added ``StageBill.notes``, version 3 ``Metrics.coverage``. Older records are still read: they have none."""

Phase = Literal["pretraining", "pruning", "fine-tuning", "inference"]
COUNTED: tuple[Phase, ...] = ("pruning", "fine-tuning", "inference")
"""Phases a method is charged for. The base LLM's pre-training is billed apart, as nobody's cost."""


class RecordError(ValueError):
    """A record cannot be read; the message says which file, why, and what to do."""


class Part(BaseModel):
    """Base of a record's parts: immutable, unknown keys refused, no NaN or infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DatasetFacts(Part):
    """``counts``: users, items, interactions, samples, test users, …"""

    name: str
    fingerprint: str
    counts: dict[str, int] = {}


class Seeds(Part):
    """One seed per source of randomness."""

    signal: int
    selection: int
    finetune: int


class Environment(Part):
    """Where the run took place. ``cores`` and ``gpu`` are what it could use; ``packages`` maps names to versions."""

    python: str
    platform: str
    packages: dict[str, str] = {}
    git_commit: str | None = None
    hardware: str = ""
    cpu: str = ""
    cores: int | None = None
    gpu: str | None = None


class Protocol(Part):
    """How the run was evaluated. ``reads``: stage → the splits or parts of the data it looked at."""

    split: str = "test"
    reads: dict[str, list[str]] = {}
    cutoffs: list[int]
    users_evaluated: int


class SelectionFacts(Part):
    """What was kept. ``noise_share`` and ``label_counts`` where the data set knows what was planted."""

    ids_file: str | None = None
    sha256: str | None = None
    count: int
    noise_share: float | None = None
    label_counts: dict[str, int] | None = None
    notes: dict[str, float | int | str] = {}


class Training(Part):
    """What fine-tuning consumed: optimiser steps, tokens and samples seen, and the validation losses on the way."""

    steps: int = 0
    tokens: int = 0
    samples: int = 0
    best_step: int = 0
    valid_losses: list[float] = []


Means = dict[str, float | None]
"""Cut-off (as text) → mean over users; None where there is nobody to average over."""


class TargetMetrics(Part):
    """Means over users with at least one target of a kind, over those targets only."""

    users: int
    targets: int
    recall: Means
    ndcg: Means


class Metrics(Part):
    """Means over users with a target; ``warm`` and ``cold`` split the targets by whether train has the item.

    ``coverage``: cut-off (as text) → distinct items in all users' lists down to there.
    """

    users: int
    targets: int
    recall: Means
    ndcg: Means
    precision: Means = {}
    mrr: Means = {}
    warm: TargetMetrics | None = None
    cold: TargetMetrics | None = None
    coverage: dict[str, int] = {}


class StageBill(Part):
    """What one artefact cost when it was built: seconds, and the stage's own peaks in MB of 2^20 bytes.

    ``device`` names the hardware in words, several joined by `` | `` where an interrupted stage went on elsewhere:
    seconds of different hardware are never added up. ``notes``: what the stage said of itself, such as an influence
    solver's iterations and residual.
    """

    stage: str
    hash: str
    phase: Phase
    wall_s: float = Field(ge=0)
    cpu_s: float = Field(ge=0)
    peak_rss_mb: float = Field(ge=0)
    peak_gpu_mb: float = Field(default=0.0, ge=0)
    device: str
    tokens: int | None = None
    notes: dict[str, float | int | str | None] = {}

    @property
    def devices(self) -> list[str]:
        return self.device.split(" | ")


class Totals(Part):
    """Wall seconds per phase and over all phases a method is charged for, and peak memory in MB over those.

    None where the stages ran on different hardware: such seconds do not add up.
    """

    pretraining_s: float | None
    pruning_s: float | None
    fine_tuning_s: float | None
    inference_s: float | None
    total_s: float | None
    peak_rss_mb: float
    peak_gpu_mb: float


class Record(Part):
    """Everything a leaderboard row is made from.

    ``config`` is resolved and nested by section, without seeds; ``changes`` holds what of it differs from the defaults,
    as dotted keys (see ``differences``). ``share`` is ``budget`` over all samples. ``metrics`` has one entry per
    protocol, ``unmasked`` and ``masked`` (history items removed). ``killed`` bills attempts that did not finish.
    """

    schema_version: int = SCHEMA_VERSION
    run: str
    finished: str = ""
    command: str = ""
    method: str
    backbone: str
    dataset: DatasetFacts
    llm: str | None = None
    budget: int = Field(ge=0)
    share: float = Field(ge=0, le=1)
    config: dict[str, Any] = {}
    changes: dict[str, Any] = {}
    seeds: Seeds
    environment: Environment
    protocol: Protocol
    selection: SelectionFacts
    training: Training = Training()
    metrics: dict[str, Metrics]
    per_user: str | None = None
    bill: list[StageBill] = []
    totals: Totals
    killed: list[StageBill] = []

    @model_validator(mode="after")
    def _adds_up(self) -> Record:
        if self.totals != total(self.bill):
            raise ValueError("the totals do not follow from the bill")
        return self

    @property
    def hardware(self) -> list[str]:
        """Where the stages ran that a method is charged for."""
        return sorted({device for entry in self.bill if entry.phase in COUNTED for device in entry.devices})

    @property
    def digest(self) -> str:
        """Hash of all that makes two runs the same row: everything but the seeds, the machine and the time."""
        names = [self.method, self.backbone, self.llm, self.dataset.name, self.dataset.fingerprint]
        config = {key: value for key, value in self.config.items() if key != "seeds"}
        text = json.dumps([names, self.budget, self.protocol.split, config], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def total(bill: Iterable[StageBill]) -> Totals:
    """The totals of a bill; each artefact counts once, however many stages used it."""
    stages = list({(entry.stage, entry.hash): entry for entry in bill}.values())

    def seconds(phases: tuple[Phase, ...]) -> float | None:
        spent = [entry for entry in stages if entry.phase in phases]
        hardware = {device for entry in spent for device in entry.devices}
        return sum(entry.wall_s for entry in spent) if len(hardware) <= 1 else None

    charged = [entry for entry in stages if entry.phase in COUNTED]
    return Totals(
        pretraining_s=seconds(("pretraining",)),
        pruning_s=seconds(("pruning",)),
        fine_tuning_s=seconds(("fine-tuning",)),
        inference_s=seconds(("inference",)),
        total_s=seconds(COUNTED),
        peak_rss_mb=max((entry.peak_rss_mb for entry in charged), default=0.0),
        peak_gpu_mb=max((entry.peak_gpu_mb for entry in charged), default=0.0),
    )


def differences(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """What of a nested configuration differs from its defaults, as dotted keys: ``{"method.lam": 1.0}``."""
    changed: dict[str, Any] = {}
    for key in sorted(config):
        value, default = config[key], defaults.get(key)
        if isinstance(value, Mapping) and isinstance(default, Mapping):
            changed |= {f"{key}.{inner}": what for inner, what in differences(value, default).items()}
        elif key not in defaults or value != default:
            changed[key] = value
    return changed


def write_record(record: Record) -> str:
    """The record as JSON text, ending in a newline; ``read_record`` gives it back exactly."""
    return record.model_dump_json(indent=2) + "\n"


def load_record(path: Path) -> Record:
    """Read one record. Raises RecordError in one line, also for a schema newer than this program's."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"cannot read the record {path}: {error}") from None
    return read_record(text, str(path))


def read_record(text: str, source: str = "record") -> Record:
    """Parse one record's JSON; ``source`` names it in errors. Raises RecordError in one line."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{source} is no JSON: {error}; delete it or run again") from None
    version = values.get("schema_version") if isinstance(values, dict) else None
    if not isinstance(version, int):
        raise RecordError(f"{source} is no run record: it has no schema_version")
    if version > SCHEMA_VERSION:
        raise RecordError(
            f"{source} has record schema {version}, newer than the {SCHEMA_VERSION} read here: update prunebench"
        )
    try:
        record = Record.model_validate(values)
        record.model_dump_json()
        return record
    except PydanticSerializationError as error:  # half a character, or nested without end: no page could hold it
        raise RecordError(f"{source} cannot be written again: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "record"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise RecordError(f"{source} is no valid run record: {where}: {first['msg']}{more}") from None
