"""What a data set is: columnar sequences, an item table, and a fingerprint of the content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")


class DataError(ValueError):
    """The data break a rule of the schema; the message says what, where, and what to do."""


@dataclass(frozen=True, eq=False)
class Sequences:
    """Ragged integer rows in two flat arrays.

    ``items`` int32 [total]; ``offsets`` int64 [rows + 1], so that row ``r`` is ``items[offsets[r]:offsets[r + 1]]``.
    """

    items: Int32
    offsets: Int64

    def __post_init__(self) -> None:
        if self.items.dtype != np.int32 or self.offsets.dtype != np.int64:
            raise DataError("sequences need int32 items and int64 offsets")
        if len(self.offsets) == 0 or self.offsets[0] != 0 or self.offsets[-1] != len(self.items):
            raise DataError("sequence offsets must start at 0 and end at the number of items")
        if len(self.offsets) > 1 and np.diff(self.offsets).min() < 0:
            raise DataError("sequence offsets must not decrease")

    @classmethod
    def from_rows(cls, rows: Sequence[Sequence[int]]) -> Sequences:
        """From a list of rows; for tests and small data only."""
        lengths = np.fromiter((len(row) for row in rows), np.int64, len(rows))
        return cls.from_flat(np.array([item for row in rows for item in row], np.int32), lengths)

    @classmethod
    def from_flat(cls, items: NDArray, lengths: NDArray) -> Sequences:
        return cls(np.ascontiguousarray(items, np.int32), np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))

    @classmethod
    def empty(cls, rows: int) -> Sequences:
        return cls(np.empty(0, np.int32), np.zeros(rows + 1, np.int64))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> Int32:
        return self.items[self.offsets[row] : self.offsets[row + 1]]

    def __iter__(self) -> Iterator[Int32]:
        return (self[row] for row in range(len(self)))

    @cached_property
    def lengths(self) -> Int64:
        """Items per row, int64 [rows]."""
        return np.diff(self.offsets)

    def rows_of_items(self) -> Int64:
        """Row of every flat item, int64 [total]."""
        return np.repeat(np.arange(len(self), dtype=np.int64), self.lengths)

    def take(self, rows: NDArray) -> Sequences:
        """The given rows, in the given order (repeats allowed)."""
        rows = np.asarray(rows, np.int64)
        lengths = self.lengths[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        source = np.repeat(self.offsets[rows] - offsets[:-1], lengths) + np.arange(offsets[-1], dtype=np.int64)
        return Sequences(self.items[source], offsets)

    def tail(self, longest: int) -> Sequences:
        """Each row's last ``longest`` items: what a model with a bounded window can see."""
        kept = np.minimum(self.lengths, longest)
        offsets = np.concatenate([[0], np.cumsum(kept)]).astype(np.int64)
        source = np.repeat(self.offsets[1:] - kept - offsets[:-1], kept) + np.arange(offsets[-1], dtype=np.int64)
        return Sequences(self.items[source], offsets)

    def join(self, other: Sequences) -> Sequences:
        """Row by row, this row followed by the other's."""
        if len(self) != len(other):
            raise DataError(f"cannot join {len(self)} rows with {len(other)}")
        offsets = (self.offsets + other.offsets).astype(np.int64)
        items = np.empty(offsets[-1], np.int32)
        for part, before in ((self, np.zeros(len(self), np.int64)), (other, self.lengths)):
            shift = np.repeat(offsets[:-1] + before - part.offsets[:-1], part.lengths)
            items[shift + np.arange(len(part.items), dtype=np.int64)] = part.items
        return Sequences(items, offsets)


def _check_text(what: str, texts: Sequence[str], owner: str = "") -> None:
    """Raise DataError for a text that no file can hold: half of a surrogate pair is no character."""
    try:
        "\n".join(texts).encode()
    except UnicodeEncodeError:
        row = next(row for row, text in enumerate(texts) if any("\ud800" <= letter <= "\udfff" for letter in text))
        where = f"{owner}: " if owner else ""
        raise DataError(
            f"{where}the {what} {row} cannot be written as UTF-8 ({texts[row][:40]!a}); correct it"
        ) from None


