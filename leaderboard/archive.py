"""Recorded runs in one file for somebody else's board: a plain zip, written byte for byte alike, read without trust."""

from __future__ import annotations

import hashlib
import io
import json
import re
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from prunebench.leaderboard import score_summary
from prunebench.leaderboard.record import RecordError

MANIFEST, RECORD, PER_USER, SELECTION = "manifest.json", "record.json", "per_user.npz", "selection.txt"
NOTE = "README.txt"
LARGEST = {MANIFEST: 2**16, RECORD: 2**23, SELECTION: 2**27, PER_USER: 2**28, score_summary.FILE: 2**20}
"""The files of a run, and the bytes each may have: far more than ten million samples or a million users need."""
NEEDED = (MANIFEST, RECORD, PER_USER)
RUN = re.compile(r"[0-9a-f]{12}")
"""What a run is called, hence its folder."""
MOST_FILES = 20_000
MOST_BYTES = 2**31
_TOLD = 20
_DATE = (1980, 1, 1, 0, 0, 0)
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Read in bounded steps; others are unpacked in pieces of any size."""
_END, _END_BYTES = b"PK\x05\x06", 22
_DIRECTORY_BYTES = 2**22
BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    IndexError,
    KeyError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    UnicodeError,
    ValueError,
)
"""What reading arbitrary bytes as a zip may raise, beside OSError."""
Files = dict[str, bytes]
"""A run's files by name."""


class RefusedError(RecordError):
    """A submission is not taken; ``reasons`` has a line each."""

    def __init__(self, source: str, reasons: list[str]):
        super().__init__(f"{source}: {reasons[0]}" + (f" (and {len(reasons) - 1} more)" if reasons[1:] else ""))
        self.reasons = reasons


def manifest(files: Mapping[str, bytes]) -> bytes:
    """The manifest of a run's files, as every folder of a run has one."""
    entries = {name: _entry(files[name]) for name in sorted(files) if name != MANIFEST}
    return (json.dumps({"format": 1, "files": entries}, indent=1) + "\n").encode()


def manifest_faults(files: Mapping[str, bytes]) -> list[str]:
    """Where the files of a run are not those its manifest lists."""
    try:
        listed: Any = json.loads(files[MANIFEST])["files"]
    except (ValueError, LookupError, TypeError, RecursionError):
        listed = None
    if not isinstance(listed, dict):
        return [f"{MANIFEST} is no manifest"]
    there = {name: _entry(content) for name, content in files.items() if name != MANIFEST}
    absent = [f"{shown(name)} is listed in {MANIFEST} and missing" for name in sorted(listed.keys() - there.keys())]
    unlisted = [f"{name} is not listed in {MANIFEST}" for name in sorted(there.keys() - listed.keys())]
    changed = [
        f"{name} does not match its checksum in {MANIFEST}"
        for name in sorted(there.keys() & listed.keys())
        if there[name] != listed[name]
    ]
    return [*absent, *unlisted, *changed]


def _entry(content: bytes) -> dict[str, Any]:
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def shown(text: object, most: int = 80) -> str:
    """Foreign text as it may stand in a line on a terminal: in quotes, at most so long, nothing but printable ASCII."""
    said = str(text)
    return ascii(said if len(said) <= most else f"{said[: most - 3]}...")


