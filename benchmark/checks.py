"""`bench leaderboard check`: a published board, and the paper's tables and figures beside it, held against the records."""

from __future__ import annotations

import json
import shlex
from functools import cache
from pathlib import Path

import click

from prunebench.benchmark import boards, cli_reproduce, reproduce
from prunebench.leaderboard.board import Run
from prunebench.leaderboard.exports import first_difference
from prunebench.leaderboard.record import RecordError
from prunebench.leaderboard.reproduction_page import read_reproduction


def check(home: Path, folder: Path, published: Path, as_json: bool) -> None:
    """Raise RecordError naming the first file and line under ``published`` that is not what the records in ``folder`` say."""
    facts = boards.check(folder, published)
    found = pages(home, folder, published)
    if as_json:
        click.echo(json.dumps(facts | {"pages": [str(path) for path in found]}, indent=1))
        return
    names = [*facts["files"], *(str(path.relative_to(published)) for path in found)]
    click.echo(f"{', '.join(names)} in {published} are what the {facts['runs']} records in {folder} say")


def pages(home: Path, folder: Path, published: Path) -> list[Path]:
    """The pages of `bench reproduce` under ``published``, each of which is what its command makes of the records.

    The groups of users in figure 6 are taken from the page itself: no record has the losses that make them. One made with a
    plugin is left out with a line: what is published by others must not choose which code runs here.
    """
    runs_of = cache(lambda split: boards.runs_of(folder, None, split)[0])
    found = []
    for path in sorted(published.rglob("*.json")):
        if path.stem in reproduce.NAMED and folder not in path.parents:
            command = read_reproduction(path).command
            asked = _asked(path, command)
            if asked.plugins:
                click.echo(f"bench: not checked: {path} was made with a plugin: {command}", err=True)
                continue
            _check(path, home, asked, runs_of(reproduce.study_of(asked).split), folder)
            found.append(path.with_suffix(".md"))
    return found


def _asked(path: Path, command: str) -> reproduce.Asked:
    try:
        given = cli_reproduce.reproduce.make_context("reproduce", shlex.split(command)[2:]).params
    except (click.ClickException, click.exceptions.Exit, ValueError):
        raise RecordError(f"{path}: {command!r} is no command of `bench reproduce`; delete it") from None
    names = ("name", "scale", "dataset", "backbones", "llm", "seeds", "plugin_files")
    return reproduce.Asked(*(given[name] for name in names))


def _check(path: Path, home: Path, asked: reproduce.Asked, runs: list[Run], folder: Path) -> None:
    made = reproduce.page_of(home, asked, runs, before=path)
    remedy = f"{asked.command} --records {shlex.quote(str(folder))} --out {shlex.quote(str(path.parent))}"
    files = reproduce.texts(made)
    if path.name not in files:
        raise RecordError(f"{path} is of {made.name}, by its command; make it anew: {remedy}")
    for name, text in files.items():
        differs = first_difference(name, text, boards.text_of(path.parent / name, remedy))
        if differs is not None:
            raise RecordError(
                f"{path.parent / name}, line {differs[0]} ({differs[1]}), is not what the records in {folder} say; if they are right: {remedy}"
            )
    for name in reproduce.picture_names(made):
        if not (path.parent / name).is_file():
            raise RecordError(f"{path.parent / name} is missing; make it anew: {remedy}")
