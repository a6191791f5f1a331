"""`bench reproduce`: a table or figure of the paper by name; options and help only."""

from __future__ import annotations

from pathlib import Path

import click

from prunebench.benchmark.cli_options import DEVICE, JSON, PLUGINS, home_folder

NAMES = ("table2", "table3", "table4", "fig4", "fig5", "fig6", "fig7")
SCALES = ("mini", "small", "paper")


def _seeds(ctx: click.Context, option: click.Parameter, value: str | None) -> tuple[int, ...]:
    try:
        seeds = tuple(int(part) for part in value.split(",")) if value is not None else ()
    except ValueError:
        seeds = (-1,)
    if any(seed < 0 for seed in seeds) or len(set(seeds)) < len(seeds):
        raise click.BadParameter(f"{value!r}: give different whole numbers with commas, e.g. 0,1,2")
    return seeds


@click.command()
@click.argument("name", type=click.Choice(NAMES), metavar="NAME")
@click.option(
    "--scale",
    type=click.Choice(SCALES),
    default="mini",
    show_default=True,
    help="mini: synthetic data, 6 seeds, minutes to an hour on 2 cores; small: Games and the catalogue LLM, 3 seeds, hours on a CPU; paper: the paper's data sets and LLaMA-7B, GPUs.",
)
@click.option("--dataset", default=None, metavar="NAME", help="This data set in place of the study's.")
@click.option(
    "--backbone",
    "backbones",
    multiple=True,
    metavar="NAME",
    help="This backbone in place of the study's; repeatable.",
)
@click.option("--llm", default=None, metavar="NAME", help="Base LLM, as in `bench run`.")
@click.option("--seeds", default=None, callback=_seeds, metavar="0,1,2", help="These seeds in place of the study's.")
@PLUGINS
@click.option("--plan", "plan_only", is_flag=True, help="Print the runs and stop; nothing is built.")
@click.option("--no-run", is_flag=True, help="Run nothing: print what is recorded.")
@click.option(
    "--records",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=None,
    metavar="FOLDER",
    help="Run nothing: print what this folder of runs has.",
)
@click.option(
    "--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Runs at once, as in `bench sweep`."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    metavar="DIR",
    help="Write the page there, too: NAME.md, NAME.json and, of a figure, NAME.svg and NAME.png.",
)
@DEVICE
@JSON
def reproduce(
    name: str,
    scale: str,
    dataset: str | None,
    backbones: tuple[str, ...],
    llm: str | None,
    seeds: tuple[int, ...],
    plugin_files: tuple[Path, ...],
    plan_only: bool,
    no_run: bool,
    records: Path | None,
    jobs: int,
    out: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Reproduce a table or figure of the DEALRec paper: ours, theirs and the difference, in its own layout.

    NAME is table2 (all methods), table3 (all the data), table4 (surrogates), fig4 (ablations), fig5 (samples kept), fig6
    (groups of users) or fig7 (λ).

    Each is a study of its own, run as `bench sweep` runs it: runs that are recorded are not made again, also where
    another table or figure made them, and the same command goes on where it was stopped.
    """
    from prunebench.benchmark import reproduce

    if plan_only and (no_run or records is not None):
        raise click.UsageError("--plan shows runs to make, and --no-run and --records make none: give one of them")
    reproduce.reproduce(
        home_folder(),
        reproduce.Asked(name, scale, dataset, backbones, llm, seeds, plugin_files),
        plan_only=plan_only,
        no_run=no_run,
        records=records,
        jobs=jobs,
        out=out,
        as_json=as_json,
        device=device,
    )
