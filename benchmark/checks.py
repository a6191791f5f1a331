"""`bench leaderboard check`: a published board, and the paper's tables and figures beside it, held against the records."""

from __future__ import annotations

import json
import shlex
from functools import cache
from pathlib import Path

import click

from prunebench.benchmark import boards, cli_reproduce, reproduce
from prunebench.benchmark.errors import BAD_INPUT
from prunebench.leaderboard.board import Run
from prunebench.leaderboard.exports import first_difference
from prunebench.leaderboard.record import RecordError
from prunebench.leaderboard.reproduction_page import Reproduction, read_reproduction


def check(home: Path, folder: Path, published: Path, as_json: bool) -> None:
    """Raise RecordError naming the first file and line under ``published`` that is not what the records in ``folder`` say."""
    facts = boards.check(folder, published)
    held, left_out = pages(home, folder, published)
    for path, command in left_out.items():
        click.echo(f"bench: not checked: {path} was made with a plugin: {command!r}", err=True)
    if as_json:
        named = {"pages": list(map(str, held)), "not_checked": list(map(str, left_out))}
        click.echo(json.dumps(facts | named, indent=1))
        return
    names = [*facts["files"], *(str(path.relative_to(published)) for path in held)]
    click.echo(f"{', '.join(names)} in {published} are what the {facts['runs']} records in {folder} say")


def pages(home: Path, folder: Path, published: Path) -> tuple[list[Path], dict[Path, str]]:
    """The pages of `bench reproduce` under ``published``, each of which is what its command makes of the records.

    Those made with a plugin are not checked and come with their commands: what is published by others must not choose which
    code runs here. The groups of users in figure 6 are taken from the page: no record has the losses that make them.
    """

    @cache
    def runs_of(split: str) -> list[Run]:
        runs, left_out = boards.runs_of(folder, None, split)
        if left_out:
            raise RecordError(str(left_out[0]))
        return runs

    held, left_out = [], {}
    found = {path.with_suffix("") for path in published.rglob("*") if path.suffix in (".md", ".json")}
    for path in sorted(path.with_suffix(".json") for path in found if path.name in reproduce.NAMED):
        asked = _asked(path)
        if asked.plugins:
            left_out[path] = asked.command
            continue
        try:
            made = reproduce.page_of(home, asked, runs_of(reproduce.study_of(asked).split), before=path)
        except BAD_INPUT as error:
            raise RecordError(f"{path}: {error}") from error
        _hold(path.parent, made, folder, f"{asked.command} --records {_word(folder)} --out {_word(path.parent)}")
        held.append(path.with_suffix(".md"))
    return held, left_out


def _word(path: Path) -> str:
    return shlex.quote(str(path))


def _hold(where: Path, made: Reproduction, folder: Path, remedy: str) -> None:
    for name, text in reproduce.texts(made).items():
        differs = first_difference(name, text, boards.text_of(where / name, remedy))
        if differs is not None:
            raise RecordError(
                f"{where / name}, line {differs[0]} ({differs[1]}), is not what the records in {folder} say; if they are right: {remedy}"
            )
    for name in reproduce.picture_names(made):
        if not (where / name).is_file():
            raise RecordError(f"{where / name} is missing; make it anew: {remedy}")


def _asked(path: Path) -> reproduce.Asked:
    """What a page says it is of. Raises RecordError where that is no command that `bench reproduce` writes."""
    if not path.is_file():
        raise RecordError(f"{path} is missing or no file; a page is made by: bench reproduce {path.stem} --out DIR")
    command = read_reproduction(path).command
    fault = RecordError(f"{path}: {command!r} makes no page of that name; delete it")
    try:
        given = cli_reproduce.reproduce.make_context("reproduce", shlex.split(command)[2:], help_option_names=[]).params
    except (click.ClickException, ValueError):
        raise fault from None
    names = ("name", "scale", "dataset", "backbones", "llm", "seeds", "plugin_files")
    asked = reproduce.Asked(*(given[name] for name in names))
    if asked.command != command or asked.name != path.stem:
        raise fault
    return asked
