"""Whether each user's metrics are what a ranking can have, those of the right users, and mean what the record says."""

from __future__ import annotations

import io
import math
import zipfile
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunebench.leaderboard.archive import BROKEN, PER_USER, shown
from prunebench.leaderboard.per_user import NAMES, TOLERANCE
from prunebench.leaderboard.record import Means, Metrics, Record, RecordError
from prunebench.leaderboard.truth import Int64, Targets, Truth, groups_of

PROTOCOLS = ("unmasked", "masked")
MOST_BYTES = 2**30
_HEADER = (1, 0)
_HEADER_BYTES = 2**12
Float64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Users:
    """``users`` int64 [u]; ``values``: protocol and metric (``recall``, ``ndcg``) → float64 [u, cut-offs]."""

    users: Int64
    values: dict[tuple[str, str], Float64]


def read_users(content: bytes, record: Record) -> Users:
    """The arrays of a ``per_user.npz`` that nobody vouches for: no pickle, no array larger than the file states.

    Raises RecordError for anything but one number per user, cut-off and metric of the record.
    """
    wanted = {"users", "cutoffs", *(f"{protocol}_{name}" for protocol in record.metrics for name in NAMES.values())}
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
            if set(entries) != wanted or len(archive.infolist()) != len(wanted):
                raise RecordError(f"{PER_USER} holds {_names(entries)}, not {_names(wanted)}")
            stated = sum(entry.file_size for entry in entries.values())
            if stated > MOST_BYTES:
                raise RecordError(f"{PER_USER} would unpack to {stated:,} bytes; at most {MOST_BYTES:,} are read")
            arrays = {name: _array(archive, entry) for name, entry in sorted(entries.items())}
    except (*BROKEN, OSError, TypeError, SyntaxError, MemoryError) as error:
        if isinstance(error, RecordError):
            raise
        raise RecordError(f"{PER_USER} cannot be read as plain arrays ({shown(str(error))})") from None
    users, cutoffs = arrays.pop("users"), arrays.pop("cutoffs")
    if users.dtype.kind != "i" or users.ndim != 1 or not len(users):
        raise RecordError(f"{PER_USER} has users of type {users.dtype} and shape {users.shape}, not a list of ids")
    if cutoffs.dtype.kind != "i" or cutoffs.tolist() != record.protocol.cutoffs:
        raise RecordError(
            f"{PER_USER} has the cut-offs {shown(cutoffs.tolist())[1:-1]}, its record {record.protocol.cutoffs}"
        )
    shape = (len(users), len(cutoffs))
    for name, values in arrays.items():
        if values.dtype != np.float64 or values.shape != shape:
            raise RecordError(f"{PER_USER} has {name} of type {values.dtype} and shape {values.shape}, not {shape}")
    named = {(protocol, name): arrays[f"{protocol}_{name}"] for protocol in record.metrics for name in NAMES.values()}
    return Users(users.astype(np.int64), named)


def _names(names: Any) -> str:
    return ", ".join(shown(name)[1:-1] for name in sorted(names)[:8]) or "nothing"


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> NDArray[Any]:
    """One array, by its header: never more is set aside than is there to read."""
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{entry.filename} is packed in a way that is not read")
    content = archive.read(entry)
    file = io.BytesIO(content)
    if np.lib.format.read_magic(file) != _HEADER:
        raise ValueError(f"{entry.filename} is no array of format 1.0")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file, max_header_size=_HEADER_BYTES)
    if dtype.hasobject:
        raise ValueError(f"{entry.filename} holds Python objects, which are never read")
    if fortran or dtype.kind not in "if" or not all(isinstance(size, int) and size >= 0 for size in shape):
        raise ValueError(f"{entry.filename} is no plain array of numbers")
    if math.prod(shape) * dtype.itemsize != len(content) - file.tell():
        raise ValueError(f"{entry.filename} is not of the size that its header states")
    return np.frombuffer(content, dtype, offset=file.tell()).reshape(shape)


