"""The shelf of installed data sets: install, load with checksums, list, remove."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from prunebench.datasets import listing
from prunebench.datasets.files import NewerError, atomic_folder, leftovers, read_json, refuse_newer, verify, write_json
from prunebench.datasets.listing import KNOWN, META, NAME
from prunebench.datasets.schema import SPLITS, DataError, RecDataset, Sequences, Strings

__all__ = ["FORMAT", "KNOWN", "Library"]

FORMAT = 1
"""Version of an installed data set's layout."""
ARRAYS, TITLES = "arrays.npz", "titles.json"
KEYS = ("user_keys", "item_keys")


class Library:
    """Data sets installed under ``home``/datasets/NAME: arrays.npz, titles.json, meta.json and a manifest."""

    def __init__(self, home: Path):
        self.home = home
        self.folder = listing.folder_of(home)

    def installed(self) -> list[dict[str, Any]]:
        """One entry per installed data set; cheap, see :func:`prunebench.datasets.listing.installed`."""
        return listing.installed(self.home)

    def install(self, dataset: RecDataset, overwrite: bool = False) -> dict[str, Any]:
        """Write ``dataset`` under its name and return its entry, as ``installed`` lists it.

        Raises DataError for a name that is no folder name, or one taken while ``overwrite`` is false.
        """
        with self._locked(dataset.name) as folder:
            if folder.exists() and not overwrite:
                raise DataError(f"data set {dataset.name!r} is installed already; overwrite it or choose another name")
            if not len(dataset.train.items):
                raise DataError(
                    f"data set {dataset.name!r} has no training interaction, so nothing could learn from it"
                )
            with atomic_folder(folder, overwrite=overwrite) as new:
                arrays = {f"{split}_{part}": getattr(dataset.split(split), part) for split in SPLITS for part in _PARTS}
                if dataset.labels is not None:
                    arrays["labels"] = np.asarray(dataset.labels, np.str_)
                for names in KEYS:
                    if (keys := getattr(dataset, names)) is not None:
                        arrays |= {f"{names}_utf8": keys.utf8, f"{names}_offsets": keys.offsets}
                np.savez(new / ARRAYS, **arrays)
                write_json(new / TITLES, dataset.titles)
                write_json(new / META, _entry(dataset))
        return _entry(dataset)

    def load(self, name: str, also: Iterable[str] = ()) -> RecDataset:
        """The data set, its files verified by checksum and its content by fingerprint.

        Raises DataError where it is not installed (with the nearest names, those of ``also`` among them) or damaged
        (with the remedy).
        """
        try:
            return self._read(name, also)
        except DataError:
            if not self._path(name).with_name(f".{name}.lock").exists():
                raise
        try:
            with self._locked(name):  # it may have been replaced meanwhile
                return self._read(name, also)
        except OSError:  # nobody else can have written here either
            return self._read(name, also)

    def _read(self, name: str, also: Iterable[str]) -> RecDataset:
        folder = self._path(name)
        if not folder.is_dir():
            raise DataError(self._absent(name, also))
        try:
            verify(folder)
            meta = read_json(folder / META)
            refuse_newer(folder, meta, FORMAT)
            if meta.get("format") != FORMAT:
                raise DataError(f"its layout is of format {meta.get('format')}, this version reads {FORMAT}")
            if meta.get("name") != name:
                raise DataError(f"its folder was renamed from {meta.get('name')!r}; rename it back")
            with np.load(folder / ARRAYS, allow_pickle=False) as arrays:
                train, valid, test = (Sequences(*(arrays[f"{split}_{part}"] for part in _PARTS)) for split in SPLITS)
                labels = arrays.get("labels")
                keys = {
                    names: Strings(arrays[f"{names}_utf8"], arrays[f"{names}_offsets"])
                    for names in KEYS
                    if f"{names}_utf8" in arrays
                }
            titles = tuple(read_json(folder / TITLES))
            dataset = RecDataset(name, titles, train, valid, test, labels, meta["source"], meta["meta"], **keys)
            if dataset.fingerprint != meta["fingerprint"]:
                raise DataError(f"its content has fingerprint {dataset.fingerprint}, not {meta['fingerprint']}")
        except NewerError as newer:
            raise DataError(f"data set {name!r}: {newer}") from None
        except (DataError, KeyError, zipfile.BadZipFile) as error:
            raise DataError(f"data set {name!r} is damaged: {error}; import it again with --overwrite") from None
        return dataset

    def remove(self, name: str) -> None:
        """Raises DataError where it is not installed."""
        with self._locked(name) as folder:
            if not folder.is_dir():
                raise DataError(self._absent(name))
            shutil.rmtree(folder)

    @contextmanager
    def _locked(self, name: str) -> Iterator[Path]:
        folder = self._path(name)
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / f".{name}.lock"):
            for unfinished in leftovers(folder):
                shutil.rmtree(unfinished)
            yield folder

    def _path(self, name: str) -> Path:
        if not NAME.fullmatch(name):
            raise DataError(f"{name!r} is no data set name: {listing.NAMING}")
        return self.folder / name

    def _absent(self, name: str, also: Iterable[str] = ()) -> str:
        if any(entry["name"] == name for entry in KNOWN):
            return f"data set {name!r} is known but not installed; {listing.how_to_install(name)}"
        known = dict.fromkeys([*also, *(entry["name"] for entry in (*self.installed(), *KNOWN))])
        near = get_close_matches(name, known)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        return f"data set {name!r} is not installed; {hint}`bench ls datasets` lists them, `bench datasets import` adds one"


_PARTS = ("items", "offsets")


def counts(dataset: RecDataset) -> dict[str, Any]:
    """Users, items, interactions and density as the paper's Table 1 counts them (percent, two decimals)."""
    interactions = sum(len(dataset.split(split).items) for split in SPLITS)
    cells = dataset.n_users * dataset.n_items
    return {
        "users": dataset.n_users,
        "items": dataset.n_items,
        "interactions": interactions,
        "density_percent": round(100 * interactions / cells, 2) if cells else 0.0,
    }


def _entry(dataset: RecDataset) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "name": dataset.name,
        "fingerprint": dataset.fingerprint,
        **counts(dataset),
        "samples": int((dataset.train.lengths >= 2).sum()),
        "labelled": dataset.labels is not None,
        "source": dataset.source,
        "meta": dict(dataset.meta),
    }
