"""Each user's metrics of a run, read without running anything and held against the run's record."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prunebench.leaderboard.record import Metrics, Record, RecordError

TOLERANCE = 1e-9
"""How far the mean over users may be from the record's; both are sums of the same numbers."""
NAMES = {"R": "recall", "N": "ndcg"}
"""Letter of a metric in tables → its name in records and files."""
_BROKEN = (OSError, ValueError, KeyError, IndexError, TypeError, EOFError, zipfile.BadZipFile, zlib.error)
"""What reading arbitrary bytes as arrays may raise."""


def metric_names(cutoffs: Sequence[int]) -> list[str]:
    """``R@10``, ``R@20``, ``N@10``, ``N@20``."""
    return [f"{letter}@{k}" for letter in NAMES for k in cutoffs]


@dataclass(frozen=True, eq=False)
class PerUser:
    """``users`` int64 [u], those with a target; ``values``: protocol → metric (``R@10``) → float64 [u]."""

    users: NDArray[np.int64]
    values: dict[str, dict[str, NDArray[np.float64]]]


def read_per_user(path: Path, record: Record) -> PerUser:
    """The users' metrics of a record, from its ``per_user.npz``.

    The file has ``users`` [n], ``cutoffs`` [k] and ``PROTOCOL_recall``, ``PROTOCOL_ndcg`` [n, k], NaN for users without a
    target. Raises RecordError where it cannot be read, holds other than that, or its means are not the record's.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            users, cutoffs = np.asarray(file["users"], np.int64), [int(k) for k in file["cutoffs"]]
            arrays = {
                (protocol, letter): np.asarray(file[f"{protocol}_{name}"], np.float64)
                for protocol in record.metrics
                for letter, name in NAMES.items()
            }
    except _BROKEN as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RecordError(f"{path} has no users' metrics that can be read ({reason}); run it again") from None
    shape = (users.size, len(cutoffs))
    if any(values.shape != shape for values in arrays.values()) or len(np.unique(users)) < users.size:
        raise RecordError(f"{path} does not have one value per user and cut-off; run it again")
    counted = ~np.isnan(np.stack(list(arrays.values()))).any(axis=(0, 2)) if arrays else np.ones(len(users), bool)
    if not counted.any():
        raise RecordError(f"{path} has no user with a target: nothing to compare")
    values: dict[str, dict[str, NDArray[np.float64]]] = {}
    for (protocol, letter), every in arrays.items():
        for at, k in enumerate(cutoffs):
            own = every[counted, at]
            _agrees(path, record.metrics[protocol], protocol, letter, k, own)
            values.setdefault(protocol, {})[f"{letter}@{k}"] = own
    return PerUser(users[counted], values)


def _agrees(path: Path, stated: Metrics, protocol: str, letter: str, k: int, values: NDArray[np.float64]) -> None:
    mean = getattr(stated, NAMES[letter]).get(str(k))
    found = float(values.mean())
    if mean is None or not abs(mean - found) <= TOLERANCE:
        raise RecordError(
            f"{path} has a mean {letter}@{k} ({protocol}) of {found}, its record says {mean}; run it again"
        )