def user_faults(record: Record, found: Users, truth: Truth | None) -> list[str]:
    """All that is wrong with the users' metrics of a record, a line each."""
    users = found.users
    faults = []
    if len(users) != record.protocol.users_evaluated:
        faults.append(
            f"{PER_USER} has {len(users)} users, protocol.users_evaluated is {record.protocol.users_evaluated}"
        )
    if (np.diff(users) <= 0).any():
        at = int(np.flatnonzero(np.diff(users) <= 0)[0])
        what = "is there twice" if users[at] == users[at + 1] else f"stands before {users[at + 1]}; ids must increase"
        faults.append(f"{PER_USER}: user {users[at]} {what}")
    elif truth is not None and not np.array_equal(users, truth.users):
        faults.append(_other_users(users, truth))
    if users.min() < 0 or users.max() >= record.dataset.counts.get("users", 0):
        faults.append(f"{PER_USER} has user ids outside 0 … {record.dataset.counts.get('users', 0) - 1}")
    sound = not faults
    targets = truth.targets if truth is not None and sound else None
    for protocol in record.metrics:
        faults += [f"{protocol}: {fault}" for fault in _protocol_faults(record, protocol, found, targets)]
    if truth is not None:
        faults += [
            f"{protocol}: users and targets, in all, warm and cold, are {groups_of(metrics)}, those of {truth.source} {truth.groups}"
            for protocol, metrics in record.metrics.items()
            if groups_of(metrics) != truth.groups
        ]
    return faults


def _other_users(users: Int64, truth: Truth) -> str:
    missing, foreign = np.setdiff1d(truth.users, users), np.setdiff1d(users, truth.users)
    parts = [
        f"{len(ids)} {what} (such as {ids[0]})"
        for ids, what in ((missing, "missing"), (foreign, "foreign"))
        if len(ids)
    ]
    return f"{PER_USER} does not cover the {len(truth.users)} test users of {truth.source}: {', '.join(parts)}"


def _protocol_faults(record: Record, protocol: str, found: Users, targets: Targets | None) -> list[str]:
    metrics, ks = record.metrics[protocol], record.protocol.cutoffs
    recall, ndcg = found.values[protocol, "recall"], found.values[protocol, "ndcg"]
    faults = []
    for name, values in (("recall", recall), ("ndcg", ndcg)):
        for at, k in enumerate(ks):
            fault = _range_fault(found.users, values[:, at]) or _mean_fault(values[:, at], getattr(metrics, name), k)
            faults += [f"{name}@{k}: {fault}"] if fault else []
    if faults:
        return faults
    return [*_shape_faults(found.users, recall, ndcg, ks, targets), *_rest_faults(metrics, recall, ks, targets)]


def _range_fault(users: Int64, values: Float64) -> str | None:
    wrong = np.flatnonzero(~((values >= 0) & (values <= 1 + TOLERANCE)))
    if not len(wrong):
        return None
    return f"user {users[wrong[0]]} has {values[wrong[0]]}, outside 0 … 1" + (
        f" (and {len(wrong) - 1} more users)" if len(wrong) > 1 else ""
    )


def _mean_fault(values: Float64, means: Means, k: int) -> str | None:
    stated, mean = means.get(str(k)), float(values.mean())
    if stated is not None and abs(stated - mean) <= TOLERANCE:
        return None
    return f"the mean over users is {mean}, the record says {stated}"


