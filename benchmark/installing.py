"""What `bench datasets import` and `download` share: names checked before the reading, and what is said at the end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from prunebench.benchmark.output import print_json
from prunebench.benchmark.plugins import Registry
from prunebench.datasets import listing
from prunebench.datasets.inspect import FEW_TIES
from prunebench.datasets.schema import DataError


def check_name(home: Path, name: str, overwrite: bool) -> None:
    """Raise DataError for a name that no data set can have, or that is taken."""
    if not listing.NAME.fullmatch(name):
        raise DataError(f"{name!r} is no data set name: {listing.NAMING}")
    if name in Registry().names("datasets"):
        raise DataError(f"{name!r} is a built-in data set; choose another --name")
    if not overwrite and any(entry["name"] == name for entry in listing.installed(home)):
        raise DataError(f"data set {name!r} is installed already; --overwrite replaces it, --name gives another name")


def tell(out: Any, entry: dict[str, Any], as_json: bool) -> None:
    """The installed entry on ``out``: in words what came in, what was left out and why, and what to do next."""
    _warn(entry)
    if as_json:
        print_json(out, entry)
        return
    name, meta = entry["name"], entry["meta"]
    out.write(
        f"Installed {name}: {entry['users']:,} users, {entry['items']:,} items, {entry['interactions']:,} interactions, density {entry['density_percent']} %; {entry['samples']:,} samples.\n"
    )
    for reason, count in json.loads(meta.get("dropped", "{}")).items():
        out.write(f"Left out: {reason}: {count:,}\n")
    job = "prune" if meta.get("split") == "none" else "run"
    out.write(f"Next: bench datasets inspect {name}, then bench {job} --dataset {name}\n")


def _warn(entry: dict[str, Any]) -> None:
    ties = float(entry["meta"].get("tied_times", 0))
    if ties >= FEW_TIES:
        click.echo(
            f"bench: WARNING: {ties:.1%} of the steps from one interaction of a user to the next take no time; their order is that of the items' keys, so a sequence says less than it seems to",
            err=True,
        )
    missing, unlisted = (int(entry["meta"].get(count, 0)) for count in ("missing_titles", "unlisted_items"))
    if missing:
        where = f" ({unlisted:,} of them not in the file of items)" if unlisted else ""
        click.echo(
            f"bench: WARNING: {missing:,} of {entry['items']:,} items {'has' if missing == 1 else 'have'} no title{where}; {'its title is' if missing == 1 else 'their titles are'} empty, so that no language model can tell such items apart",
            err=True,
        )
