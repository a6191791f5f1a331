"""`bench leaderboard submit` and `validate`: recorded runs for somebody else's board, and those of somebody else for ours."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from prunebench.benchmark.declared import paths_in, without_folders
from prunebench.benchmark.metrics import CUTOFFS
from prunebench.benchmark.progress import ConsoleReporter
from prunebench.benchmark.recorded import find_folder
from prunebench.benchmark.truths import Truths, name_faults
from prunebench.datasets.files import atomic_file, atomic_folder
from prunebench.leaderboard.archive import (
    LARGEST,
    MANIFEST,
    RECORD,
    Files,
    RefusedError,
    manifest,
    pack,
    read_archive,
    read_folder,
    shown,
)
from prunebench.leaderboard.record import Record, RecordError
from prunebench.leaderboard.validation import Read, read_run, run_faults

NOTE = """\
Recorded runs of prunebench, to be added to a leaderboard:

    bench leaderboard validate THIS_FILE --add FOLDER_OF_RECORDS

For each run a folder with
  record.json    what was run: configuration, command, seeds, versions; data set by name, fingerprint and counts;
                 metrics; what each stage cost; the hardware and the platform in words
  per_user.npz   recall and NDCG of each test user, by the user's row number in the data set
  selection.txt  the samples that were kept, by row number
  scores.json    how the method's scores are spread, where it has one per sample
  manifest.json  size and sha256 of each of these

Nothing else is in here: no titles, no interactions, no keys of users or items, no models, no code.