def _shape_faults(users: Int64, recall: Float64, ndcg: Float64, ks: list[int], targets: Targets | None) -> list[str]:
    """Values that no ranking gives.

    Of a user with t targets, H = recall·t of them are hit down to K, and G = ndcg·ideal(min(K, t)) is gained. Between two
    cut-offs the new hits lie on ranks in between: each holds at most one, so that their gain lies between that of the last
    and that of the first ranks there are. Without t, hits cannot become fewer, nor be without gain.
    """
    if targets is None:
        falls = (np.diff(recall, axis=1) < -TOLERANCE).any(axis=1)
        apart = ((recall > 0) != (ndcg > 0)).any(axis=1)
        told = ((falls, "a recall that falls with the cut-off"), (apart, "a recall without an NDCG, or one without it"))
    else:
        depth = np.arange(max(*ks, int(targets.all.max())) + 1)
        gained = np.concatenate([[0.0], np.cumsum(1 / np.log2(depth[1:] + 1))])
        t = targets.all[:, None]
        hits, gains = recall * t, ndcg * gained[np.minimum(t, ks)]
        first, last = np.array([0, *ks[:-1]]), np.array(ks)
        new, gain = np.diff(hits, axis=1, prepend=0), np.diff(gains, axis=1, prepend=0)
        slack = TOLERANCE * (1 + t)
        impossible = (new < -slack) | (new > last - first + slack)
        most = np.interp(first + np.clip(new, 0, last - first), depth, gained) - gained[first]
        least = gained[last] - np.interp(last - np.clip(new, 0, last - first), depth, gained)
        unlike = (gain > most + slack) | (gain < least - slack)
        told = (
            (impossible.any(axis=1), "a recall that no number of hits on its targets gives"),
            ((unlike & ~impossible).any(axis=1), "an NDCG that its recall cannot go with"),
        )
    return [
        f"user {users[wrong][0]} has {what}" + (f" (and {wrong.sum() - 1} more users)" if wrong.sum() > 1 else "")
        for wrong, what in told
        if wrong.any()
    ]


def _rest_faults(metrics: Metrics, recall: Float64, ks: list[int], targets: Targets | None) -> list[str]:
    """Precision, MRR and the means over warm and cold targets, as far as the users' recall determines them."""
    faults = []
    t = targets.all[:, None] if targets is not None else None
    mean, users = recall.mean(axis=0), len(recall)
    for at, k in enumerate(ks):
        precision, mrr = metrics.precision.get(str(k)), metrics.mrr.get(str(k))
        low, high = float(mean[at]) / k, min(1.0, metrics.targets / (k * users))
        if t is not None:
            low = high = float((recall * t)[:, at].mean()) / k
        if precision is None or not low - TOLERANCE <= precision <= high + TOLERANCE:
            faults.append(f"precision@{k} is {precision}, which the users' recall does not give")
        most = 1.0 if t is None else float(np.minimum(recall * t, 1)[:, at].mean())
        if mrr is None or not float(mean[at]) / k - TOLERANCE <= mrr <= most + TOLERANCE:
            faults.append(f"mrr@{k} is {mrr}, which the users' recall cannot go with")
    stated = [metrics.mrr.get(str(k)) or 0.0 for k in ks]
    if any(later < earlier - TOLERANCE for earlier, later in pairwise(stated)):
        faults.append("mrr falls with the cut-off")
    if targets is not None:
        faults += _part_faults(metrics, recall, ks, targets)
    return faults


def _part_faults(metrics: Metrics, recall: Float64, ks: list[int], targets: Targets) -> list[str]:
    """Users with targets of one kind have their recall over those; the others' can lie between bounds."""
    faults = []
    for name, own in (("warm", targets.warm), ("cold", targets.all - targets.warm)):
        part = getattr(metrics, name)
        having, other = own > 0, targets.all - own
        if part is None or not having.any():
            continue
        for at, k in enumerate(ks):
            hits = (recall[:, at] * targets.all)[having]
            most = np.minimum(hits, own[having]) / own[having]
            least = np.maximum(hits - other[having], 0) / own[having]
            stated = part.recall.get(str(k))
            if stated is None or not least.mean() - TOLERANCE <= stated <= most.mean() + TOLERANCE:
                faults.append(f"{name}.recall@{k} is {stated}, which the users' recall cannot go with")
    return faults