@dataclass(frozen=True, eq=False)
class Strings:
    """A column of text in two flat arrays: 10 million names cost their bytes, not 10 million objects.

    ``utf8`` uint8 [total]; ``offsets`` int64 [rows + 1], so that text ``r`` is ``utf8[offsets[r]:offsets[r + 1]]``.
    """

    utf8: NDArray[np.uint8]
    offsets: Int64

    @classmethod
    def from_list(cls, texts: Sequence[str]) -> Strings:
        _check_text("name in row", texts)
        encoded = [text.encode() for text in texts]
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        return cls(
            np.frombuffer(b"".join(encoded), np.uint8), np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> str:
        """Raises IndexError for a row outside 0 … rows - 1."""
        if not 0 <= row < len(self):
            raise IndexError(row)
        return self.utf8[self.offsets[row] : self.offsets[row + 1]].tobytes().decode()

    def __iter__(self) -> Iterator[str]:
        return (self[row] for row in range(len(self)))


@dataclass(frozen=True, eq=False)
class RecDataset:
    """Interactions of users with items, already split in time.

    Items are 0 … ``n_items`` - 1 and ``titles[i]`` is item i's text. The three splits have one row per user, aligned:
    row u of each is user u's interactions of that part in time order, possibly none. ``labels`` (synthetic data only)
    holds what was planted, one name per user, e.g. "clean", "noise", "duplicate". ``user_keys`` and ``item_keys`` are
    what users and items are called where the data come from, so that a selection can be taken back there; nothing may
    be learnt from them, so the fingerprint leaves them out.
    """

    name: str
    titles: tuple[str, ...]
    train: Sequences
    valid: Sequences
    test: Sequences
    labels: NDArray[np.str_] | None = None
    source: str = ""
    meta: dict[str, str] = field(default_factory=dict)
    user_keys: Strings | None = None
    item_keys: Strings | None = None

    def __post_init__(self) -> None:
        for split in SPLITS:
            part = self.split(split)
            if len(part) != len(self.train):
                raise DataError(f"{self.name}: {split} has {len(part)} users, train has {len(self.train)}")
            if len(part.items) and (part.items.min() < 0 or part.items.max() >= len(self.titles)):
                raise DataError(f"{self.name}: {split} names an item outside 0 … {len(self.titles) - 1}")
        _check_text("title of item", self.titles, self.name)
        if self.labels is not None and len(self.labels) != len(self.train):
            raise DataError(f"{self.name}: {len(self.labels)} labels for {len(self.train)} users")
        for what, keys, rows in (("user", self.user_keys, self.n_users), ("item", self.item_keys, self.n_items)):
            if keys is not None and len(keys) != rows:
                raise DataError(f"{self.name}: {len(keys)} {what} keys for {rows} {what}s")

    def split(self, split: Split) -> Sequences:
        return {"train": self.train, "valid": self.valid, "test": self.test}[split]

    @property
    def n_users(self) -> int:
        return len(self.train)

    @property
    def n_items(self) -> int:
        return len(self.titles)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 (first 16 hex digits) of everything a result can depend on: sequences, titles and labels."""
        digest = hashlib.sha256()
        for split in SPLITS:
            part = self.split(split)
            digest.update(split.encode() + part.offsets.astype("<i8").tobytes() + part.items.astype("<i4").tobytes())
        for title in self.titles:
            text = title.encode()
            digest.update(len(text).to_bytes(8, "little") + text)
        if self.labels is not None:
            digest.update("\n".join(self.labels.tolist()).encode())
        return digest.hexdigest()[:16]

    @cached_property
    def popularity(self) -> Int64:
        """Training interactions per item, int64 [n_items]."""
        return np.bincount(self.train.items, minlength=self.n_items).astype(np.int64)

    def samples(self) -> Samples:
        """One sample per user with a history and a target in train: s = (all training items but the last, the last)."""
        ids = np.flatnonzero(self.train.lengths >= 2).astype(np.int64)
        rows = self.train.take(ids)
        return Samples(self, ids, _without_last(rows), rows.items[rows.offsets[1:] - 1])

    def queries(self, split: Literal["valid", "test"]) -> Queries:
        """Users with a target in ``split``; the history is all that precedes it (train, and valid before test)."""
        targets = self.split(split)
        users = np.flatnonzero(targets.lengths > 0).astype(np.int64)
        history = self.train if split == "valid" else self.train.join(self.valid)
        return Queries(self, split, users, history.take(users), targets.take(users))


def _without_last(rows: Sequences) -> Sequences:
    keep = np.ones(len(rows.items), bool)
    keep[rows.offsets[1:] - 1] = False
    return Sequences(rows.items[keep], (rows.offsets - np.arange(len(rows) + 1)).astype(np.int64))


@dataclass(frozen=True, eq=False)
class Samples:
    """Training samples, addressed by sample id (the user's row in the data set).

    ``ids`` int64 [n], increasing; ``histories`` n rows, each of one item or more; ``targets`` int32 [n].
    """

    dataset: RecDataset
    ids: Int64
    histories: Sequences
    targets: Int32

    def __len__(self) -> int:
        return len(self.ids)

    def positions(self, ids: NDArray) -> Int64:
        """Positions of the given sample ids in ``self.ids``. Raises DataError for an id that is no sample."""
        ids = np.asarray(ids, np.int64)
        found = np.searchsorted(self.ids, ids)
        if len(ids) and (
            (found >= len(self.ids)).any() or (self.ids[np.minimum(found, len(self.ids) - 1)] != ids).any()
        ):
            foreign = np.setdiff1d(ids, self.ids)[:3].tolist()
            raise DataError(f"{foreign} are no sample ids of {self.dataset.name}")
        return found

    def take(self, ids: NDArray) -> Samples:
        """The samples with these ids, in increasing order of id."""
        where = self.positions(np.unique(np.asarray(ids, np.int64)))
        return Samples(self.dataset, self.ids[where], self.histories.take(where), self.targets[where])

    @cached_property
    def sequences(self) -> Sequences:
        """History and target as one row per sample."""
        ones = np.arange(len(self) + 1, dtype=np.int64)
        return self.histories.join(Sequences(self.targets, ones))


@dataclass(frozen=True, eq=False)
class Queries:
    """Users to recommend to: ``users`` int64 [n], histories (possibly empty) and one or more targets each."""

    dataset: RecDataset
    split: str
    users: Int64
    histories: Sequences
    targets: Sequences

    def __len__(self) -> int:
        return len(self.users)

    def take(self, positions: NDArray) -> Queries:
        """The queries at these positions (not user ids), in the given order."""
        positions = np.asarray(positions, np.int64)
        return Queries(
            self.dataset,
            self.split,
            self.users[positions],
            self.histories.take(positions),
            self.targets.take(positions),
        )
