"""`bench leaderboard`: the records of this home as a board."""

from __future__ import annotations

import json
from pathlib import Path

import click

from prunebench.leaderboard.record import Record, RecordError, load_record
from prunebench.leaderboard.tables import leaderboard_markdown, rows


def records_of(folder: Path) -> list[Record]:
    """Every readable record under a folder of runs, by run id; a line on standard error for each that is not."""
    records = []
    for path in sorted(folder.glob("*/record.json")):
        try:
            records.append(load_record(path))
        except RecordError as error:
            click.echo(f"bench: left out: {error}", err=True)
    return records


def show(folder: Path, dataset: str | None, split: str, as_json: bool) -> None:
    """Markdown, or rows as JSON, on standard output."""
    everything = records_of(folder)
    records = [
        record for record in everything if record.protocol.split == split and dataset in (None, record.dataset.name)
    ]
    if as_json:
        click.echo(json.dumps({"rows": rows(records)}, indent=1))
    elif records:
        click.echo(leaderboard_markdown(records), nl=False)
    else:
        others = sorted({f"{record.dataset.name} ({record.protocol.split})" for record in everything})
        there = f"there are runs on {', '.join(others)}" if others else "start with: bench run --method dealrec"
        click.echo(f"No runs on the {split} split{f' of {dataset}' if dataset else ''} in {folder}; {there}", err=True)