"""


@dataclass
class Submitted:
    """A run of a file or folder, its files, and what is wrong with it. ``against`` says what its users were held to."""

    source: str
    run: str
    read: Read
    files: Files
    faults: list[str] = field(default_factory=list)
    against: str | None = None
    by_data: bool = False

    @property
    def record(self) -> Record | None:
        return self.read.record

    @property
    def words(self) -> str:
        """The run in a line."""
        record = self.record
        if record is None:
            return f"run {shown(self.run)}"
        return f"{record.run}  {record.method} × {record.backbone} on {record.dataset.name}, {record.budget:,} samples, seed {record.seeds.selection}"


# --- submit -----------------------------------------------------------------------------------------------------------


def submit(
    home: Path, records: Path, names: Sequence[str], out: Path, overwrite: bool, with_paths: bool, as_json: bool
) -> None:
    """Pack runs into an archive that `validate` takes. Raises RecordError for what it would refuse; then nothing is written."""
    folders = list(dict.fromkeys(find_folder(records, name) for name in names))
    found = [_whole(folder) for folder in folders]
    _hold(found, Truths(home))
    for one in found:
        if one.faults:
            raise RefusedError(f"run {one.run} cannot be submitted", one.faults)
    declared = {one.run: _declared(one, with_paths) for one in found}
    words = [one.words for one in sorted(found, key=lambda one: one.run)]
    content = pack(declared, NOTE + "".join(f"{line}\n" for line in words))
    target = out if out.suffix == ".zip" else out / f"prunebench-{_called(list(declared))}.zip"
    if not (target.is_file() and target.read_bytes() == content):
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(target, overwrite=overwrite) as file:
            file.buffer.write(content)
    sha256 = hashlib.sha256(content).hexdigest()
    if as_json:
        facts = {"out": str(target), "bytes": len(content), "sha256": sha256, "runs": sorted(declared)}
        click.echo(json.dumps(facts, indent=1))
        return
    click.echo(f"Wrote {target}: {len(content):,} bytes, sha256 {sha256[:16]}…")
    for line in words:
        click.echo(f"  {line}")
    click.echo(
        "What leaves: configuration, command (files without their folders), seeds, versions,\n"
        "metrics of each test user and ids of the kept samples by row number, costs, hardware\n"
        "in words. No titles, interactions, keys, models or code. README.txt in it says the same."
    )


def _whole(folder: Path) -> Submitted:
    files, name = read_folder(folder), folder.absolute().name
    return Submitted(str(folder), name, read_run(name, files), files)


def _declared(one: Submitted, with_paths: bool) -> Files:
    """A run's files without the folders of this machine: those in the command are cut off, any other is not ours to change.

    Raises RecordError for those others, unless they are to go ``with_paths``.
    """
    values = json.loads(one.files[RECORD])
    command = without_folders(values.get("command", ""))
    named = paths_in({key: value for key, value in values.items() if key != "command"})
    if named and not with_paths:
        where, path = next(iter(named.items()))
        more = f" (and {len(named) - 1} more)" if len(named) > 1 else ""
        raise RecordError(
            f"run {one.run} names a path of this machine in {where}: {path!r}{more}; it would be public, and nobody else could repeat the run: use a Hub id or a relative path, or submit --with-paths"
        )
    if command == values.get("command", ""):
        return one.files
    files = one.files | {RECORD: (json.dumps(values | {"command": command}, indent=2) + "\n").encode()}
    return files | {MANIFEST: manifest(files)}


def _called(runs: list[str]) -> str:
    return runs[0] if len(runs) == 1 else hashlib.sha256(" ".join(sorted(runs)).encode()).hexdigest()[:12]


# --- validate ---------------------------------------------------------------------------------------------------------


def validate(home: Path, paths: Sequence[Path], dataset_from: str | None, add: Path | None, as_json: bool) -> None:
    """Hold runs against themselves, each other and the data; add them to a folder of records where all of them stand.

    Raises RecordError after a line per reason where any does not: then nothing is added.
    """
    if add is not None and (add / RECORD).exists():
        raise RecordError(f"--add {add} is a run, not a folder of records")
    found: list[Submitted] = []
    refused: dict[str, list[str]] = {}
    with ConsoleReporter(Console(stderr=True)).stage("reading") as report:
        for done, path in enumerate(paths):
            report(done, len(paths), str(path))
            try:
                found += _runs(path)
            except RefusedError as error:
                refused[str(path)] = error.reasons
    found = list({(one.run, *sorted(one.files.items())): one for one in reversed(found)}.values())[::-1]
    there = [one for one in _runs(add, empty=True) if one.record is not None] if add else []
    _hold(found, Truths(home, dataset_from), there, str(add))
    _check_doubles(found, there, add)
    added = [] if refused or any(one.faults for one in found) or add is None else _add(found, add)
    if as_json:
        click.echo(json.dumps(_plain(paths, found, refused, added), indent=1))
    _tell(found, refused, add, added, as_json)


def _runs(path: Path, empty: bool = False) -> list[Submitted]:
    """The runs of an archive, of a run's folder, or of a folder of such folders. Raises RefusedError."""
    if path.is_file():
        return [Submitted(str(path), run, read_run(run, files), files) for run, files in read_archive(path)]
    if (path / RECORD).exists():
        return [_whole(path)]
    folders = sorted(
        {one.parent for name in LARGEST for one in path.glob(f"*/{name}") if not one.parent.name.startswith(".")}
    )
    if not folders and not empty:
        raise RefusedError(str(path), ["holds no runs: give a file that `submit` wrote, or a folder of records"])
    return [_whole(folder) for folder in folders]


def _hold(found: list[Submitted], truths: Truths, there: Sequence[Submitted] = (), where: str = "") -> None:
    """Fill in the faults of runs. Those ``there`` already, in the folder ``where``, vouch for the users."""
    now = datetime.now(UTC)
    truths.hear(_read_whole(there), f"the runs in {where}")
    truths.hear(_read_whole(found), "most of the runs given", least=2)
    for one in found:
        one.faults = list(one.read.faults)
        if one.record is None:
            continue
        truth = truths.of(one.record)
        one.faults += name_faults(one.record, truths.registry) + run_faults(one.read, truth, CUTOFFS, now)
        one.against = truth.source if truth else None
        one.by_data = truth is not None and truth.targets is not None


