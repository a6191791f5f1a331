"""Files that are either whole or absent: atomic folders with checksums, atomic JSON, and safe reading of pickles."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import pickle
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from prunebench.datasets.schema import DataError

MANIFEST = "manifest.json"
FORMAT = 1
"""Version of the manifest's own layout; what a folder holds is versioned by whoever writes it."""


class NewerError(DataError):
    """Written by a later version, so not to be read here, and not to be taken for damaged and replaced."""


# --- JSON -------------------------------------------------------------------------------------------------------------


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` so that a reader sees the old file or the new one, never half of it. NaN is refused."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_file(path, overwrite=True) as file:
        file.write(text)


def read_json(path: Path) -> Any:
    """Raises DataError where the file is missing or is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not readable JSON ({error})") from None


@contextmanager
def atomic_file(target: Path, *, overwrite: bool = False) -> Iterator[TextIO]:
    """Yield a new UTF-8 text file to fill; on leaving without an error it appears as ``target`` at once.

    After an exception, a kill or a loss of power ``target`` is what it was before, at worst beside a hidden temporary
    file. Raises DataError where ``target`` is a folder, or exists and ``overwrite`` is false.
    """
    if target.is_dir():
        raise DataError(f"{target} is a folder, and a file of that name is to be written; move it away")
    temporary = _sibling(target)
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            yield file
            file.flush()
            _to_disk(file.fileno())
        if not overwrite and os.path.lexists(target):
            raise DataError(f"{target} exists already; ask to overwrite it or choose another name")
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    _folder_to_disk(target.parent)


# --- folders ----------------------------------------------------------------------------------------------------------


@contextmanager
def atomic_folder(target: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a new folder to fill; on leaving without an error it gets a manifest and appears as ``target`` at once.

    After an exception, a kill or a loss of power ``target`` is what it was before, at worst beside a hidden temporary
    folder. Replacing an existing folder takes two renames: a kill between them leaves none, never a mixture.
    Raises DataError where ``target`` exists and ``overwrite`` is false.
    """
    if target.exists() and not overwrite:
        raise DataError(f"{target} exists already; ask to overwrite it or choose another name")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _sibling(target)
    temporary.mkdir()
    try:
        yield temporary
        write_manifest(temporary)
        if target.exists() and not overwrite:
            raise DataError(f"{target} appeared while it was being written; the other one is kept")
        discarded = _sibling(target)
        if target.exists():
            os.rename(target, discarded)
        os.rename(temporary, target)
        _folder_to_disk(target.parent)
        shutil.rmtree(discarded, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def leftovers(target: Path) -> list[Path]:
    """Temporary folders of killed attempts at ``target``; to be removed only by who knows that nobody is at it now."""
    return sorted(target.parent.glob(f".{glob.escape(target.name)}.{'[0-9a-f]' * 32}.tmp"))


def write_manifest(folder: Path) -> None:
    """Record size and sha256 of every file under ``folder`` (itself excepted), all of them flushed to disk first."""
    entries = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST):
        with path.open("rb") as file:
            _to_disk(file.fileno())
        entries[path.relative_to(folder).as_posix()] = _entry(path)
    write_json(folder / MANIFEST, {"format": FORMAT, "files": entries})


def verify(folder: Path) -> dict[str, Any]:
    """The folder's manifest, once every file in it has its recorded size and sha256.

    Raises DataError naming the first file that is missing or differs. Files it does not list are ignored.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} does not exist")
    manifest = read_json(folder / MANIFEST)
    if isinstance(manifest, dict) and manifest.get("format") != FORMAT and not _fits(folder, manifest):
        refuse_newer(folder, manifest, FORMAT)
    if (
        not isinstance(manifest, dict)
        or manifest.get("format") != FORMAT
        or not isinstance(manifest.get("files"), dict)
    ):
        raise DataError(f"{folder / MANIFEST} is not a manifest of format {FORMAT}; it was written by another version")
    for name, entry in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise DataError(f"{path} is missing")
        if _entry(path) != entry:
            raise DataError(f"{path} does not match its checksum")
    return manifest


def refuse_newer(folder: Path, head: Any, reads: int) -> None:
    """Raise NewerError where ``head``, what a file of ``folder`` says of itself, has a later format than ``reads``."""
    said = head.get("format") if isinstance(head, dict) else None
    if isinstance(said, int) and said > reads:
        raise NewerError(
            f"{folder} was written by a newer prunebench (format {said}, this one reads {reads}) and is left as it is; update prunebench"
        )


def _fits(folder: Path, manifest: dict[str, Any]) -> bool:
    """Whether all that is listed is there as it says: then a format that is not ours is but a damaged digit."""
    files = manifest.get("files")
    return isinstance(files, dict) and all(
        (folder / name).is_file() and _entry(folder / name) == entry for name, entry in files.items()
    )


def _sibling(path: Path) -> Path:
    """A fresh hidden name in the same folder, hence on the same file system, so that a rename is atomic."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


def _entry(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _to_disk(descriptor: int) -> None:
    os.fsync(descriptor)


def _folder_to_disk(folder: Path) -> None:
    if os.name == "posix":  # a folder cannot be opened elsewhere
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            _to_disk(descriptor)
        finally:
            os.close(descriptor)


# --- released .npy dictionaries ---------------------------------------------------------------------------------------

# NumPy's own functions, as its own pickles name them; through a pickle, since their module is private and was renamed.
_REBUILD = {"_reconstruct": np.empty(0).__reduce__()[0], "scalar": np.float64(0).__reduce__()[0]}
_ADMITTED: dict[tuple[str, str], Any] = {
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("builtins", "complex"): complex,
    ("collections", "OrderedDict"): dict,
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): np.ndarray,
    **{(f"numpy.{core}.multiarray", name): value for core in ("core", "_core") for name, value in _REBUILD.items()},
}
_BROKEN = (ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, TypeError, ValueError)
"""What reading arbitrary bytes as a pickle may raise, beside UnpicklingError."""


class _DataOnly(pickle.Unpickler):
    """Unpickles containers, strings, numbers and NumPy arrays; every other name a pickle asks for is refused."""

    def __init__(self, file: BufferedReader, path: Path):
        super().__init__(file)
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ADMITTED[module.replace("__builtin__", "builtins"), name]
        except KeyError:
            raise DataError(f"{self.path} asks to run {module}.{name}, which is not data; refused") from None


def load_released_npy(path: Path) -> Any:
    """The object in a released ``.npy`` file, most often a dictionary, without running anything the file asks for.

    Raises DataError where the file is missing, cut short, no ``.npy`` file, or asks for anything but data.
    """
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            _, _, dtype = read_header[version](file)
            if not dtype.hasobject:
                file.seek(0)
                return np.lib.format.read_array(file, allow_pickle=False)
            array = _DataOnly(file, path).load()
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except DataError:
        raise
    except (pickle.UnpicklingError, *_BROKEN) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path} {_instead(path) or f'is cut short or no .npy file ({reason})'}") from None
    return array.item() if isinstance(array, np.ndarray) and array.shape == () else array


def _instead(path: Path) -> str:
    """What a file is that should be another, where its first bytes tell, and the remedy; else empty."""
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        return "is cut short or no .npy file: it is empty"
    if head.startswith(b"version https://git-lfs"):
        return "is a git-lfs pointer, not the data; run `git lfs pull` where it comes from"
    if head.lstrip()[:5].lower() in (b"<!doc", b"<html"):
        return "is a web page, not the data; download it again"
    return ""
