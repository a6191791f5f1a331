"""Fetching of public files: resumed where it broke off, installed only once its checksum is right.

The standard library's urllib does the talking: it knows proxies, redirects and certificates, and what a dependency would
add (resuming, checksums, bounded retries) would have to be written around it all the same.

Beside a file NAME, until it is whole, there are NAME.part and .NAME.json, which says of which version of the file the
part is. ``.checksums.json`` keeps the sha256 of every file that came without a published one, as it was the first time that
it could be read.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote, urlsplit

from filelock import FileLock, Timeout

from prunebench.datasets.files import read_json, write_json
from prunebench.datasets.schema import DataError
from prunebench.datasets.sources import Source

Report = Callable[[int, int | None, str], None]
CHECKSUMS = ".checksums.json"
MB = 1_000_000
BLOCK = 1 << 18
_PASSING = {408, 425, 429, 500, 502, 503, 504}
"""Answers that may be others a little later."""


class DownloadError(OSError):
    """A file cannot be had, or is not the one expected: one line says which, why, and what to do."""


class Unreachable(DownloadError):
    """The address does not give the file, so that somebody may have to fetch it by hand."""


@dataclass(frozen=True)
class Patience:
    """How long a download waits for an answer, how often it tries, and how long before the second try (then doubling)."""

    timeout_s: float = 30.0
    attempts: int = 5
    wait_s: float = 1.0


PATIENCE = Patience()


@dataclass(frozen=True)
class Wanted:
    """One file to fetch: from ``url`` to ``path``; ``sha256`` and ``size`` where they are known.

    ``first_time``: nobody published them; they are what a first download had, so that a change is at least noticed."""

    url: str
    path: Path
    sha256: str | None
    size: int | None
    first_time: bool = False

    @property
    def part(self) -> Path:
        return self.path.with_name(f"{self.path.name}.part")

    @property
    def state(self) -> Path:
        return self.path.with_name(f".{self.path.name}.json")


def fetch(
    source: Source,
    folder: Path,
    report: Report,
    say: Callable[[str], None],
    mirror: str | None = None,
) -> Path:
    """All files of ``source`` in ``folder``, which is returned; what is there and right is not fetched again.

    ``mirror`` replaces the source's address. One process at a time works on a folder, others wait. ``report`` gets
    megabytes.

    Raises DataError for a mirror that is no http address, Unreachable where a file cannot be had, and DownloadError where
    it is not the one expected or cannot be written. What was fetched stays, and another call goes on from there.
    """
    address = source.address if mirror is None else mirror
    _check_address(address)
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder, say):
        for file in source.files:
            url = f"{address.rstrip('/')}/{quote(file.path)}"
            seen = _seen(folder).get(file.name)
            wanted = Wanted(url, folder / file.name, file.sha256, file.size)
            if file.sha256 is None and seen is not None:
                wanted = Wanted(url, folder / file.name, seen["sha256"], seen["bytes"], first_time=True)
            if not _there(wanted, say):
                _fetch(wanted, report, say, PATIENCE)
    return folder


def unproven(source: Source, folder: Path) -> list[Path]:
    """The files in ``folder`` that nothing vouches for yet: no published checksum, and not one that was seen before."""
    seen = _seen(folder)
    return [folder / file.name for file in source.files if file.sha256 is None and file.name not in seen]


def prove(source: Source, folder: Path) -> None:
    """Say that the files could be read: what has no published checksum must from now on be what it is now."""
    found = {path.name: {"sha256": _sha256(path), "bytes": path.stat().st_size} for path in unproven(source, folder)}
    if found:
        write_json(folder / CHECKSUMS, {**_seen(folder), **found})


def _check_address(address: str) -> None:
    try:
        parts = urlsplit(address)
        right = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        right = False
    if not right:
        raise DataError(f"{address!r} is no address to fetch from; give one like https://host/folder")


@contextmanager
def _alone(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"another process is at {folder}; waiting for it to end")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


# --- checksums --------------------------------------------------------------------------------------------------------


def _seen(folder: Path) -> dict[str, Any]:
    """What came without a published checksum: {name: {"sha256", "bytes"}}."""
    return read_json(folder / CHECKSUMS) if (folder / CHECKSUMS).exists() else {}


def _there(wanted: Wanted, say: Callable[[str], None]) -> bool:
    """Whether the file is there already and is the one that is wanted; another one is put aside."""
    if not wanted.path.is_file():
        return False
    if wanted.sha256 is None or _sha256(wanted.path) == wanted.sha256:
        return True
    say(f"{wanted.path} is not the file that is expected; kept as {_put_aside(wanted, wanted.path).name}")
    return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _put_aside(wanted: Wanted, path: Path) -> Path:
    aside = wanted.path.with_name(f"{wanted.path.name}.rejected")
    os.replace(path, aside)
    return aside


def _refuse(wanted: Wanted, why: str) -> NoReturn:
    remedy = (
        f"if the change is known to be right, delete {wanted.path.parent / CHECKSUMS} and run again"
        if wanted.first_time
        else "it was changed, or not fetched from where it is published"
    )
    raise DownloadError(f"{wanted.url} {why}; not installed; {remedy}")


# --- one file ---------------------------------------------------------------------------------------------------------


def _fetch(wanted: Wanted, report: Report, say: Callable[[str], None], patience: Patience) -> None:
    """Try until the file is whole; a server that never answered is not asked again."""
    tries, answered = 0, False
    while not _complete(wanted):
        try:
            with _open(wanted, patience) as answer:
                answered = True
                _receive(wanted, answer, report)
            continue
        except DownloadError:
            raise
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416:  # what is there is no part of it
                _forget(wanted)
            elif error.code not in _PASSING:
                raise Unreachable(f"{wanted.url} {_in_words(error)}") from None
            answered, why = True, _in_words(error)
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            why = _reason(error)
            if not answered:
                raise Unreachable(f"cannot reach {wanted.url} ({why})") from None
        tries += 1
        there = _length(wanted.part) // MB
        if tries == patience.attempts:
            raise DownloadError(
                f"{wanted.url}: {why}; given up after {tries} tries, the same command goes on from {there} MB"
            )
        wait = patience.wait_s * 2 ** (tries - 1)
        say(f"{wanted.path.name}: {why}; going on from {there} MB in {wait:.0f} s")
        time.sleep(wait)
    _accept(wanted)


def _state(wanted: Wanted) -> dict[str, Any]:
    """Of which ``version`` of the file the part is, and how many ``bytes`` that has; nothing where it is from elsewhere."""
    try:
        state = read_json(wanted.state)
    except DataError:
        return {}
    return state if state.get("url") == wanted.url and wanted.part.is_file() else {}


def _complete(wanted: Wanted) -> bool:
    return bool(state := _state(wanted)) and state["bytes"] == _length(wanted.part)


def _open(wanted: Wanted, patience: Patience) -> http.client.HTTPResponse:
    """The answer to a request for the file, or for the rest of the version of which a part is there."""
    headers = {"User-Agent": "prunebench", "Accept-Encoding": "identity"}
    if version := _state(wanted).get("version"):
        headers |= {"Range": f"bytes={_length(wanted.part)}-", "If-Range": version}
    return urllib.request.urlopen(urllib.request.Request(wanted.url, headers=headers), timeout=patience.timeout_s)


def _receive(wanted: Wanted, answer: http.client.HTTPResponse, report: Report) -> None:
    """Write what comes behind what is there, or in its place. Raises ConnectionError where less comes than announced."""
    if answer.headers.get_content_type() == "text/html":
        raise Unreachable(f"{wanted.url} answered with a web page, a login's or a proxy's perhaps, not with the file")
    if (packed := answer.headers.get("Content-Encoding", "identity")) != "identity":
        raise Unreachable(f"{wanted.url} sent the file packed ({packed}), which it was not asked to")
    version, length = _version(answer), 0
    if answer.status == 206:
        length = _length(wanted.part)
        behind = answer.headers.get("Content-Range", "").startswith(f"bytes {length}-")
        if not behind or version != _state(wanted).get("version"):
            _forget(wanted)
            raise ConnectionError("it sent a part of another version")
    announced = answer.headers.get("Content-Length", "")
    total = length + int(announced) if announced.isdigit() else None
    if total is not None and wanted.size not in (None, total):
        _refuse(wanted, f"has {total:,} bytes, not {wanted.size:,}")
    with _writing(wanted):
        with wanted.part.open("ab" if length else "wb") as part:
            write_json(wanted.state, {"url": wanted.url, "version": version, "bytes": total})
            for block in _blocks(answer):
                part.write(block)
                part.flush()
                length += len(block)
                report(length // MB, total and total // MB, f"{wanted.path.name} (MB)")
        if total is None:
            write_json(wanted.state, {"url": wanted.url, "version": version, "bytes": length})
    if not length:
        _forget(wanted)
        raise ConnectionError("it sent nothing")
    if total is not None and length < total:
        raise ConnectionError(f"the connection broke off at {length:,} of {total:,} bytes")


def _version(answer: http.client.HTTPResponse) -> str:
    """What If-Range can be asked with: a strong entity tag, else the date of the last change, else nothing."""
    tag = answer.headers.get("ETag", "")
    return tag if tag.startswith('"') else answer.headers.get("Last-Modified", "")


def _blocks(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    while True:
        try:
            block = answer.read1(BLOCK)
        except OSError as error:  # as what it is, not as a disk that fails
            raise ConnectionError(_reason(error)) from error
        if not block:
            return
        yield block


@contextmanager
def _writing(wanted: Wanted) -> Iterator[None]:
    """What the disk refuses is told as such, and not taken for a broken connection; what was written stays."""
    try:
        yield
    except ConnectionError:
        raise
    except OSError as error:
        raise DownloadError(error.errno, error.strerror, str(wanted.part)) from None


def _accept(wanted: Wanted) -> None:
    """The part becomes the file, if it is the one that is wanted."""
    sha256 = _sha256(wanted.part)
    wanted.state.unlink(missing_ok=True)
    if wanted.sha256 not in (None, sha256):
        aside = _put_aside(wanted, wanted.part)
        _refuse(wanted, f"has the sha256 {sha256}, not {wanted.sha256} (kept as {aside})")
    with wanted.part.open("rb") as part:
        os.fsync(part.fileno())
    os.replace(wanted.part, wanted.path)


def _forget(wanted: Wanted) -> None:
    wanted.part.unlink(missing_ok=True)
    wanted.state.unlink(missing_ok=True)


def _in_words(error: urllib.error.HTTPError) -> str:
    if error.code in (301, 302, 303, 307, 308):
        return "redirects in circles, or to no web address"
    return f"answered {error.code} {error.reason}"


def _reason(error: BaseException) -> str:
    """Why a connection failed, without the wrapping."""
    inner = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(inner, TimeoutError):
        return "no answer in time"
    if isinstance(inner, http.client.IncompleteRead):
        return "the connection broke off"
    return getattr(inner, "strerror", None) or str(inner) or type(inner).__name__


def _length(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
