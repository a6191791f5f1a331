"""`bench leaderboard`: the records of a folder of runs as a board, shown, published, and checked."""

from __future__ import annotations

import hashlib
import json
import shlex
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from prunebench.benchmark import board_files
from prunebench.benchmark.progress import ConsoleReporter
from prunebench.datasets.files import verify
from prunebench.datasets.schema import DataError
from prunebench.leaderboard.board import Board, Run, make_board, read_board
from prunebench.leaderboard.exports import BOARD, FILES, first_difference
from prunebench.leaderboard.per_user import read_per_user
from prunebench.leaderboard.pictures import FOLDER
from prunebench.leaderboard.record import Record, RecordError, load_record
from prunebench.leaderboard.score_summary import FILE as SCORES
from prunebench.leaderboard.score_summary import read_scores
from prunebench.leaderboard.tables import leaderboard_markdown, rows

RECORD = "record.json"


def records_of(folder: Path) -> list[Record]:
    """Every readable record under a folder of runs, by run id; a line on standard error for each that is not."""
    records = []
    for path in sorted(folder.glob(f"*/{RECORD}")):
        try:
            records.append(load_record(path))
        except RecordError as error:
            _left_out(error)
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
        click.echo(_nothing(folder, dataset, split, everything), err=True)


def build(folder: Path, out: Path, dataset: str | None, split: str, as_json: bool, pictures: bool = True) -> None:
    """Write a board's files to ``out``, with its ``pictures``: all of them or, after an error, none.

    A run whose files are damaged or do not agree is left out with a line. Raises RecordError where no run is left.
    """
    runs, left_out = runs_of(folder, dataset, split)
    for error in left_out:
        _left_out(error)
    if not runs:
        said = _nothing(folder, dataset, split, [] if left_out else records_of(folder))
        raise RecordError(said[:1].lower() + said[1:])
    board = _board(runs, dataset, split, pictures)
    texts = {name: render(board) for name, render in FILES.items()}
    with ConsoleReporter(Console(stderr=True)).stage("pictures") as report:
        drawn = board_files.drawn(board, report)
    board_files.publish(out, texts, drawn)
    if as_json:
        sums = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
        facts = _size(board) | {"left_out": [" ".join(str(error).split()) for error in left_out]}
        click.echo(json.dumps({"out": str(out), "files": sums, "pictures": sorted(drawn), **facts}, indent=1))
    else:
        size = ", ".join(f"{name} {count}" for name, count in _size(board).items())
        what = [*texts, *([f"{len(drawn)} pictures in {FOLDER}"] if drawn else [])]
        click.echo(f"{', '.join(what)} in {out}: {size}")


def check(folder: Path, published: Path) -> dict[str, Any]:
    """What a published board holds; raises RecordError naming its first file and row that is not what the records say.

    The board itself says of which data set and split it is, and whether it has pictures. Of those it is checked that they
    are there, not what they show: other versions of matplotlib draw other bytes.
    """
    anew = shlex.join(["bench", "leaderboard", "build", "--records", str(folder), "--out", str(published)])
    asked = read_board(text_of(published / BOARD, anew), str(published / BOARD))
    runs, left_out = runs_of(folder, asked.dataset, asked.split)
    if left_out:
        raise RecordError(str(left_out[0]))
    board = _board(runs, asked.dataset, asked.split, asked.pictures)
    words = ["--split", asked.split, *(["--dataset", asked.dataset] if asked.dataset else [])]
    remedy = f"{anew} {shlex.join([*words, *([] if asked.pictures else ['--no-plots'])])}"
    for name, render in FILES.items():
        differs = first_difference(name, render(board), text_of(published / name, remedy))
        if differs is not None:
            raise RecordError(
                f"{published / name}, line {differs[0]} ({differs[1]}), is not what the records in {folder} say; if they are right: {remedy}"
            )
    expected = board_files.names(board)
    for name in sorted({*expected} ^ {*board_files.listed(published)}):
        what = "is not among the pictures there" if name in expected else "is a picture of another board"
        raise RecordError(f"{published / FOLDER / name} {what}; build it anew: {remedy}")
    for name in expected:
        if not (published / FOLDER / name).is_file():
            raise RecordError(f"{published / FOLDER / name} is missing; build it anew: {remedy}")
    return {"published": str(published), "files": list(FILES), "pictures": expected, **_size(board)}


def runs_of(folder: Path, dataset: str | None, split: str) -> tuple[list[Run], list[Exception]]:
    """The runs on a data set (None: all) and split under a folder, and why others were left out, by run id."""
    runs: list[Run] = []
    left_out: list[Exception] = []
    for path in sorted(folder.glob(f"*/{RECORD}")):
        try:
            record = load_record(path)
            if record.protocol.split == split and dataset in (None, record.dataset.name):
                runs.append(run_in(path, record))
        except (RecordError, DataError) as error:
            left_out.append(error)
    return runs, left_out


def run_in(path: Path, record: Record) -> Run:
    """The run whose record is at ``path``, its files verified. Raises DataError or RecordError for one that is not whole."""
    listed = verify(path.parent)["files"]
    if record.per_user is None or not {record.per_user, RECORD} <= set(listed):
        raise RecordError(f"{path.parent} has no users' metrics, or a manifest without them; run it again")
    return Run(
        record,
        hashlib.sha256(path.read_bytes()).hexdigest(),
        read_per_user(path.parent / record.per_user, record),
        _selection(path.parent, record) if record.selection.ids_file in listed else None,
        read_scores(path.parent / SCORES) if SCORES in listed else None,
    )


def _selection(folder: Path, record: Record) -> NDArray[np.int64]:
    """The ids of the samples a run kept; its record has their number and sha256."""
    path = folder / str(record.selection.ids_file)
    try:
        ids = np.array(path.read_text(encoding="ascii").split(), np.int64)
    except ValueError as error:
        raise RecordError(f"{path} does not hold sample ids ({error}); run it again") from None
    stated = record.selection.sha256
    whole = stated is None or hashlib.sha256(ids.astype("<i8").tobytes()).hexdigest() == stated
    if not whole or len(ids) != record.selection.count or len(np.unique(ids)) != len(ids):
        raise RecordError(f"{path} does not hold the {record.selection.count} samples its record says; run it again")
    return ids


def _board(runs: list[Run], dataset: str | None, split: str, pictures: bool) -> Board:
    with ConsoleReporter(Console(stderr=True)).stage("statistics") as report:
        return make_board(runs, dataset, split, report=report, pictures=pictures)


def text_of(path: Path, remedy: str) -> str:
    """A published file. Raises RecordError where there is none, with the command that writes it."""
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise RecordError(f"{path} is missing; write it with: {remedy}") from None
    except UnicodeDecodeError as error:
        raise RecordError(f"{path} is no text ({error}); write it with: {remedy}") from None


def _size(board: Board) -> dict[str, int]:
    runs = {run.run for table in board.tables for row in table.rows for run in row.runs}
    return {"tables": len(board.tables), "rows": board.rows, "runs": len(runs)}


def _left_out(error: Exception) -> None:
    click.echo(f"bench: left out: {' '.join(str(error).split())}", err=True)


def _nothing(folder: Path, dataset: str | None, split: str, everything: list[Record]) -> str:
    others = sorted({f"{record.dataset.name} ({record.protocol.split})" for record in everything})
    there = f"there are runs on {', '.join(others)}" if others else "start with: bench run --method dealrec"
    return f"No runs on the {split} split{f' of {dataset}' if dataset else ''} in {folder}; {there}"
