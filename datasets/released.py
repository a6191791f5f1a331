"""The released DEALRec layout: pickled dictionaries of users' items per split, read without running a pickle."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from prunebench.datasets.files import load_released_npy
from prunebench.datasets.schema import SPLITS, DataError, Int64, RecDataset, Sequences, Split, Strings

DICTIONARIES: dict[Split, str] = {
    "train": "training_dict.npy",
    "valid": "validation_dict.npy",
    "test": "testing_dict.npy",
}
TITLES, ITEMS = "title_maps.npy", "item_map.npy"
NOUNS = {"games": "game product", "microlens-50k": "video", "book": "book"}
"""What a prompt calls an item of the released data sets."""


def read_dealrec(folder: Path, name: str) -> RecDataset:
    """Read a folder of the released layout.

    ``training_dict.npy``, ``validation_dict.npy`` and ``testing_dict.npy`` hold {user: [item, ...]} over the same users
    0 … n - 1; ``title_maps.npy`` holds {"recid2title": {item: title}}. ``item_map.npy`` ({external id: item}) tells the
    number of items where present, else the largest item with a title does. ``sequential_{train,valid,test}.txt`` (one
    line per user: user and items, counted from 1) must agree where present. An item without a title gets an empty one.

    Raises DataError for a file that is missing, cut short or no dictionary, for users that differ between splits, for
    an item out of range, and where the text files contradict the dictionaries.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; give the one that holds {DICTIONARIES['train']}")
    missing = [file for file in (*DICTIONARIES.values(), TITLES) if not (folder / file).is_file()]
    if missing:
        raise DataError(f"{folder} lacks {', '.join(missing)}; it is not a complete copy of the released layout")
    titles, item_keys = _titles(folder)
    users = {split: _dictionary(folder / file) for split, file in DICTIONARIES.items()}
    splits = {
        split: _sequences(folder / DICTIONARIES[split], rows, len(users["train"])) for split, rows in users.items()
    }
    for split, part in splits.items():
        _check_items(folder / DICTIONARIES[split], part, len(titles))
    checked = [
        _compare(path, splits[split]) for split in SPLITS if (path := folder / f"sequential_{split}.txt").is_file()
    ]
    facts = {
        "format": "dealrec",
        "item_noun": NOUNS.get(name, "item"),
        "missing_titles": str(sum(not title for title in titles)),
        "checked_against": " ".join(checked),
    }
    train, valid, test = (splits[split] for split in SPLITS)
    source = f"DEALRec release, folder {folder.name}"
    return RecDataset(name, titles, train, valid, test, source=source, meta=facts, item_keys=item_keys)


def _dictionary(path: Path) -> Mapping[Any, Any]:
    value = load_released_npy(path)
    if not isinstance(value, dict):
        raise DataError(f"{path} holds a {type(value).__name__}, not a dictionary")
    return value


def _titles(folder: Path) -> tuple[tuple[str, ...], Strings | None]:
    """Titles by item, and the items' external ids where there is a map of them."""
    path = folder / TITLES
    by_item = _dictionary(path).get("recid2title")
    if not isinstance(by_item, dict):
        raise DataError(f"{path} has no dictionary 'recid2title'")
    for item, title in by_item.items():
        if not _is_integer(item) or not (title is None or isinstance(title, str)):
            raise DataError(f"{path}: 'recid2title' maps {item!r} to {title!r}; integers to strings are needed")
    keys = None
    if (folder / ITEMS).is_file():
        pairs = sorted((item, str(key)) for key, item in _dictionary(folder / ITEMS).items() if _is_integer(item))
        n_items = len(pairs)
        if [item for item, _ in pairs] != list(range(n_items)):
            raise DataError(f"{folder / ITEMS} does not number its items 0 … {n_items - 1}, each once")
        keys = Strings.from_list([key for _, key in pairs])
    else:
        n_items = max(by_item, default=-1) + 1
        if n_items > 2**31:
            raise DataError(f"{path}: item {n_items - 1} does not fit 32 bits")
    outside = [item for item in by_item if not 0 <= item < n_items]
    if outside:
        raise DataError(f"{path} gives a title to item {outside[0]}, outside 0 … {n_items - 1}")
    return tuple(by_item.get(item) or "" for item in range(n_items)), keys


def _sequences(path: Path, by_user: Mapping[Any, Any], n_users: int) -> Sequences:
    try:
        rows = [by_user[user] for user in range(n_users)]
    except KeyError as error:
        raise DataError(f"{path} has no user {error}; every split must have users 0 … {n_users - 1}") from None
    if len(by_user) != n_users:
        extra = next(user for user in by_user if not (_is_integer(user) and 0 <= user < n_users))
        raise DataError(f"{path} has a user {extra!r}; every split must have users 0 … {n_users - 1}")
    for user, row in enumerate(rows):
        if not isinstance(row, list | tuple | np.ndarray):
            raise DataError(f"{path}: user {user} has {row!r}, not a list of items")
    if not all(
        issubclass(kind, int | np.integer) and kind is not bool for kind in set(map(type, chain.from_iterable(rows)))
    ):
        user = next(user for user, row in enumerate(rows) if not all(map(_is_integer, row)))
        raise DataError(f"{path}: user {user} has an item that is no integer")
    lengths = np.fromiter(map(len, rows), np.int64, n_users)
    try:
        flat = np.fromiter(chain.from_iterable(rows), np.int32, int(lengths.sum()))
    except OverflowError:
        raise DataError(f"{path} has an item beyond 32 bits") from None
    return Sequences.from_flat(flat, lengths)


def _check_items(path: Path, part: Sequences, n_items: int) -> None:
    wrong = np.flatnonzero((part.items < 0) | (part.items >= n_items))
    if len(wrong):
        user = part.rows_of_items()[wrong[0]]
        raise DataError(f"{path}: user {user} has item {part.items[wrong[0]]}, outside 0 … {n_items - 1}")


def _compare(path: Path, part: Sequences) -> str:
    """The file's name, once each of its lines is the user and the items of ``part``, all counted from 1."""
    lines = path.read_bytes().splitlines()
    counts = np.fromiter((len(line.split()) for line in lines), np.int64, len(lines))
    try:
        numbers = np.array(b" ".join(lines).split()).astype(np.int64)
    except ValueError:
        raise DataError(
            f"{path} holds something that is no number; it cannot be compared with the dictionaries"
        ) from None
    n_users = len(part)
    if len(lines) != n_users:
        raise DataError(f"{path} has {len(lines)} users, the dictionary has {n_users}: they contradict each other")
    users = Sequences.from_flat(np.arange(n_users), np.ones(n_users, np.int64))
    expected = users.join(part)
    wrong = np.flatnonzero(counts != expected.lengths)
    if not len(wrong):
        wrong = expected.rows_of_items()[numbers - 1 != expected.items]
    if len(wrong):
        raise DataError(f"{path} contradicts the dictionary at line {_first(wrong) + 1} (user {_first(wrong)})")
    return path.name


def _first(rows: Int64) -> int:
    return int(rows[0])


def _is_integer(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
