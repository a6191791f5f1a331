"""Two runs side by side: what differs in what they were, what they kept, what came of it, and what it cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from prunebench.leaderboard.board import Run
from prunebench.leaderboard.record import COUNTED, Part, Phase, Record, Seeds, StageBill
from prunebench.leaderboard.resampling import LEVEL, ROUNDING
from prunebench.leaderboard.score_summary import ScoreSummary
from prunebench.leaderboard.statistics import Comparison, RunValues, analyse, gather

Kind = Literal["run", "setting", "seed", "plugin", "version", "environment", "hardware"]
PHASES: tuple[Phase, ...] = ("pretraining", *COUNTED)
TOTALS = ("pretraining_s", "pruning_s", "fine_tuning_s", "inference_s", "total_s")


class Side(Part):
    """One of the two runs, as far as a reader must know it."""

    run: str
    method: str
    backbone: str
    llm: str | None
    dataset: str
    split: str
    budget: int
    share: float
    seeds: Seeds
    finished: str


class Change(Part):
    """Something that is not the same in both, by its dotted key; None where one has no such key."""

    kind: Kind
    key: str
    a: Any
    b: Any


class Kept(Part):
    """Where one run's kept samples lie among all, by its own score: 0 lowest, 0.5 as a random draw's, 1 highest."""

    score: str
    place: float


class Shared(Part):
    """How far two selections agree.

    ``common``: samples both kept, ``share`` of the smaller selection, ``jaccard`` of their union. ``by_chance``: what two
    uniform draws of these sizes have in common, and ``by_chance_sd``. ``noise``: shares of planted noise kept.
    """

    samples: int
    a: int
    b: int
    common: int
    share: float
    jaccard: float
    by_chance: float
    by_chance_sd: float
    noise: tuple[float | None, float | None]
    scores: tuple[Kept | None, Kept | None]


class OverSeeds(Part):
    """B − A over the seeds recorded of both configurations, as on a board; see ``statistics.Comparison``."""

    seeds: int
    difference: float
    se_users: float | None
    by: Literal["bootstrap", "t"]
    interval: tuple[float, float] | None
    p: float | None


class Measured(Part):
    """One metric of both runs, and B − A.

    ``interval``: 95%, t, of the paired difference over users, for these very runs: what other seeds would change is not
    in it. ``over_seeds``: where both configurations were recorded with two seeds or more in common.
    """

    protocol: str
    metric: str
    users: int
    a: float
    b: float
    difference: float
    se_users: float | None
    interval: tuple[float, float] | None
    over_seeds: OverSeeds | None


class StageCompared(Part):
    """What a stage cost in seconds, None where a run has none; ``shared`` of its ``artefacts`` serve both runs.

    ``ratio``: B's seconds over A's, where both ran on the same hardware and nothing is shared.
    """

    phase: Phase
    stage: str
    a: float | None
    b: float | None
    artefacts: int
    shared: int
    ratio: float | None


class Bills(Part):
    """Seconds per stage and in total. ``ratio``: B's total over A's, on the same hardware only; ``hardware`` of each."""

    stages: list[StageCompared]
    totals: dict[str, tuple[float | None, float | None]]
    peak_rss_mb: tuple[float, float]
    peak_gpu_mb: tuple[float, float]
    hardware: tuple[list[str], list[str]]
    ratio: float | None


class Compared(Part):
    """All there is to say of two runs. ``cannot``: in words, what can not be compared and why; that part is then empty."""

    a: Side
    b: Side
    cannot: list[str]
    changes: list[Change]
    selection: Shared | None
    metrics: list[Measured]
    bills: Bills


def compare_runs(a: Run, b: Run, others: Sequence[Run] = ()) -> Compared:
    """``others``: further runs, of which those of the two configurations with other seeds tell how sure a difference is."""
    cannot: list[str] = []
    same_data = a.record.dataset.fingerprint == b.record.dataset.fingerprint
    if not same_data:
        cannot.append(
            f"A is on {_data(a.record)} and B on {_data(b.record)}: neither selections nor metrics can be compared"
        )
    same_users = same_data and np.array_equal(np.sort(a.per_user.users), np.sort(b.per_user.users))
    if same_data and not same_users:
        splits = [run.record.protocol.split for run in (a, b)]
        why = f"A on the {splits[0]} split, B on {splits[1]}" if splits[0] != splits[1] else "though of the same data"
        cannot.append(f"A and B were evaluated on different users, {why}: metrics cannot be compared")
    selection = _selections(a, b, cannot) if same_data else None
    return Compared(
        a=_side(a.record),
        b=_side(b.record),
        cannot=cannot,
        changes=_changes(a.record, b.record),
        selection=selection,
        metrics=_metrics(a, b, others) if same_users else [],
        bills=_bills(a.record, b.record),
    )


def _data(record: Record) -> str:
    return f"{record.dataset.name} ({record.dataset.fingerprint[:8]})"


def _side(record: Record) -> Side:
    return Side(
        run=record.run,
        method=record.method,
        backbone=record.backbone,
        llm=record.llm,
        dataset=record.dataset.name,
        split=record.protocol.split,
        budget=record.budget,
        share=record.share,
        seeds=record.seeds,
        finished=record.finished,
    )


# --- what they were -----------------------------------------------------------------------------------------------------


def _changes(a: Record, b: Record) -> list[Change]:
    facts = [_facts(record) for record in (a, b)]
    return [
        Change(kind=kind, key=key, a=facts[0][kind].get(key), b=facts[1][kind].get(key))
        for kind in facts[0]
        for key in sorted({*facts[0][kind], *facts[1][kind]})
        if facts[0][kind].get(key) != facts[1][kind].get(key)
    ]


def _facts(record: Record) -> dict[Kind, dict[str, Any]]:
    environment, config = record.environment, dict(record.config)
    plugins = config.pop("plugins", {})
    named = ("method", "backbone", "llm", "budget")
    return {
        "run": {
            **{name: getattr(record, name) for name in named},
            "dataset": record.dataset.name,
            "dataset.fingerprint": record.dataset.fingerprint,
            "split": record.protocol.split,
        },
        "setting": {key: value for key, value in _flat(config).items() if key != "backbone.llm"},
        "seed": {f"seeds.{name}": value for name, value in record.seeds.model_dump().items()},
        "plugin": {f"plugins.{part}": sha256 for part, sha256 in plugins.items()},
        "version": {**environment.packages, "python": environment.python, "commit": environment.git_commit},
        "environment": {"platform": environment.platform},
        "hardware": {"hardware": " | ".join(record.hardware)},
    }


def _flat(config: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Dotted keys of a nested configuration."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= _flat(value, f"{before}{key}.") if isinstance(value, Mapping) else {f"{before}{key}": value}
    return flat


# --- what they kept -----------------------------------------------------------------------------------------------------


def _selections(a: Run, b: Run, cannot: list[str]) -> Shared | None:
    without = [name for name, run in (("A", a), ("B", b)) if run.selection is None or not len(run.selection)]
    if without or a.selection is None or b.selection is None:
        cannot.append(f"{' and '.join(without)} kept no samples: there are no selections to compare")
        return None
    samples = a.record.dataset.counts.get("samples", 0)
    common = len(np.intersect1d(a.selection, b.selection))
    sizes = len(a.selection), len(b.selection)
    mean, sd = (float(value) for value in stats.hypergeom(max(samples, *sizes), *sizes).stats("mv"))
    return Shared(
        samples=samples,
        a=sizes[0],
        b=sizes[1],
        common=common,
        share=common / min(sizes),
        jaccard=common / (sum(sizes) - common),
        by_chance=mean,
        by_chance_sd=math.sqrt(sd),
        noise=(a.record.selection.noise_share, b.record.selection.noise_share),
        scores=(_kept(a.scores), _kept(b.scores)),
    )


def _kept(scores: ScoreSummary | None) -> Kept | None:
    """The mean place of the kept, each in the middle of its bin."""
    if scores is None or not sum(scores.kept):
        return None
    samples, kept = np.array(scores.samples, np.float64), np.array(scores.kept, np.float64)
    middle = (np.cumsum(samples) - samples / 2) / samples.sum()
    return Kept(score=scores.name, place=float((middle * kept).sum() / kept.sum()))


# --- what came of it ----------------------------------------------------------------------------------------------------


def _metrics(a: Run, b: Run, others: Sequence[Run]) -> list[Measured]:
    seeds = _same_seeds(a, b, others)
    order = [np.argsort(run.per_user.users) for run in (a, b)]
    made = []
    for protocol in (name for name in a.per_user.values if name in b.per_user.values):
        theirs = b.per_user.values[protocol]
        for metric, values in a.per_user.values[protocol].items():
            if metric in theirs:
                one, other = values[order[0]], theirs[metric][order[1]]
                error, interval = over_users(other - one)
                made.append(
                    Measured(
                        protocol=protocol,
                        metric=metric,
                        users=len(one),
                        a=float(one.mean()),
                        b=float(other.mean()),
                        difference=float((other - one).mean()),
                        se_users=error,
                        interval=interval,
                        over_seeds=_over_seeds(seeds, protocol, metric),
                    )
                )
    return made


def over_users(differences: NDArray[np.float64]) -> tuple[float | None, tuple[float, float] | None]:
    """Standard error and 95% t interval of the mean of paired differences, one per user, float64 [u]; None for one user."""
    n = len(differences)
    if n < 2:
        return None, None
    mean, error = float(differences.mean()), float(differences.std(ddof=1)) / math.sqrt(n)
    if error <= ROUNDING * np.abs(differences).max():
        return 0.0, (mean, mean)
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * error
    return error, (mean - half, mean + half)


def _same_seeds(a: Run, b: Run, others: Sequence[Run]) -> list[tuple[str, Run]]:
    """Every run of the two configurations once, as ("a" or "b", run); of equal seeds the given runs, then the last finished."""
    if a.record.digest == b.record.digest:
        return []
    users = np.sort(a.per_user.users)
    found: dict[tuple[str, str], Run] = {}
    for run in [*sorted(others, key=lambda run: (run.record.finished, run.record.run)), a, b]:
        for name, given in (("a", a), ("b", b)):
            if run.record.digest == given.record.digest and np.array_equal(np.sort(run.per_user.users), users):
                found[name, run.record.seeds.model_dump_json()] = run
    return [(name, run) for (name, _), run in found.items()]


def _over_seeds(runs: list[tuple[str, Run]], protocol: str, metric: str) -> OverSeeds | None:
    usable = [(name, run) for name, run in runs if metric in run.per_user.values.get(protocol, {})]
    if len(usable) < 4:
        return None
    choices = sorted({(run.record.seeds.selection, run.record.seeds.signal) for _, run in usable})
    cells = gather(
        RunValues(
            name,
            choices.index((run.record.seeds.selection, run.record.seeds.signal)),
            run.record.seeds.finetune,
            run.per_user.users,
            run.per_user.values[protocol][metric],
        )
        for name, run in usable
    )
    found: Comparison = analyse(cells, reference="a", candidates=()).to_reference[0]
    if found.by is None or found.difference is None:
        return None
    return OverSeeds(
        seeds=found.seeds,
        difference=found.difference,
        se_users=found.se_users,
        by=found.by,
        interval=found.interval,
        p=found.p,
    )


# --- what it cost -------------------------------------------------------------------------------------------------------


def _bills(a: Record, b: Record) -> Bills:
    entries = [_stages(record) for record in (a, b)]
    shared = {entry.hash for entry in a.bill} & {entry.hash for entry in b.bill}
    stages = list(dict.fromkeys([*entries[0], *entries[1]]))
    hardware = a.hardware, b.hardware
    totals = {name: (getattr(a.totals, name), getattr(b.totals, name)) for name in TOTALS}
    return Bills(
        stages=[
            _stage(*one, entries[0].get(one, {}), entries[1].get(one, {}), shared)
            for one in sorted(stages, key=lambda one: (PHASES.index(one[0]), stages.index(one)))
        ],
        totals=totals,
        peak_rss_mb=(a.totals.peak_rss_mb, b.totals.peak_rss_mb),
        peak_gpu_mb=(a.totals.peak_gpu_mb, b.totals.peak_gpu_mb),
        hardware=hardware,
        ratio=_ratio(*totals["total_s"]) if hardware[0] == hardware[1] else None,
    )


def _stages(record: Record) -> dict[tuple[Phase, str], dict[str, StageBill]]:
    """Artefacts by hash, by phase and stage, as they were billed."""
    found: dict[tuple[Phase, str], dict[str, StageBill]] = {}
    for entry in record.bill:
        found.setdefault((entry.phase, entry.stage), {})[entry.hash] = entry
    return found


def _stage(
    phase: Phase, stage: str, a: dict[str, StageBill], b: dict[str, StageBill], shared: set[str]
) -> StageCompared:
    seconds = [sum(entry.wall_s for entry in own.values()) if own else None for own in (a, b)]
    devices = {device for entry in (*a.values(), *b.values()) for device in entry.devices}
    hashes = {*a, *b}
    return StageCompared(
        phase=phase,
        stage=stage,
        a=seconds[0],
        b=seconds[1],
        artefacts=len(hashes),
        shared=len(hashes & shared),
        ratio=_ratio(*seconds) if len(devices) == 1 and not hashes & shared else None,
    )


def _ratio(a: float | None, b: float | None) -> float | None:
    return b / a if a and b is not None else None
