"""What a data set says of its test split: who is evaluated, on how many targets, and which samples there are to keep."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prunebench.leaderboard.record import Metrics, Record

Int64 = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Targets:
    """Distinct targets of each user, int64 [u], in all and of items that train has."""

    all: Int64
    warm: Int64


@dataclass(frozen=True, eq=False)
class Truth:
    """What a run on this data must agree with; ``source`` says in words where it is known from.

    ``users`` int64 [u], increasing: those with a target in the test split. ``groups``: see ``groups_of``. Known from the
    data itself only: ``targets``; ``samples`` int64 [n], increasing; ``labels`` text [users], where planted ones are kept.
    """

    source: str
    fingerprint: str
    counts: dict[str, int]
    users: Int64
    groups: tuple[int, ...]
    targets: Targets | None = None
    samples: Int64 | None = None
    labels: NDArray[np.str_] | None = None


def groups_of(metrics: Metrics) -> tuple[int, ...]:
    """Users and targets in all, of warm items, and of cold ones."""
    parts = [metrics, metrics.warm, metrics.cold]
    return tuple(count for part in parts if part is not None for count in (part.users, part.targets))


def truth_of_data(
    source: str,
    fingerprint: str,
    counts: dict[str, int],
    users: Int64,
    targets: Targets,
    samples: Int64,
    labels: NDArray[np.str_] | None,
) -> Truth:
    """What an installed data set says."""
    cold = targets.all - targets.warm
    groups = [(int((one > 0).sum()), int(one.sum())) for one in (targets.all, targets.warm, cold)]
    return Truth(
        source, fingerprint, counts, users, tuple(n for pair in groups for n in pair), targets, samples, labels
    )


def truth_of_runs(source: str, runs: Iterable[tuple[Record, Int64]]) -> Truth | None:
    """What most runs on a data set agree on, where the data set itself is not here; None without runs."""
    votes: dict[tuple[bytes, tuple[int, ...]], list[tuple[Record, Int64]]] = {}
    for record, users in runs:
        metrics = next(iter(record.metrics.values()), None)
        votes.setdefault((users.tobytes(), groups_of(metrics) if metrics else ()), []).append((record, users))
    if not votes:
        return None
    (_, groups), found = max(votes.items(), key=lambda vote: len(vote[1]))
    record, users = found[0]
    return Truth(source, record.dataset.fingerprint, record.dataset.counts, users, groups)
