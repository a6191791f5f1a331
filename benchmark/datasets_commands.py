"""`bench datasets`: import and inspect."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from prunebench.benchmark.plugins import Registry
from prunebench.datasets.inspect import inspect as inspect_dataset
from prunebench.datasets.library import Library
from prunebench.datasets.released import read_dealrec
from prunebench.datasets.schema import DataError, RecDataset


def import_(
    home: Path, *, path: Path | None, layout: str, name: str, overwrite: bool, as_json: bool, **asked: Any
) -> None:
    """Read, check, install atomically."""
    if name in Registry().names("datasets"):
        raise DataError(f"{name!r} is a built-in data set; choose another --name")
    if path is None:
        raise DataError(f"--format {layout} needs the folder to read: bench datasets import FOLDER --format {layout} …")
    dataset = {"dealrec": read_dealrec}[layout](path, name)
    entry = Library(home).install(dataset, overwrite=overwrite)
    if as_json:
        click.echo(json.dumps(entry, indent=1))
    else:
        click.echo(
            f"Installed {name}: {entry['users']:,} users, {entry['items']:,} items, {entry['interactions']:,} interactions, density {entry['density_percent']} %."
        )
        click.echo(f"Next: bench datasets inspect {name}, then bench run --dataset {name}")


def _load(home: Path, name: str) -> RecDataset:
    registry = Registry()
    if name in registry.names("datasets"):
        return registry.resolve("datasets", name)().load()
    return Library(home).load(name)


def inspect(home: Path, name: str, as_json: bool) -> None:
    """Statistics as a table, or all of them as JSON."""
    facts = inspect_dataset(_load(home, name))
    if as_json:
        click.echo(json.dumps(facts, indent=1))
        return
    table = Table(title=f"Data set {name}", show_header=False)
    for key, value in _flat(facts):
        if key != "problems":
            table.add_row(
                key,
                f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value),
            )
    Console().print(table)
    for problem in facts["problems"]:
        click.echo(f"! {problem}")


def _flat(facts: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in facts.items():
        pairs += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]
    return pairs
