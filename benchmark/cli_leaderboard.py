"""`bench leaderboard`: show, publish and check boards; options and help only."""

from __future__ import annotations

from pathlib import Path

import click

from prunebench.benchmark.cli_options import JSON, Plain, home_folder

PUBLISHED = Path("leaderboard/published")
FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)
DATASET = click.option("--dataset", default=None, help="Only this data set.")
SPLIT = click.option(
    "--split",
    type=click.Choice(["valid", "test"]),
    default="test",
    show_default=True,
    help="Runs evaluated on this split.",
)
RECORDS = click.option(
    "--records",
    type=FOLDER,
    default=None,
    metavar="FOLDER",
    help="Folder of runs to read.  [default: $PRUNEBENCH_HOME/runs]",
)


@click.group(cls=Plain)
def leaderboard() -> None:
    """Accuracy and cost of all recorded runs."""


@leaderboard.command()
@DATASET
@SPLIT
@RECORDS
@JSON
def show(dataset: str | None, split: str, records: Path | None, as_json: bool) -> None:
    """Print the leaderboard as markdown: means and costs, no statistics."""
    from prunebench.benchmark import boards

    boards.show(records or home_folder() / "runs", dataset, split, as_json)


@leaderboard.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    metavar="DIR",
    help="Folder to write to; files of an earlier board there are replaced.",
)
@DATASET
@SPLIT
@RECORDS
@JSON
def build(out: Path, dataset: str | None, split: str, records: Path | None, as_json: bool) -> None:
    """Write the leaderboard as markdown, CSV, LaTeX and JSON, with differences, intervals and ranks.

    Equal records give equal files, byte for byte. `bench leaderboard check` holds them to the records.
    """
    from prunebench.benchmark import boards

    boards.build(records or home_folder() / "runs", out, dataset, split, as_json)


@leaderboard.command()
@click.option(
    "--published",
    type=FOLDER,
    default=PUBLISHED,
    show_default=True,
    metavar="DIR",
    help="Folder that `bench leaderboard build` has written to.",
)
@click.option(
    "--records",
    type=FOLDER,
    default=None,
    metavar="FOLDER",
    help="Folder of runs to read.  [default: records in DIR if it is there, else $PRUNEBENCH_HOME/runs]",
)
@JSON
def check(published: Path, records: Path | None, as_json: bool) -> None:
    """Fail (exit code 2) where a published leaderboard is not what its records say."""
    from prunebench.benchmark import boards

    beside = published / "records"
    boards.check(records or (beside if beside.is_dir() else home_folder() / "runs"), published, as_json)
