"""`bench datasets`: import, download and inspect; options and help only."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from prunebench.benchmark.cli_options import JSON, Plain, home_folder, options

FILE = click.Path(path_type=Path)


class Rating(click.ParamType):
    """A number, or None for ``none``."""

    name = "rating"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | None:
        """Fails for what is neither."""
        try:
            number = None if value == "none" else float(value)
        except ValueError:
            number = math.nan
        if number is not None and not math.isfinite(number):
            self.fail(f"{value!r} is neither a number nor none", param, ctx)
        return number


class Word(click.ParamType):
    """Text that a prompt can have within a sentence."""

    name = "word"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Fails for text that is blank, or has line breaks or other control characters."""
        text = str(value)
        if not text.strip() or not text.isprintable():
            self.fail(f"{text!r} is no word that a prompt can have; say e.g. movie", param, ctx)
        return text


PROTOCOL = options(
    click.option(
        "--min-rating",
        type=Rating(),
        default="4",
        show_default=True,
        metavar="R|none",
        help="Drop interactions rated lower; none, or data without ratings, keeps all.",
    ),
    click.option(
        "--split",
        type=click.Choice(["global", "leave-one-out", "none"]),
        default="global",
        show_default=True,
        help="global: 8:1:1 of all interactions in time; leave-one-out: each user's last is test, the one before valid; none: all is train, to prune only.",
    ),
    click.option(
        "--k-core",
        type=click.IntRange(min=0),
        default=0,
        metavar="K",
        help="Drop users and items with fewer than K interactions until none is left.  [default: 0, all stay]",
    ),
    click.option(
        "--noun",
        type=Word(),
        default=None,
        metavar="WORD",
        help="What a prompt calls an item, e.g. movie.  [default: item]",
    ),
    click.option(
        "--drop-bad-rows", is_flag=True, help="Leave out and count what cannot be read, instead of stopping at it."
    ),
)


@click.group(cls=Plain)
def datasets() -> None:
    """Import, download and inspect data sets."""


@datasets.command(name="import")
@click.argument("path", type=FILE, required=False)
@click.option(
    "--format",
    "layout",
    type=click.Choice(["table", "dealrec", "amazon", "movielens-1m", "microlens-50k"]),
    required=True,
    help="table: two files, --interactions and --items (CSV, TSV, JSONL or Parquet, also .gz); else the layout of the folder PATH, dealrec being the one released with the paper.",
)
@click.option("--name", required=True, help="Name to install it under.")
@click.option("--interactions", type=FILE, metavar="FILE", help="Who took what when: user, item, timestamp, rating.")
@click.option("--items", type=FILE, metavar="FILE", help="What the items are: item, title.")
@click.option("--user", default="user", show_default=True, metavar="COLUMN", help="Column with the user.")
@click.option(
    "--item", default="item", show_default=True, metavar="COLUMN", help="Column with the item, in both files."
)
@click.option(
    "--time",
    default="timestamp",
    show_default=True,
    metavar="COLUMN",
    help="Seconds (or ms, µs, ns) since 1970, or ISO 8601.",
)
@click.option(
    "--rating", default=None, metavar="COLUMN", help="Column with the rating.  [default: rating, if there is one]"
)
@click.option("--title", default="title", show_default=True, metavar="COLUMN", help="Column with the item's title.")
@click.option(
    "--text", multiple=True, metavar="COLUMN", help="Further text of an item, after its title and ' - '; repeatable."
)
@click.option(
    "--delimiter",
    default=None,
    metavar="CHAR|tab",
    help="Between the cells of a CSV.  [default: , ; tab or |, in each file what gives its header the columns]",
)
@PROTOCOL
@click.option("--overwrite", is_flag=True, help="Replace a data set of that name.")
@JSON
def import_(**asked: Any) -> None:
    """Install a data set from files. Nothing in them is executed."""
    from prunebench.benchmark import datasets_commands

    datasets_commands.import_(home_folder(), **asked)


@datasets.command()
@click.argument("source")
@click.option("--name", default=None, help="Name to install it under.  [default: the source's]")
@click.option(
    "--mirror",
    default=None,
    metavar="URL",
    help="Fetch the files from below this address instead; their checksums stay.",
)
@PROTOCOL
@click.option("--overwrite", is_flag=True, help="Replace a data set of that name.")
@JSON
def download(**asked: Any) -> None:
    """Fetch a public data set and install it; an interrupted download goes on where it stopped.

    SOURCE: see `bench ls datasets`. The files stay in $PRUNEBENCH_HOME/downloads, to import with other options.
    """
    from prunebench.benchmark import download_command

    download_command.download(home_folder(), **asked)


@datasets.command(name="inspect")
@click.argument("name")
@JSON
def inspect_(name: str, as_json: bool) -> None:
    """Statistics, duplicate and missing titles, cold items, leaks between splits."""
    from prunebench.benchmark import datasets_commands

    datasets_commands.inspect(home_folder(), name, as_json)
