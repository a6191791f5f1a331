"""From interactions to a data set: k-core, a split in time, the users and items that remain.

As in the paper unless asked otherwise: interactions rated 4 or better, all of them in the order of time cut 8:1:1 into
train, validation and test; users without a training interaction leave the other two parts as well.

The result is canonical: the same rows in any order give the same data set, byte for byte. Interactions are ordered by
time, then user key, then item key (keys by their UTF-8 bytes); users and items are numbered in the order of their keys.
"""

from __future__ import annotations

import json
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from prunebench.datasets.interactions import Interactions, arrow
from prunebench.datasets.schema import DataError, Int32, Int64, RecDataset, Sequences, Strings

CORE = "interactions outside the k-core"
COLD = "validation and test interactions of users without a training interaction"
TRAIN, VALID, TEST = range(3)
Split = Literal["global", "leave-one-out", "none"]


class Protocol(BaseModel):
    """What becomes of interactions; the defaults are the paper's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_rating: float | None = Field(default=4.0, allow_inf_nan=False)
    """Lower ratings are dropped (by :func:`prunebench.datasets.interactions.gather`); None keeps all."""
    split: Split = "global"
    """global: the first 8 tenths of all interactions in time are train, the next is valid, the last test (cut at
    ⌊0.8 n⌋ and ⌊0.9 n⌋). leave-one-out: a user's last is test, the one before valid; with fewer than three, all are
    train. none: all are train."""
    k_core: int = Field(default=0, ge=0)
    """Users and items with fewer interactions are dropped until none is left, before the split."""
    noun: str = Field(default="item", min_length=1)
    """What a prompt calls an item."""


def build(name: str, interactions: Interactions, items: pa.Table, protocol: Protocol, source: str) -> RecDataset:
    """The data set ``name``.

    ``items``: columns ``item`` and ``title`` (text, null or empty where there is none), a row per item, or several that
    agree. An item that it lacks gets an empty title, as in the paper's data; ``meta`` counts them. ``meta`` also holds
    the protocol, ``dropped`` (JSON: how many rows were left out, by reason), ``cold_users`` (users that left with their
    validation and test interactions) and ``tied_times`` (the share of steps from one interaction of a user to the next
    that take no time, so that the order is that of the item keys).

    Raises DataError where an item has two titles, no item has one, or too little is left to split or to make a sample.
    """
    keep = _core(interactions, protocol.k_core)
    users, what, times = interactions.users[keep], interactions.items[keep], interactions.times[keep]
    if not len(users):
        raise DataError(
            f"no interaction is left: none is in the {protocol.k_core}-core of {len(keep):,}; choose a lower --k-core"
        )
    ties = _tied_times(users, times)
    part = _parts(users, times, protocol.split)
    del times
    warm = np.zeros(len(interactions.user_keys), bool)
    warm[users[part == TRAIN]] = True
    stays = warm[users]
    cold_users = len(np.unique(users[~stays]))
    dropped = {**interactions.dropped, CORE: len(keep) - len(stays), COLD: len(stays) - int(np.count_nonzero(stays))}
    users, what, part = users[stays], what[stays], part[stays]
    users, user_keys = _renumbered(users, interactions.user_keys)
    what, item_keys = _renumbered(what, interactions.item_keys)
    train, valid, test = (_sequences(users, what, part == number, len(user_keys)) for number in (TRAIN, VALID, TEST))
    if not (train.lengths >= 2).any():
        raise DataError(
            f"no user has two training interactions, so there is no sample to prune ({len(users):,} interactions of {len(user_keys):,} users are left); another --split, --min-rating or --k-core may leave more"
        )
    titles, unlisted = _titles(item_keys, items)
    meta = {
        "item_noun": protocol.noun,
        "min_rating": "none" if protocol.min_rating is None else f"{protocol.min_rating:g}",
        "split": protocol.split,
        "k_core": str(protocol.k_core),
        "dropped": json.dumps({why: count for why, count in dropped.items() if count}),
        "cold_users": str(cold_users),
        "tied_times": f"{ties:.4f}",
        "missing_titles": str(sum(not title.strip() for title in titles)),
        "unlisted_items": str(unlisted),
    }
    return RecDataset(
        name, titles, train, valid, test, source=source, meta=meta, user_keys=user_keys, item_keys=item_keys
    )


def _core(interactions: Interactions, k: int) -> NDArray[np.bool_]:
    """Which rows are in the k-core: the fixpoint of dropping users and items with fewer than ``k`` of them."""
    keep = np.ones(len(interactions), bool)
    while k > 1:
        before = np.count_nonzero(keep)
        for codes in (interactions.users, interactions.items):
            keep &= (np.bincount(codes[keep], minlength=int(codes.max()) + 1) >= k)[codes]
        if np.count_nonzero(keep) == before:
            break
    return keep


def _tied_times(users: Int32, times: Int64) -> float:
    steps = users[1:] == users[:-1]
    return float((times[1:] == times[:-1])[steps].mean()) if steps.any() else 0.0


def _parts(users: Int32, times: Int64, split: str) -> NDArray[np.int8]:
    """Which part each row is of; rows are sorted by user, time and item."""
    part = np.full(len(users), TRAIN, np.int8)
    if split == "global":
        n = len(users)
        if n < 10:
            raise DataError(
                f"{n} interaction{'s are' if n > 1 else ' is'} too few to be split 8:1:1, it takes ten; choose --split leave-one-out or none"
            )
        for number, first in ((VALID, n * 8 // 10), (TEST, n * 9 // 10)):
            part[_from(times, first)] = number
    elif split == "leave-one-out":
        starts = np.flatnonzero(np.r_[True, users[1:] != users[:-1]])
        ends = np.r_[starts[1:], len(users)]
        ends = ends[ends - starts >= 3]
        part[ends - 1], part[ends - 2] = TEST, VALID
    return part


def _from(times: Int64, first: int) -> NDArray[np.bool_]:
    """All rows but the ``first`` in the order of time, user and item, which rows of equal time are in already."""
    moment = np.partition(times, first)[first]
    late = times > moment
    now = np.flatnonzero(times == moment)
    late[now[first - np.count_nonzero(times < moment) :]] = True
    return late


def _renumbered(codes: Int32, keys: Strings) -> tuple[Int32, Strings]:
    """Codes and keys without the keys that no code means."""
    used = np.zeros(len(keys), bool)
    used[codes] = True
    if used.all():
        return codes, keys
    lengths = np.diff(keys.offsets)
    left = Strings(keys.utf8[np.repeat(used, lengths)], np.r_[0, np.cumsum(lengths[used])].astype(np.int64))
    return (np.cumsum(used, dtype=np.int32) - np.int32(1))[codes], left


def _sequences(users: Int32, items: Int32, rows: NDArray[np.bool_], n_users: int) -> Sequences:
    return Sequences.from_flat(items[rows], np.bincount(users[rows], minlength=n_users))


def titled(items: pa.Table) -> pa.Table:
    """``items`` without rows that have no title. Raises DataError where an item has two."""
    items = pa.table({name: _whole(items[name]) for name in ("item", "title")})
    items = items.filter(pc.not_equal(pc.utf8_trim_whitespace(items["title"].fill_null("")), ""))
    codes, titles = (_whole(column).dictionary_encode().indices.to_numpy() for column in items.columns)
    _, first = np.unique(codes, return_index=True)
    other = np.flatnonzero(titles != titles[first[codes]])
    if len(other):
        item, two = items["item"][int(other[0])].as_py(), items["title"][int(other[0])].as_py()
        one = items["title"][int(first[codes[other[0]]])].as_py()
        raise DataError(f"item {item!r} has two titles in the file of items, {one!r} and {two!r}; keep one of them")
    return items


def _titles(keys: Strings, items: pa.Table) -> tuple[tuple[str, ...], int]:
    """A title for each key, and the number of keys that ``items`` lacks."""
    listed, wanted = _whole(items["item"]), arrow(keys)
    unlisted = len(keys) - pc.sum(pc.is_in(wanted, value_set=listed)).as_py()
    if unlisted == len(keys):
        example = f", e.g. {keys[0]!r} against {listed[0].as_py()!r}" if len(listed) else ""
        raise DataError(
            f"none of the {len(keys):,} items of the interactions is in the file of items{example}; do both name items alike? see --item"
        )
    known = titled(items)
    rows = pc.index_in(wanted, value_set=_whole(known["item"]))
    return tuple(_whole(known["title"]).take(rows).fill_null("").to_pylist()), unlisted


def _whole(column: pa.ChunkedArray) -> pa.Array:
    """As one array of large_string."""
    return pa.concat_arrays([pa.array([], pa.large_string()), *column.cast(pa.large_string()).chunks])
