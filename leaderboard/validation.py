"""Whether a run that somebody else recorded may stand on a board: every reason why not, in a line each."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from prunebench.leaderboard import score_summary
from prunebench.leaderboard.archive import MANIFEST, NEEDED, PER_USER, RECORD, RUN, SELECTION, manifest_faults, shown
from prunebench.leaderboard.record import Record, RecordError, read_record
from prunebench.leaderboard.tables import NO_METHOD
from prunebench.leaderboard.truth import Int64, Truth
from prunebench.leaderboard.user_checks import PROTOCOLS, Users, read_users, user_faults

_DEPTH = 20
_LONGEST = 10_000
_LONGEST_NAME = 200
_MOST_BINS = 2_000
"""Of a histogram of scores; more of them take minutes to draw."""
_LARGEST = 2**53
_ROUNDING = 1e-12
_SPACES = re.compile(r"[\n\t]")
"""As templates of prompts have them; boards print them as spaces."""
_HASH = re.compile(r"[0-9a-f]{20}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[\w.-]{1,100}")
_FIRST = datetime(2024, 1, 1, tzinfo=UTC)
"""Before there was a prunebench."""
_ONCE = {"selection": "pruning", "fit": "fine-tuning", "predictions": "inference"}
"""Stages that every run has once, and their phases; a run without samples has no selection."""


@dataclass
class Read:
    """A run as far as it could be read: ``faults`` says what could not."""

    run: str
    record: Record | None = None
    users: Users | None = None
    ids: Int64 | None = None
    scores: score_summary.ScoreSummary | None = None
    faults: list[str] = field(default_factory=list)


def read_run(run: str, files: Mapping[str, bytes]) -> Read:
    """Read the files of a run in the folder ``run``, each without trust."""
    read = Read(run)
    missing = [name for name in NEEDED if name not in files]
    read.faults += [f"{name} is missing" for name in missing]
    if MANIFEST in files:
        read.faults += manifest_faults(files)
    if RECORD in missing:
        return read
    try:
        read.record = _record(files[RECORD])
    except RecordError as error:
        read.faults.append(str(error))
        return read
    if read.record.run != run or not RUN.fullmatch(run):
        read.faults.append(f"the record is of run {shown(read.record.run)}, in a folder called {shown(run)}")
    try:
        if not missing:
            read.users = read_users(files["per_user.npz"], read.record)
    except RecordError as error:
        read.faults.append(str(error))
    try:
        read.ids = _ids(files.get(SELECTION, b""))
    except ValueError as error:
        read.faults.append(f"{SELECTION} {error}")
    if score_summary.FILE in files:
        try:
            read.scores = score_summary.parse_scores(files[score_summary.FILE].decode(), score_summary.FILE)
        except (RecordError, UnicodeDecodeError) as error:
            read.faults.append(str(error))
    return read


def _record(content: bytes) -> Record:
    try:
        text = content.decode("utf-8")
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{RECORD} is no JSON ({shown(str(error))})") from None
    for where, value in _leaves(values):
        if isinstance(value, float) and not math.isfinite(value):
            raise RecordError(f"{RECORD}: {where} is no finite number")
        if isinstance(value, int) and abs(value) > _LARGEST:
            raise RecordError(f"{RECORD}: {where} is larger than 2^53, which not every reader of JSON can hold")
        if isinstance(value, str) and (len(value) > _LONGEST or not _SPACES.sub("", value).isprintable()):
            raise RecordError(f"{RECORD}: {where} has control characters, or more than {_LONGEST:,} characters")
    try:
        return read_record(text, RECORD)
    except RecordError as error:
        said = str(error).replace("record: Value error, ", "")
        raise RecordError(shown(said, 300)[1:-1]) from None


def _leaves(values: Any) -> Iterator[tuple[str, Any]]:
    """Every number and text in some JSON, keys among them, with the place it stands at. Raises RecordError where nested deep."""
    waiting: list[tuple[str, int, Any]] = [("", 0, values)]
    while waiting:
        where, depth, value = waiting.pop()
        if depth > _DEPTH:
            raise RecordError(f"{RECORD} is nested more than {_DEPTH} deep")
        if isinstance(value, dict):
            for key, inner in value.items():
                yield f"a key in {where or 'the record'}", key
                waiting.append((f"{where}.{key}".lstrip("."), depth + 1, inner))
        elif isinstance(value, list):
            waiting += [(f"{where}[{at}]", depth + 1, inner) for at, inner in enumerate(value)]
        else:
            yield where, value


def _ids(content: bytes) -> Int64:
    """Sample ids, one a line. Raises ValueError in words."""
    lines = content.split()
    if not all(line.isdigit() and len(line) < 16 for line in lines):
        bad = next(line for line in lines if not (line.isdigit() and len(line) < 16))
        raise ValueError(f"holds {shown(bad.decode('ascii', 'replace'))}, which is no sample id")
    return np.array(lines, np.bytes_).astype(np.int64) if lines else np.empty(0, np.int64)


def run_faults(read: Read, truth: Truth | None, cutoffs: tuple[int, ...], now: datetime) -> list[str]:
    """All that is wrong with a run that was read, beside what ``read.faults`` has; ``cutoffs`` are the board's."""
    record = read.record
    if record is None:
        return []
    faults = [*_protocol(record, cutoffs), *_budget(record), *_bill(record, now), *_configuration(record)]
    if truth is not None:
        faults += _data(record, truth)
    if read.ids is not None:
        faults += _selection(record, read.ids, truth)
    if read.users is not None and not faults:
        faults += user_faults(record, read.users, truth)
    if read.scores is not None:
        faults += _scores(record, read.scores)
    return faults


