"""Content-addressed artefacts: each built once, under the hash of all that made it, with its own bill."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
import logging
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from prunebench.benchmark.attempts import Attempts
from prunebench.benchmark.contracts import STAGE_NAME
from prunebench.benchmark.machine import disk_failed, disk_full
from prunebench.benchmark.meter import Bill, Meter
from prunebench.datasets.files import MANIFEST, NewerError, read_json, refuse_newer, verify, write_json, write_manifest
from prunebench.datasets.schema import DataError

logger = logging.getLogger(__name__)

_CARD = "artefact.json"
_FORMAT = 1


class StoreError(RuntimeError):
    """The store cannot be read or written, or was asked for the impossible; one line says what, where, what to do."""


@dataclass(frozen=True)
class Artefact:
    """A finished stage.

    ``folder``: its files, not to be changed; ``bill``: what building it cost, whoever built it and whenever;
    ``killed``: what attempts cost that came to nothing; ``info``: what ``make`` returned; ``phase``: the part of a run
    that pays for it; ``upstream``: hashes of its declared inputs; ``ancestors``: everything it was made from, inputs
    before what uses them, each with its bill, whether or not it is still on disk; ``created``: seconds since 1970;
    ``hit``: found, not built, by the call that returned it.
    """

    stage: str
    version: int
    hash: str
    folder: Path
    phase: str
    bill: Bill
    killed: Bill
    info: dict[str, Any]
    upstream: tuple[str, ...]
    created: float
    ancestors: tuple[Artefact, ...] = ()
    hit: bool = field(default=True, compare=False)


@dataclass
class Workspace:
    """Where a stage is built. ``folder`` starts empty and becomes the artefact; ``scratch`` is what an earlier attempt
    that was cut off had kept of it."""

    folder: Path
    scratch: Path
    _attempts: Attempts
    _meter: Meter
    _used: list[Artefact] = field(default_factory=list)

    def keep(self) -> None:
        """Say that the work so far is safe in ``scratch``: its files, and their cost, count even if this attempt is killed.

        Files are vouched for by name: write a newer checkpoint under another name, keep, then remove the older one.
        """
        self._attempts.keep(self._meter.bill)

    def include(self, bill: Bill) -> None:
        """Add what another process spent on this stage."""
        self._meter.include(bill)


_building: ContextVar[tuple[tuple[str, Workspace], ...]] = ContextVar("building", default=())


class Store:
    """Artefacts under ``home/store/STAGE/HASH/``, unfinished ones under ``home/scratch``; processes may share it.

    ``device`` overrides the hardware written into bills, ``heartbeat_s`` is how often a running attempt's cost is
    written down, in seconds; ``say`` is told whom one waits for. Without ``builds``, what is not there is an error.
    """

    def __init__(
        self,
        home: Path,
        device: str | None = None,
        heartbeat_s: float = 3.0,
        say: Callable[[str], None] = logger.info,
        builds: bool = True,
    ) -> None:
        self.home = Path(home).resolve()
        self._device = device
        self._heartbeat_s = heartbeat_s
        self._say = say
        self._builds = builds
        self._verified: set[str] = set()

    def get_or_build(
        self,
        stage: str,
        version: int,
        key: dict[str, Any],
        make: Callable[[Workspace], dict[str, Any] | None],
        upstream: Sequence[Artefact] = (),
        phase: str = "",
    ) -> Artefact:
        """The artefact of ``stage`` for these inputs: found, or built by ``make``.

        The hash covers stage, version, key (anything JSON) and the upstream hashes in their order. ``make`` fills
        ``workspace.folder`` and returns small JSON-able facts. An artefact got while another is being made is billed to
        itself alone and enters the other's ancestors, but not its hash: the key must say what decides it. Raises
        StoreError for a key or info that is not JSON, a stage that needs itself, and disks that cannot be written.
        Whatever ``make`` raises passes through and leaves nothing behind but its scratch folder.
        """
        address = self.address(stage, version, key, upstream)
        enclosing = _building.get()
        if any(outer == address for outer, _ in enclosing):
            raise StoreError(f"stage {stage} ({address[:8]}) needs itself to be built")
        with enclosing[-1][1]._meter.paused() if enclosing else contextlib.nullcontext():
            artefact = self._load(stage, address)
            if artefact is None or self._scratch(stage, address).exists():
                with self.lock(f"{stage}-{address}", lambda: self._who_builds(stage, address)):
                    artefact = self._load(stage, address, repair=True)
                    if artefact is None:
                        artefact = self._build(stage, version, key, address, make, upstream, phase)
                    with _disk(self.home):
                        shutil.rmtree(self._scratch(stage, address), ignore_errors=True)
        if enclosing:
            enclosing[-1][1]._used.append(artefact)
        return artefact

    def address(self, stage: str, version: int, key: dict[str, Any], upstream: Sequence[Artefact] = ()) -> str:
        """Hash of everything that decides an artefact's content, 20 hex digits. Raises StoreError for a bad key."""
        if not STAGE_NAME.fullmatch(stage):
            raise StoreError(f"stage name {stage!r}: use lower-case letters, digits, '_', '-' and '.'")
        identity = {"stage": stage, "version": version, "key": key, "upstream": [parent.hash for parent in upstream]}
        return hashlib.sha256(_canonical(identity, f"key of stage {stage}").encode()).hexdigest()[:20]

    def lineage(self, artefacts: Iterable[Artefact]) -> list[Artefact]:
        """The given artefacts and all their ancestors, each once, inputs before what uses them.

        Bills come from the artefacts themselves, so they do not depend on what is still on disk. Where an ancestor was
        lost and built again, the first building counts: a run costs today what it cost when it was first made.
        """
        found: dict[str, Artefact] = {}
        for artefact in artefacts:
            for member in (*artefact.ancestors, artefact):
                known = found.setdefault(member.hash, member)
                if member.created < known.created:
                    found[member.hash] = member
        return list(found.values())

    def _folder(self, stage: str, address: str) -> Path:
        return self.home / "store" / stage / address

    def _scratch(self, stage: str, address: str) -> Path:
        return self.home / "scratch" / stage / address

    @contextlib.contextmanager
    def lock(self, name: str, whom: Callable[[], str]) -> Iterator[None]:
        """One process at a time; the operating system drops a dead one's lock. ``whom``: who holds it, in words."""
        path = self.home / "locks" / f"{name}.lock"
        with _disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path)
            started = time.monotonic()
            for patience in itertools.chain([2.0], itertools.repeat(15.0)):
                with contextlib.suppress(Timeout):
                    lock.acquire(timeout=patience)
                    break
                self._say(f"  waiting for {whom()}, {time.monotonic() - started:.0f} s")
        try:
            yield
        finally:
            lock.release()

    def _who_builds(self, stage: str, address: str) -> str:
        process = Attempts(self._scratch(stage, address), self._heartbeat_s).process()
        return f"process {process or 'unknown'} to build {stage}  [{address[:8]}]"

    def _build(
        self,
        stage: str,
        version: int,
        key: dict[str, Any],
        address: str,
        make: Callable[[Workspace], dict[str, Any] | None],
        upstream: Sequence[Artefact],
        phase: str,
    ) -> Artefact:
        if not self._builds:
            raise StoreError(
                f"{self._folder(stage, address)} is not here, where another process built it; all processes of a run need the same PRUNEBENCH_HOME on a disk they share"
            )
        scratch, output = self._scratch(stage, address), self._scratch(stage, address) / "output"
        with _disk(scratch):
            shutil.rmtree(output, ignore_errors=True)
            output.mkdir(parents=True)
            attempts = Attempts(scratch, self._heartbeat_s)
            kept, killed = attempts.resume()
        workspace = Workspace(output, attempts.checkpoints, attempts, Meter(self._device))
        token = _building.set((*_building.get(), (address, workspace)))
        try:
            with _disk(scratch, making=True), attempts.running(workspace._meter):
                info = make(workspace) or {}
        except BaseException:
            shutil.rmtree(output, ignore_errors=True)
            raise
        finally:
            _building.reset(token)
        artefact = Artefact(
            stage=stage,
            version=version,
            hash=address,
            folder=self._folder(stage, address),
            phase=phase,
            bill=kept + workspace._meter.bill,
            killed=killed,
            info=json.loads(_canonical(info, f"info of stage {stage}")),
            upstream=tuple(parent.hash for parent in upstream),
            created=time.time(),
            ancestors=tuple(self.lineage([*upstream, *workspace._used])),
            hit=False,
        )
        with _disk(artefact.folder):
            self._publish(artefact, key, output)
        return artefact

    def _publish(self, artefact: Artefact, key: dict[str, Any], output: Path) -> None:
        for name in (_CARD, MANIFEST):
            if (output / name).exists():
                raise StoreError(f"stage {artefact.stage} wrote {name}, a name the store keeps for itself")
        card = {"format": _FORMAT, **_to_json(artefact), "key": key, "created_by": created_by()}
        write_json(output / _CARD, {**card, "ancestors": [_to_json(ancestor) for ancestor in artefact.ancestors]})
        write_manifest(output)
        artefact.folder.parent.mkdir(parents=True, exist_ok=True)
        output.rename(artefact.folder)
        self._verified.add(artefact.hash)

    def _load(self, stage: str, address: str, repair: bool = False) -> Artefact | None:
        """The artefact if whole, else None; ``repair`` (under the lock) clears a damaged one away, with a warning."""
        folder = self._folder(stage, address)
        with _disk(folder):
            if not folder.exists():
                return None
            try:
                return self._read(folder, address)
            except NewerError as newer:
                raise StoreError(f"{newer}, or set another PRUNEBENCH_HOME") from None
            except (ValueError, LookupError, TypeError, AttributeError, FileNotFoundError) as damage:
                # A flipped byte may change a checksum, a key or a type; without the lock, a file may vanish under us.
                if repair:
                    logger.warning("artefact %s/%s is damaged (%s); building it again", stage, address, damage)
                    shutil.rmtree(folder)
                return None

    def _read(self, folder: Path, address: str) -> Artefact:
        if address in self._verified:
            _check_sizes(folder)
        else:
            verify(folder)
        card = read_json(folder / _CARD)
        refuse_newer(folder, card, _FORMAT)
        if card.get("format") != _FORMAT or card["hash"] != address:
            raise DataError(f"{folder / _CARD} is not that of {address} in format {_FORMAT}")
        self._verified.add(address)
        ancestors = (_from_json(entry, self._folder(entry["stage"], entry["hash"])) for entry in card["ancestors"])
        return replace(_from_json(card, folder), ancestors=tuple(ancestors))


