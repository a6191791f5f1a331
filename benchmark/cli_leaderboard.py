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
@click.option("--plots/--no-plots", default=True, show_default=True, help="Draw pictures, in plots in the folder.")
@JSON
def build(out: Path, dataset: str | None, split: str, records: Path | None, plots: bool, as_json: bool) -> None:
    """Write the leaderboard as markdown, CSV, LaTeX and JSON, with differences, intervals, ranks and pictures.

    Equal records give equal files, byte for byte; pictures, with one version of matplotlib. `bench leaderboard check` holds
    them to the records. Pictures of an earlier board there are removed.
    """
    from prunebench.benchmark import boards

    boards.build(records or home_folder() / "runs", out, dataset, split, as_json, plots)


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
    """Fail (exit code 2) where a published leaderboard is not what its records say.

    So are pages of `bench reproduce` under DIR, but those made with a plugin, whose code is not run here.
    """
    from prunebench.benchmark import checks

    beside = published / "records"
    folder = records or (beside if beside.is_dir() else home_folder() / "runs")
    checks.check(home_folder(), folder, published, as_json)


@leaderboard.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN…")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE.zip|DIR",
    help="Archive to write, or a folder for one with a name of its own.",
)
@click.option("--overwrite", is_flag=True, help="Replace what is at --out.")
@click.option(
    "--with-paths", is_flag=True, help="Submit a run although its configuration names a folder of this machine."
)
@RECORDS
@JSON
def submit(
    runs: tuple[str, ...], out: Path, overwrite: bool, with_paths: bool, records: Path | None, as_json: bool
) -> None:
    """Pack recorded runs for somebody else's board.

    One file, and a word on what is in it. RUN: a run, see `bench ls runs`; its first letters do. Only whole runs on the test split are packed. Equal runs give
    equal files, byte for byte.
    """
    from prunebench.benchmark import submissions

    submissions.submit(home_folder(), records or home_folder() / "runs", runs, out, overwrite, with_paths, as_json)


@leaderboard.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path, exists=True), metavar="[FILE]…")
@click.option(
    "--dataset-from",
    default=None,
    metavar="NAME",
    help="Installed data set to hold every run against.  [default: the one with the run's fingerprint, if it is here]",
)
@click.option(
    "--add",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    metavar="FOLDER",
    help="Folder of records to put the runs into if all hold; no run there is ever replaced.",
)
@JSON
def validate(files: tuple[Path, ...], dataset_from: str | None, add: Path | None, as_json: bool) -> None:
    """Refuse submitted runs that do not hold; add others.

    Exit code 2 and a line per reason where hashes, protocol, users, figures, selections or bills do not agree. FILE is what `bench leaderboard submit` wrote, a run's folder, or a folder of records; without any,
    leaderboard/published/records. Nothing is unpacked to disk, and nothing in a file is run.
    """
    from prunebench.benchmark import submissions

    if not files and not (PUBLISHED / "records").is_dir():
        raise click.UsageError(f"give a file or folder to validate; there is no {PUBLISHED / 'records'} here")
    submissions.validate(home_folder(), files or (PUBLISHED / "records",), dataset_from, add, as_json)
