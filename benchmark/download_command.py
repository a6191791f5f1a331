"""`bench datasets download`: fetch a public data set, read it, install it."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import cast

from rich.console import Console

from prunebench.benchmark.installing import check_name, tell
from prunebench.benchmark.output import clean_output
from prunebench.benchmark.progress import ConsoleReporter
from prunebench.datasets import layouts, listing
from prunebench.datasets.download import Unreachable, fetch, prove, unproven
from prunebench.datasets.library import Library
from prunebench.datasets.protocol import Protocol, Split
from prunebench.datasets.schema import DataError
from prunebench.datasets.sources import SOURCES, Source


def download(
    home: Path,
    *,
    source: str,
    name: str | None,
    mirror: str | None,
    min_rating: float | None,
    split: str,
    k_core: int,
    noun: str | None,
    drop_bad_rows: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Everything that can be told to be wrong is told before anything is fetched; the files stay for another time."""
    asked = _source(source)
    name = name or asked.name
    check_name(home, name, overwrite)
    wanted = Protocol(min_rating=min_rating, split=cast(Split, split), k_core=k_core)
    layouts.check(asked.layout, name, wanted, drop_bad_rows)
    reporter = ConsoleReporter(Console(stderr=True))
    folder = home / "downloads" / asked.name
    reporter.say(f"  fetching {asked.name} from {mirror or asked.address}")
    try:
        with reporter.stage("download") as report:
            fetch(asked, folder, report, reporter.say, mirror)
    except Unreachable as error:
        raise Unreachable(
            f"{error}; fetch it by hand into {folder} and run this again, or `bench datasets import {folder} --format {asked.layout} --name {name}`"
        ) from None
    reporter.say(f"  reading {folder}")
    with clean_output() as out:
        try:
            dataset = layouts.read(asked.layout, folder, name, wanted, noun or asked.noun, drop_bad_rows)
        except DataError as error:
            if not (doubtful := unproven(asked, folder)):
                raise
            names = " and ".join(path.name for path in doubtful)
            raise DataError(
                f"{error}; nobody publishes a checksum of {names}: if a download is damaged, delete it in {folder} and run this again"
            ) from None
        prove(asked, folder)
        tell(out, Library(home).install(dataset, overwrite=overwrite), as_json)


def _source(name: str) -> Source:
    if name in SOURCES:
        return SOURCES[name]
    if any(entry["name"] == name for entry in listing.KNOWN):
        raise DataError(f"{name!r} is known but cannot be downloaded by name; {listing.how_to_install(name)}")
    close = get_close_matches(name, SOURCES, 3)
    hint = f"did you mean {' or '.join(close)}?" if close else f"there is {', '.join(SOURCES)}"
    raise DataError(f"unknown source {name!r}; {hint}")