def _check_sizes(folder: Path) -> None:
    """The cheap check, for what this process has verified before."""
    for name, entry in read_json(folder / MANIFEST)["files"].items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != entry["bytes"]:
            raise DataError(f"{path} is missing or has another size")


def _canonical(data: Any, what: str) -> str:
    try:
        return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise StoreError(f"{what} is not JSON: {error}") from None


def _to_json(artefact: Artefact) -> dict[str, Any]:
    return {
        "stage": artefact.stage,
        "version": artefact.version,
        "hash": artefact.hash,
        "phase": artefact.phase,
        "bill": artefact.bill.to_json(),
        "killed": artefact.killed.to_json(),
        "info": artefact.info,
        "upstream": list(artefact.upstream),
        "created": artefact.created,
    }


def _from_json(entry: dict[str, Any], folder: Path) -> Artefact:
    return Artefact(
        stage=entry["stage"],
        version=entry["version"],
        hash=entry["hash"],
        folder=folder,
        phase=entry["phase"],
        bill=Bill.from_json(entry["bill"]),
        killed=Bill.from_json(entry["killed"]),
        info=entry["info"],
        upstream=tuple(entry["upstream"]),
        created=entry["created"],
    )


@contextlib.contextmanager
def _disk(where: Path, making: bool = False) -> Iterator[None]:
    """Tell what the disk refuses as the store's; while an artefact is ``making``, other failures are its maker's."""
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        if not disk_failed(error) and (making or not isinstance(error, OSError)):
            raise
        place = getattr(error, "filename", None) or where
        said = getattr(error, "strerror", None) or ("no space left on the disk" if disk_full(error) else str(error))
        hint = "free some space" if disk_full(error) else "check that the store is writable"
        raise StoreError(f"{place}: {said}; {hint}, or set another PRUNEBENCH_HOME") from error


@functools.cache
def created_by() -> dict[str, str | None]:
    """Version and, in a source checkout with git, commit of this code: recorded with artefacts, never hashed."""
    root = Path(__file__).resolve().parents[1]
    commit = None
    if (root / ".git").exists():
        command = [
            "git",
            "--no-optional-locks",
            "-C",
            os.fspath(root),
            "describe",
            "--always",
            "--abbrev=40",
            "--dirty",
            "--exclude=*",
        ]
        with contextlib.suppress(FileNotFoundError):
            commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None
    return {"prunebench": metadata.version("prunebench"), "commit": commit}
