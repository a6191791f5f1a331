"""Who took what when, as columns of codes: gathered from a stream of batches, in an order of its own.

A reader of some layout is two functions: ``interactions(…) -> Iterator[pa.RecordBatch]`` with the columns ``user`` and
``item`` (text), ``timestamp`` and optionally ``rating``, no cell null; and ``items(…) -> pa.Table`` with the columns
``item`` and ``title`` (text). :func:`gather` makes the first one's stream into :class:`Interactions`, and
:func:`prunebench.datasets.protocol.build` makes both into a data set.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from prunebench.datasets.schema import DataError, Int32, Int64, Strings

BELOW_RATING, DUPLICATES = "interactions rated below --min-rating", "exact duplicates (same user, item and time)"
"""Why :func:`gather` leaves interactions out, as the keys of ``Interactions.dropped``."""
WAITING = 1 << 23
"""Rows of text kept until they are encoded: so many that known keys are hashed again only a few times."""


@dataclass(frozen=True, eq=False)
class Interactions:
    """``n`` interactions, sorted by user key, then time, then item key, no two alike.

    ``users``, ``items`` int32 [n]: rows of ``user_keys`` and ``item_keys``, which are sorted (by their UTF-8 bytes) and
    each occur. ``times`` int64 [n], in the unit of the source; only their order means anything. ``dropped``: how many
    rows of the source were left out, by reason in words.
    """

    users: Int32
    items: Int32
    times: Int64
    user_keys: Strings
    item_keys: Strings
    dropped: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.users)


def gather(
    batches: Iterable[pa.RecordBatch], min_rating: float | None, dropped: Mapping[str, int] | None = None
) -> Interactions:
    """The interactions of ``batches``, rated ``min_rating`` or better; None, or no column ``rating``, keeps all.

    ``user`` and ``item`` are text, plain or dictionary-encoded; ``timestamp`` is integers, seconds as floats, or
    Arrow's timestamps, of one type throughout (floats and timestamps are kept to the microsecond). The same rows in any
    order and any batches give the same answer. ``dropped`` is what the reader left out by reason, looked at once the
    stream has ended. 16 bytes per row and every distinct key stay in memory, and twice that while sorting.

    Raises DataError where nothing is left.
    """
    users, items, times = _Codes(), _Codes(), [np.empty(0, np.int64)]
    read, best = 0, float("-inf")
    for batch in batches:
        read += len(batch)
        if min_rating is not None and "rating" in batch.schema.names and len(batch):
            best = max(best, pc.max(batch["rating"]).as_py())
            batch = batch.filter(pc.greater_equal(batch["rating"], min_rating))
        users.add(batch["user"])
        items.add(batch["item"])
        times.append(_integers(batch["timestamp"]))
    if not read:
        raise DataError("there are no interactions to read")
    if not any(map(len, times)):
        raise DataError(
            f"all {read:,} interactions are rated below {min_rating:g}, the best {best:g}; choose another --min-rating, or none to keep all"
        )
    return _canonical(users, items, times, {**(dropped or {}), BELOW_RATING: read - sum(map(len, times))})


class _Codes:
    """Codes of a growing column of text. The table of texts only grows at its end, so that codes given stay right."""

    def __init__(self) -> None:
        self.known = pa.array([], pa.large_string())
        self.codes: list[Int32] = []
        self.waiting: list[pa.Array] = []
        self.rows = 0

    def add(self, column: pa.Array) -> None:
        self.waiting.append(column.cast(pa.large_string()))
        self.rows += len(column)
        if self.rows > max(len(self.known), WAITING):
            self._encode()

    def _encode(self) -> None:
        chunks = pa.chunked_array([self.known, *self.waiting]).dictionary_encode().chunks
        codes = np.concatenate([np.empty(0, np.int32), *(chunk.indices.to_numpy() for chunk in chunks)])
        self.codes.append(codes[len(self.known) :].copy())
        self.known, self.waiting, self.rows = chunks[0].dictionary if chunks else self.known, [], 0

    def sorted(self) -> tuple[Int32, Strings]:
        """The column as rows of its sorted distinct texts, and these; what was collected is given up."""
        self._encode()
        codes, self.codes = np.concatenate(self.codes), []
        order = pc.array_sort_indices(self.known)
        rank = np.empty(len(order), np.int32)
        rank[order.to_numpy()] = np.arange(len(order), dtype=np.int32)
        return rank[codes], strings(self.known.take(order))


def strings(texts: pa.Array) -> Strings:
    """Arrow's column of text as ours."""
    texts = pa.concat_arrays([texts.cast(pa.large_string())])
    _, offsets, utf8 = texts.buffers()
    ends = np.frombuffer(offsets, np.int64, len(texts) + 1, texts.offset * 8) if offsets else np.zeros(1, np.int64)
    content = np.frombuffer(utf8, np.uint8)[ends[0] : ends[-1]] if utf8 else np.empty(0, np.uint8)
    return Strings(content, ends - ends[0])


def arrow(texts: Strings) -> pa.Array:
    """Our column of text as Arrow's large_string."""
    return pa.LargeStringArray.from_buffers(len(texts), pa.py_buffer(texts.offsets), pa.py_buffer(texts.utf8))


def _integers(times: pa.Array) -> Int64:
    if pa.types.is_floating(times.type):
        times = pc.round(pc.multiply(times, 1e6))
    elif pa.types.is_timestamp(times.type):
        times = times.cast(pa.timestamp("us", times.type.tz), safe=False)
    return times.cast(pa.int64()).to_numpy()


def _canonical(users: _Codes, items: _Codes, times: list[Int64], dropped: dict[str, int]) -> Interactions:
    when = np.concatenate(times)
    times.clear()
    who, user_keys = users.sorted()
    what, item_keys = items.sorted()
    order = _order(who, when, what)
    who, when, what = who[order], when[order], what[order]
    del order
    new = np.ones(len(who), bool)
    new[1:] = (who[1:] != who[:-1]) | (when[1:] != when[:-1]) | (what[1:] != what[:-1])
    dropped[DUPLICATES] = len(new) - int(np.count_nonzero(new))
    if dropped[DUPLICATES]:
        who, when, what = who[new], when[new], what[new]
    return Interactions(who, what, when, user_keys, item_keys, {why: n for why, n in dropped.items() if n})


def _order(users: Int32, times: Int64, items: Int32) -> Int64:
    """Rows by user, time and item: one sort of user and time in one number, then the items of equal ones."""
    both = _packed(users, times)
    order = np.argsort(both)
    both = both[order]
    tied = np.zeros(len(both), bool)
    tied[1:] = both[1:] == both[:-1]
    tied[:-1] |= tied[1:]
    where = np.flatnonzero(tied)
    rows = order[where]
    order[where] = rows[np.lexsort((items[rows], both[where]))]
    return order


def _packed(users: Int32, times: Int64) -> NDArray[np.int64]:
    """One number per row that sorts as (user, time) does."""
    first = int(times.min())
    span, n_users = int(times.max()) - first, int(users.max()) + 1
    ranks = times
    if span < 1 << 63:
        ranks = times - first
        ranks //= max(int(np.gcd.reduce(ranks)), 1)
        span = int(ranks.max())
    if n_users * (span + 1) >= 1 << 63:
        distinct, ranks = np.unique(times, return_inverse=True)
        span = len(distinct)
    ranks += users.astype(np.int64) * (span + 1)
    return ranks