def _protocol(record: Record, cutoffs: tuple[int, ...]) -> list[str]:
    protocol, counts = record.protocol, record.dataset.counts
    faults = []
    if protocol.split != "test":
        faults.append(f"protocol.split is {shown(protocol.split)}; a board takes runs on the test split")
    if protocol.cutoffs != list(cutoffs):
        faults.append(f"protocol.cutoffs are {protocol.cutoffs}, not {list(cutoffs)}")
    for stage, parts in sorted(protocol.reads.items()):
        if "test" in parts and stage != "evaluation":
            faults.append(f"protocol.reads: {shown(stage)} read the test split, which only the evaluation may")
    if protocol.reads.get("evaluation") != [protocol.split]:
        faults.append("protocol.reads does not say that the evaluation read the test split, and it alone")
    if protocol.users_evaluated != counts.get("test_users"):
        faults.append(
            f"protocol.users_evaluated is {protocol.users_evaluated}, dataset.counts.test_users {counts.get('test_users')}"
        )
    if sorted(record.metrics) != sorted(PROTOCOLS):
        return [*faults, f"metrics are of {shown(', '.join(record.metrics))}, not of {' and '.join(PROTOCOLS)}"]
    keys = {str(k) for k in protocol.cutoffs}
    for name, metrics in record.metrics.items():
        views = [view for view in (metrics, metrics.warm, metrics.cold) if view is not None]
        means = [one for view in views for one in (view.recall, view.ndcg)] + [metrics.precision, metrics.mrr]
        if any(set(one) != keys for one in means) or len(views) < 3:
            faults.append(f"{name}: metrics, in all, warm and cold, are not at the protocol's cut-offs")
        elif any(value is not None and not 0 <= value <= 1 for one in means for value in one.values()):
            faults.append(f"{name}: a mean lies outside 0 … 1")
        if metrics.users != protocol.users_evaluated or metrics.targets < metrics.users:
            faults.append(f"{name}: {metrics.users} users with {metrics.targets} targets do not fit the protocol")
        if record.schema_version >= 3 and not _covers(metrics.coverage, protocol.cutoffs, counts.get("items", 0)):
            faults.append(f"{name}: coverage is not a growing number of the items at each cut-off")
    return faults


