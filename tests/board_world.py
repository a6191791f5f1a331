"""Small runs with known figures, as records in memory and as the folders of a home."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prunebench.datasets.files import atomic_folder
from prunebench.leaderboard.board import Run
from prunebench.leaderboard.per_user import PerUser
from prunebench.leaderboard.record import (
    DatasetFacts,
    Environment,
    Metrics,
    Protocol,
    Record,
    Seeds,
    SelectionFacts,
    StageBill,
    total,
    write_record,
)

USERS = 100
CUTOFFS = (10, 20)
PROTOCOLS = ("unmasked", "masked")


def run(method: str, mean: float, seed: int = 0, users: Any = None, **facts: Any) -> Run:
    """A run that has every metric 1 for the first ``mean`` of 100 users and 0 for the others."""
    users = np.arange(USERS) if users is None else users
    hits = (np.arange(USERS) < round(mean * USERS)).astype(float)
    by_cutoff = {str(k): float(hits.mean()) for k in CUTOFFS}
    bill = [
        StageBill(
            stage="fit", hash="f", phase="fine-tuning", wall_s=9.5, cpu_s=9, peak_rss_mb=512, device="cpu A, 2 cores"
        )
    ]
    values: dict[str, Any] = {
        "command": f"bench run --method {method} --seed {seed}",
        "method": method,
        "backbone": "bigrec",
        "dataset": DatasetFacts(name="a", fingerprint="1"),
        "llm": "catalogue",
        "budget": 10,
        "share": 0.1,
        "seeds": Seeds(signal=seed, selection=seed, finetune=seed),
        "environment": Environment(python="3.11", platform="linux"),
        "protocol": Protocol(cutoffs=list(CUTOFFS), users_evaluated=USERS),
        "selection": SelectionFacts(count=10),
        "metrics": {name: Metrics(users=USERS, targets=USERS, recall=by_cutoff, ndcg=by_cutoff) for name in PROTOCOLS},
        "per_user": "per_user.npz",
        "bill": bill,
        "totals": total(bill),
    }
    values |= facts
    key = [values[name] for name in ("method", "backbone", "budget")] + [values.get("config")]
    key += [values["dataset"].name, values["seeds"].model_dump_json()]
    name = hashlib.sha256(repr(key).encode()).hexdigest()[:12]
    record = Record(**{"run": name, **values})
    metrics = {f"{letter}@{k}": hits for letter in "RN" for k in CUTOFFS}
    sha256 = hashlib.sha256(write_record(record).encode()).hexdigest()
    return Run(record, sha256, PerUser(users, dict.fromkeys(PROTOCOLS, metrics)))


def runs(method: str, means: Sequence[float], **facts: Any) -> list[Run]:
    """A run per mean, with seeds 0, 1, …"""
    return [run(method, mean, seed, **facts) for seed, mean in enumerate(means)]


def write_runs(folder: Path, made: Sequence[Run]) -> None:
    """The folders of runs, as `bench run` leaves them."""
    for one in made:
        per_user = one.per_user
        arrays = {
            f"{protocol}_{name}": np.stack([per_user.values[protocol][f"{letter}@{k}"] for k in CUTOFFS], axis=1)
            for protocol in PROTOCOLS
            for letter, name in (("R", "recall"), ("N", "ndcg"))
        }
        with atomic_folder(folder / one.record.run) as fresh:
            (fresh / "record.json").write_text(write_record(one.record), encoding="utf-8")
            np.savez(fresh / "per_user.npz", users=per_user.users, cutoffs=np.array(CUTOFFS), **arrays)  # type: ignore[arg-type]