def pack(runs: Mapping[str, Files], note: str) -> bytes:
    """An archive with a folder per run and a note: equal runs give equal bytes, whatever the zlib (nothing is compressed)."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(_member(NOTE), note.encode())
        for run in sorted(runs):
            for name in sorted(runs[run]):
                archive.writestr(_member(f"{run}/{name}"), runs[run][name])
    return out.getvalue()


def _member(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _DATE)
    info.create_system, info.external_attr = 3, (stat.S_IFREG | 0o644) << 16
    return info


def read_archive(path: Path) -> Iterator[tuple[str, Files]]:
    """The runs in an archive, one at a time, in memory: nothing is written, and no name in it becomes a path.

    Raises RefusedError, before anything is unpacked, for an archive that is none, or has an entry that is absolute, points
    outside, is a link or a device, is larger than a run's files ever are, or is no file of a run; while reading, for
    one whose content is damaged or not of the size it states.
    """
    with path.open("rb") as file:
        reasons = _end_faults(file.read(4), file.seek(0, 2), path)
        if reasons:
            raise RefusedError(str(path), reasons)
        try:
            archive = zipfile.ZipFile(file)
            entries = archive.infolist()
        except BROKEN as error:
            raise RefusedError(str(path), [f"is no zip archive ({shown(str(error))})"]) from None
        reasons = _entry_faults(entries)
        if reasons:
            raise RefusedError(str(path), reasons)
        runs: dict[str, list[zipfile.ZipInfo]] = {}
        for entry in entries:
            if "/" in entry.filename and not entry.is_dir():
                runs.setdefault(entry.filename.partition("/")[0], []).append(entry)
        if not runs:
            raise RefusedError(str(path), ["has no run in it"])
        for run in sorted(runs):
            yield run, {entry.filename.partition("/")[2]: _content(path, archive, entry) for entry in runs[run]}


def _end_faults(head: bytes, size: int, path: Path) -> list[str]:
    """Whether a file ends as a small zip does: a larger directory could fill the memory before an entry is looked at."""
    if not head.startswith(b"PK"):
        return ["is no zip archive; `bench leaderboard submit` writes one"]
    if size > MOST_BYTES:
        return [f"has {size:,} bytes; at most {MOST_BYTES:,} are read"]
    with path.open("rb") as file:
        file.seek(max(0, size - _END_BYTES - 20))
        tail = file.read()
    end = tail[-_END_BYTES:]
    if len(end) < _END_BYTES or not end.startswith(_END) or end[-2:] != b"\0\0":
        return ["is no whole zip archive: its end is missing, or a comment follows it"]
    if tail.startswith(b"PK\x06\x07") or int.from_bytes(end[12:16], "little") > _DIRECTORY_BYTES:
        return [f"is a zip archive with a directory of more than {_DIRECTORY_BYTES:,} bytes"]
    return []


def _entry_faults(entries: list[zipfile.ZipInfo]) -> list[str]:
    if len(entries) > MOST_FILES:
        return [f"has {len(entries):,} entries; at most {MOST_FILES:,} are read"]
    reasons = [f"{shown(entry.filename)} {fault}" for entry in entries if (fault := _entry_fault(entry))]
    names = Counter(entry.filename for entry in entries)
    reasons += [f"{shown(name)} is there twice" for name, count in sorted(names.items()) if count > 1]
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > MOST_BYTES:
        reasons.append(f"would unpack to {unpacked:,} bytes; at most {MOST_BYTES:,} are read")
    rest = len(reasons) - _TOLD
    return reasons if rest <= 0 else [*reasons[:_TOLD], f"and {rest:,} more of the kind"]


def _entry_fault(entry: zipfile.ZipInfo) -> str | None:
    """Why an entry is not taken. Its name as stored: zipfile has turned the separators of its own system into slashes."""
    name, mode = entry.orig_filename, entry.external_attr >> 16
    path = PurePosixPath(name)
    if path.is_absolute() or re.match(r"[A-Za-z]:", name):
        return "is an absolute path"
    if ".." in path.parts or "\\" in name or "\0" in name:
        return "points outside its folder"
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device, no file"
    if entry.header_offset < 0:
        return "starts before the archive does"
    if entry.flag_bits & 0x1:
        return "is encrypted"
    if entry.compress_type not in _COMPRESSIONS:
        return "is packed in a way that is not read; use a plain zip"
    if name.endswith("/") and RUN.fullmatch(name[:-1]):
        return None
    folder, _, file = name.rpartition("/")
    limit = LARGEST[RECORD] if name == NOTE else LARGEST.get(file) if RUN.fullmatch(folder) else None
    if limit is None:
        return f"is no file of a run; there are {', '.join(f'RUN/{known}' for known in LARGEST)}, and {NOTE}"
    return f"has {entry.file_size:,} bytes; at most {limit:,} are read" if entry.file_size > limit else None


def _content(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    try:
        content = archive.read(entry)
    except BROKEN as error:
        raise RefusedError(
            str(path), [f"{shown(entry.filename)} is damaged or not of the size it states ({shown(str(error))})"]
        ) from None
    return content


def read_folder(folder: Path) -> Files:
    """The files of a run's folder; others in it are left alone. Raises RefusedError for links and for files too large."""
    files, reasons = {}, []
    for name, limit in LARGEST.items():
        path = folder / name
        if path.is_symlink() or (path.exists() and not path.is_file()):
            reasons.append(f"{name} is a link or a device, no file")
        elif path.is_file() and path.stat().st_size > limit:
            reasons.append(f"{name} has {path.stat().st_size:,} bytes; at most {limit:,} are read")
        elif path.is_file():
            files[name] = path.read_bytes()
    if reasons:
        raise RefusedError(str(folder), reasons)
    return files