def _read_whole(runs: Sequence[Submitted]) -> list[tuple[Record, Any]]:
    return [
        (one.read.record, one.read.users.users)
        for one in runs
        if one.read.record is not None and one.read.users is not None and not one.read.faults
    ]


def _check_doubles(found: list[Submitted], there: list[Submitted], add: Path | None) -> None:
    """A run is known by its name, a row's cell by configuration and seeds: neither may be taken twice."""
    named = Counter(one.run for one in found)
    by_run = {one.run: one for one in there}
    by_cell = {_cell(one): one.run for one in there}
    for one in found:
        if named[one.run] > 1:
            one.faults.append(f"is given {named[one.run]} times; give it once")
        known = by_run.get(one.run)
        if known is not None and known.files[RECORD] != one.files.get(RECORD):
            one.faults.append(f"{add} has another record of this run; nothing there is replaced")
        elif known is None and one.record is not None and _cell(one) in by_cell:
            one.faults.append(
                f"{add} has run {by_cell[_cell(one)]} with this configuration and these seeds; a board shows one of them"
            )


def _cell(one: Submitted) -> tuple[str, str]:
    assert one.record is not None
    return one.record.digest, one.record.seeds.model_dump_json()


def _add(found: list[Submitted], add: Path) -> list[str]:
    """Write the runs that are not there yet, each folder whole or not at all."""
    added = []
    for one in found:
        if (add / one.run).exists():
            continue
        with atomic_folder(add / one.run) as fresh:
            for name, content in one.files.items():
                if name != MANIFEST:
                    (fresh / name).write_bytes(content)
        added.append(one.run)
    return added


def _tell(
    found: list[Submitted], refused: dict[str, list[str]], add: Path | None, added: list[str], as_json: bool
) -> None:
    lines = [f"{_printable(source)}: {reason}" for source, reasons in refused.items() for reason in reasons]
    lines += [f"{_printable(one.source)}, run {shown(one.run)}: {fault}" for one in found for fault in one.faults]
    left = "; nothing was added" if add else ""
    if len(lines) == 1:
        raise RecordError(lines[0] + left)
    if lines:
        for line in lines:
            click.echo(f"bench: {line}", err=True)
        bad = sum(bool(one.faults) for one in found) + len(refused)
        raise RecordError(f"{bad} of {len(found) + len(refused)} submissions do not hold, as said above{left}")
    if as_json:
        return
    for line in _summary(found):
        click.echo(line)
    if add is not None:
        click.echo(
            f"Added {len(added)} to {add}"
            + (f", {len(found) - len(added)} were there" if len(found) > len(added) else "")
        )


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _summary(found: list[Submitted]) -> list[str]:
    groups = Counter((one.record.dataset.name, one.against, one.by_data) for one in found if one.record is not None)
    lines = [f"{len(found)} {'run holds' if len(found) == 1 else 'runs hold'}"]
    for (name, against, by_data), count in sorted(groups.items(), key=str):
        if by_data:
            how = f"users, targets and samples are those of {against}"
        elif against:
            how = f"not installed here: users are those of {against}, samples are within its counts"
        else:
            how = "not installed here, and no other run on it: users and samples are only within its counts"
        lines.append(f"  {count} on {name}: {how}")
    plugins = Counter(part for one in found if one.record is not None for part in one.record.config.get("plugins", {}))
    lines += [f"  {count} with a {part} from a plugin file, marked as such" for part, count in sorted(plugins.items())]
    return lines


def _plain(
    paths: Sequence[Path], found: list[Submitted], refused: dict[str, list[str]], added: list[str]
) -> dict[str, Any]:
    runs = [
        {
            "source": one.source,
            "run": one.run,
            "holds": not one.faults,
            "faults": one.faults,
            "against": one.against,
            "by_data": one.by_data,
        }
        for one in found
    ]
    return {"given": [str(path) for path in paths], "refused": refused, "runs": runs, "added": added}