def _covers(coverage: Mapping[str, int], cutoffs: list[int], items: int) -> bool:
    numbers = [coverage.get(str(k), -1) for k in cutoffs]
    return len(coverage) == len(numbers) and numbers == sorted(numbers) and 1 <= numbers[0] <= numbers[-1] <= items


def _budget(record: Record) -> list[str]:
    counts, budget = record.dataset.counts, record.budget
    samples = counts.get("samples", 0)
    faults = []
    if not 0 < samples <= counts.get("users", 0) or counts.get("items", 0) <= 0:
        faults.append("dataset.counts does not tell how many users, items and samples there are")
    if budget > samples:
        faults.append(f"budget {budget} is more than the {samples} samples there are")
    elif samples and abs(record.share - budget / samples) > _ROUNDING:
        faults.append(f"share is {record.share}, and {budget} of {samples} samples are {budget / samples}")
    if (budget == 0) != (record.method == NO_METHOD):
        faults.append(f"method {shown(record.method)} with a budget of {budget}: only {NO_METHOD} has a budget of 0")
    if record.method == "full" and budget != samples:
        faults.append(f"method full with {budget} of {samples} samples")
    return faults


def _bill(record: Record, now: datetime) -> list[str]:
    faults = []
    stages = Counter(entry.stage for entry in record.bill)
    for stage, phase in _ONCE.items():
        due = 0 if stage == "selection" and not record.budget else 1
        entries = [entry for entry in record.bill if entry.stage == stage]
        if len(entries) != due:
            faults.append(f"bill: stage {stage} is there {stages[stage]} times, not {due}")
        if any(entry.phase != phase or entry.wall_s <= 0 or entry.peak_rss_mb <= 0 for entry in entries):
            faults.append(f"bill: stage {stage} is not of phase {phase}, took no time or no memory")
    twice = [stage for (stage, _), n in Counter((entry.stage, entry.hash) for entry in record.bill).items() if n > 1]
    if twice:
        faults.append(f"bill: one artefact of stage {shown(twice[0])} is there twice")
    faults += [
        f"bill: stage {shown(entry.stage)} has no artefact's hash, or names no hardware"
        for entry in [*record.bill, *record.killed]
        if not _HASH.fullmatch(entry.hash) or not entry.device.strip() or not _NAME.fullmatch(entry.stage)
    ]
    try:
        finished = datetime.strptime(record.finished, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        return [*faults, f"finished is {shown(record.finished)}, no time such as 2026-01-31T12:00:00Z"]
    if not _FIRST <= finished <= now + timedelta(days=1):
        faults.append(f"finished is {record.finished}, which is not in the past")
    return faults


def _configuration(record: Record) -> list[str]:
    faults = []
    names = {"method": record.method, "backbone": record.backbone, "data set": record.dataset.name}
    faults += [f"{what} {shown(name)} is no name" for what, name in names.items() if not _NAME.fullmatch(name)]
    stated = dict(_settings(record.config))
    wrong = [key for key, value in record.changes.items() if key not in stated or stated[key] != value]
    if wrong:
        faults.append(f"changes has {shown(wrong[0])}, which config has not, or otherwise")
    backbone = record.config.get("backbone", {})
    if (backbone.get("llm") if isinstance(backbone, Mapping) else None) != record.llm:
        faults.append(f"llm is {shown(record.llm)}, and config.backbone.llm is not")
    plugins = record.config.get("plugins", {})
    parts = ("method", "backbone", "surrogate")
    if not isinstance(plugins, Mapping) or not all(
        part in parts and isinstance(sha256, str) and _SHA256.fullmatch(sha256) for part, sha256 in plugins.items()
    ):
        faults.append("config.plugins does not say by sha256 which files brought the method, backbone or surrogate")
    if (record.per_user, record.selection.ids_file) != (PER_USER, SELECTION if record.budget else None):
        faults.append(f"per_user and selection.ids_file are not {PER_USER} and, with a budget, {SELECTION}")
    if min(record.seeds.signal, record.seeds.selection, record.seeds.finetune) < 0:
        faults.append("seeds has a number below 0")
    return faults


def _settings(config: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Every dotted key of a configuration, tables as well as what is in them."""
    for key, value in config.items():
        yield f"{before}{key}", value
        if isinstance(value, Mapping):
            yield from _settings(value, f"{before}{key}.")


def _data(record: Record, truth: Truth) -> list[str]:
    if record.dataset.fingerprint != truth.fingerprint:
        return [
            f"data set {shown(record.dataset.name)} has fingerprint {shown(record.dataset.fingerprint)}, {truth.source} has {truth.fingerprint}"
        ]
    return [
        f"dataset.counts.{name} is {record.dataset.counts.get(name)}, that of {truth.source} {count}"
        for name, count in truth.counts.items()
        if record.dataset.counts.get(name) != count
    ]


def _selection(record: Record, ids: Int64, truth: Truth | None) -> list[str]:
    facts, faults = record.selection, []
    if len(ids) != record.budget or facts.count != record.budget:
        faults.append(f"{SELECTION} has {len(ids)} ids, selection.count is {facts.count}, the budget {record.budget}")
    rising = np.diff(ids)
    if (rising <= 0).any():
        at = int(np.flatnonzero(rising <= 0)[0]) + 1
        twice = "is there twice" if len(np.unique(ids)) < len(ids) else "is out of order; ids must increase"
        faults.append(f"{SELECTION}, line {at + 1}: sample {ids[at]} {twice}")
    if len(ids) and ids.max() >= record.dataset.counts.get("users", 0):
        faults.append(f"{SELECTION}: sample {ids.max()} is no user of the data set")
    digest = hashlib.sha256(np.sort(ids).astype("<i8").tobytes()).hexdigest() if len(ids) else None
    if facts.sha256 != digest:
        faults.append(f"{SELECTION} is not the selection whose sha256 the record has")
    counts = facts.label_counts
    if counts is not None and sum(counts.values()) != facts.count:
        faults.append(f"selection.label_counts add up to {sum(counts.values())}, not {facts.count}")
    share = counts.get("noise", 0) / facts.count if counts and facts.count else None
    if not _same(facts.noise_share, share):
        faults.append(f"selection.noise_share is {facts.noise_share}, and by its label_counts {share}")
    if truth is not None and truth.samples is not None and not faults:
        faults += _samples(record, ids, truth)
    return faults


def _samples(record: Record, ids: Int64, truth: Truth) -> list[str]:
    """The selection held against the data set itself."""
    assert truth.samples is not None
    foreign = np.setdiff1d(ids, truth.samples)
    if len(foreign):
        return [f"{SELECTION}: user {foreign[0]} has no sample in {truth.source} (and {len(foreign) - 1} more)"]
    labelled = truth.labels is not None and len(ids) > 0
    found = dict(Counter(truth.labels[ids].tolist())) if labelled and truth.labels is not None else None
    if record.selection.label_counts != found:
        stated = shown(record.selection.label_counts, 200)[1:-1]
        return [f"selection.label_counts are {stated}, by {truth.source} {found}"]
    return []


def _scores(record: Record, scores: score_summary.ScoreSummary) -> list[str]:
    if len(scores.name) > _LONGEST_NAME or not scores.name.isprintable():
        return [f"{score_summary.FILE}: the score's name has control characters, or more than {_LONGEST_NAME}"]
    if max(len(scores.samples), len(scores.strata)) > _MOST_BINS:
        return [f"{score_summary.FILE} has more than {_MOST_BINS:,} bins or strata"]
    samples, kept = sum(scores.samples) + scores.unscored, sum(scores.kept)
    if (
        samples != record.dataset.counts.get("samples")
        or not kept <= record.budget <= kept + scores.unscored
        or min(scores.samples + scores.kept) < 0
    ):
        return [f"{score_summary.FILE} counts {kept} kept of {samples} samples, which are not the run's"]
    return []


def _same(one: float | None, other: float | None) -> bool:
    return one == other or (one is not None and other is not None and abs(one - other) <= _ROUNDING)
