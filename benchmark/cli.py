"""The `bench` command: options and help only; each command's work is imported when it is run."""

from __future__ import annotations

import functools
import logging
import os
import sys
from pathlib import Path
from typing import Any

import click

from prunebench.benchmark.cli_datasets import datasets
from prunebench.benchmark.cli_leaderboard import leaderboard
from prunebench.benchmark.cli_options import DEVICE, JSON, LEARNS, PLUGINS, SETUP, WHAT, Plain, home_folder
from prunebench.benchmark.cli_reproduce import reproduce
from prunebench.benchmark.interrupts import told_once
from prunebench.benchmark.launch import Launch, taken

KINDS = ("methods", "backbones", "datasets", "surrogates", "signals", "runs")


@click.group(cls=Plain, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="prunebench", prog_name="bench")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """Which few training samples are enough to fine-tune an LLM recommender, and what does it cost to find them?

    Data sets, artefacts and records live in $PRUNEBENCH_HOME (default ~/.prunebench).
    """
    launch = ctx.ensure_object(Launch)
    if launch.size > 1 and ctx.invoked_subcommand != "run":
        raise click.UsageError(
            f"bench {ctx.invoked_subcommand} is for one process; start it without torchrun or accelerate launch, which only bench run takes"
        )


@cli.command()
@WHAT
@click.option(
    "--seed", type=click.IntRange(min=0), default=None, help="Seed of signal, selection and fine-tuning.  [default: 0]"
)
@click.option("--seeds", default=None, metavar="0,1,2", help="Several seeds, one run each.")
@click.option(
    "--split",
    type=click.Choice(["valid", "test"]),
    default=None,
    help="Develop on valid; every evaluation on test is logged.  [default: test]",
)
@JSON
@click.pass_obj
def run(launch: Launch, **asked: Any) -> None:
    """Prune, fine-tune, rank all items for every user, record metrics and costs.

    Under `torchrun` or `accelerate launch`, bigrec and tiger share fine-tuning and ranking among the processes.
    """
    from prunebench.benchmark import commands

    commands.run(home_folder(), launch, **asked)


@cli.command()
@WHAT
@click.option("--seed", type=click.IntRange(min=0), default=None, help="Seed of signal and selection.  [default: 0]")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=None,
    metavar="FILE",
    help="Write there instead: a file, or a folder for hf.  [default: standard output]",
)
@click.option(
    "--format",
    "layout",
    type=click.Choice(["ids", "jsonl", "hf"]),
    default="ids",
    show_default=True,
    help="ids: one sample id per line; jsonl: instruction, input and output, as fine-tuning tools read them; hf: a data set folder for `datasets.load_dataset`.",
)
@click.option("--overwrite", is_flag=True, help="Replace what is at --out.")
@JSON
def prune(**asked: Any) -> None:
    """Only select: sample ids on standard output, or the samples in a file to fine-tune on."""
    from prunebench.benchmark import commands

    commands.prune(home_folder(), **asked)


@cli.command()
@click.argument("sample", type=int)
@click.option("--run", "run_name", required=True, metavar="R", help="A run, see `bench ls runs`; its first letters do.")
@PLUGINS
@JSON
def explain(**asked: Any) -> None:
    """Why a run kept SAMPLE (a sample id) or did not: its scores, ranks, stratum and draw, its history in words."""
    from prunebench.benchmark import explain

    explain.explain(home_folder(), **asked)


@cli.command()
@click.argument("run_a")
@click.argument("run_b")
@click.option(
    "--records",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=None,
    metavar="FOLDER",
    help="Folder of runs in which RUN_A and RUN_B are.  [default: $PRUNEBENCH_HOME/runs]",
)
@JSON
def compare(run_a: str, run_b: str, records: Path | None, as_json: bool) -> None:
    """Two runs side by side: settings, samples kept, metrics with intervals, and what each cost.

    A run is named as in `bench ls runs`, its first letters do, or by the path of its folder. Differences are B − A.
    """
    from prunebench.benchmark import compare

    compare.compare(records or home_folder() / "runs", (run_a, run_b), as_json)


@cli.command()
@LEARNS
@click.option("--dataset", "datasets", multiple=True, metavar="NAME", help="Data set; repeatable.  [default: mini]")
@click.option("--methods", default=None, metavar="A,B,…", help="Only these methods.  [default: all but full]")
@SETUP
@click.option("--seed", type=click.IntRange(min=0), default=None, help="Seed of signal and selection.  [default: 0]")
@JSON
def survey(**asked: Any) -> None:
    """Select with every method: what each uses and costs, and how far they agree, as a markdown table.

    Settings go to every method alike, those written NAME.KEY=VALUE (ccs.beta=0.2) to the method of that name.
    Selections are kept: `bench prune` has them at once.
    """
    from prunebench.benchmark import survey

    survey.survey(home_folder(), **asked)


@cli.command()
@click.argument("study_file", type=click.Path(path_type=Path), metavar="STUDY.toml")
@click.option("--plan", "plan_only", is_flag=True, help="Print the plan and stop; nothing is built.")
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=None,
    help="Runs at once, each a process with its share of the threads; totals of different --jobs do not add up.  [default: 1; with --address, as many as there is room for]",
)
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="ray: on a Ray cluster, or on --jobs workers of a Ray started here (pip install 'prunebench[ray]').",
)
@click.option(
    "--address",
    default=None,
    metavar="auto|HOST:PORT",
    help="Ray: join this cluster. $PRUNEBENCH_HOME, plugins and local models must be in folders that all its machines share.",
)
@click.option(
    "--cpus-per-run",
    "cpus",
    type=click.IntRange(min=1),
    default=None,
    help="Ray: CPUs of a run, and its threads.  [default: its share of this machine's; with --address, 1]",
)
@click.option(
    "--gpus-per-run",
    "gpus",
    type=click.FloatRange(min=0),
    default=None,
    help="Ray: GPUs of a run; two runs share one at 0.5.  [default: 1 where there are GPUs and --device takes them]",
)
@click.option(
    "--on-exists",
    type=click.Choice(["resume", "new", "always", "never"]),
    default="resume",
    show_default=True,
    help="resume: do runs without a whole record; new: of these, leave those that failed before; always: write every record again, from what is in the store; never: stop where a record is there.",
)
@DEVICE
@JSON
def sweep(engine: str, address: str | None, cpus: int | None, gpus: float | None, **asked: Any) -> None:
    """Run a study: methods × backbones × data sets × budgets × settings × seeds; see README for what the file holds.

    The plan comes first. Each run is recorded as it ends, one that fails stops no other; the same command goes on where
    it was stopped.
    """
    from prunebench.benchmark import config, sweep

    if engine == "local":
        given = {"--address": address, "--cpus-per-run": cpus, "--gpus-per-run": gpus}
        for option in (name for name, value in given.items() if value is not None):
            raise click.UsageError(f"{option} is for --engine ray", click.get_current_context())
        sweep.sweep(home_folder(), **asked)
        return
    try:
        from prunebench.benchmark import ray_engine
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "ray":
            raise
        raise config.ConfigError(
            "--engine ray needs Ray, which is not installed: pip install 'prunebench[ray]'"
        ) from None
    join = functools.partial(ray_engine.join, address=address, gpus=gpus)
    sweep.sweep(home_folder(), join=join, threads=cpus or (1 if address else None), **asked)


@cli.command(name="new-method")
@click.argument("name")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path(),
    metavar="DIR",
    help="Folder for the two files.  [default: here]",
)
@JSON
def new_method_(name: str, out: Path, as_json: bool) -> None:
    """Write a working method to NAME.py, and its test; say how to run and package it."""
    from prunebench.benchmark import new_method

    new_method.create(name, out, as_json)


@cli.command(name="ls")
@click.argument(
    "kind",
    required=False,
    metavar="[methods|backbones|datasets|surrogates|signals|runs|settings]",
    type=click.Choice([*KINDS, "settings"]),
)
@JSON
def ls(kind: str | None, as_json: bool) -> None:
    """List what there is."""
    if kind == "settings":
        from prunebench.benchmark import settings

        settings.show(as_json)
    else:
        from prunebench.benchmark import listing

        listing.show(home_folder(), kind, as_json)


cli.add_command(reproduce)
cli.add_command(datasets)
cli.add_command(leaderboard)


@cli.command()
@click.option("--dataset", default="mini", show_default=True, help="Data set the paths are timed on.")
@JSON
def perf(dataset: str, as_json: bool) -> None:
    """Time our path and a plain reference in one run; prints the ratios."""
    from prunebench.benchmark import perf_command

    perf_command.perf(home_folder(), dataset, as_json)


@cli.command()
@JSON
def demo(as_json: bool) -> None:
    """The main job on the embedded defaults, its rivals, and the leaderboard."""
    from prunebench.benchmark import commands

    commands.demo(home_folder(), as_json)


def main() -> None:
    """Entry point. Exit codes: 0 done, 2 bad input, 1 the environment, 130 interrupted, 143 terminated."""
    launch = taken(os.environ)
    with told_once() as interrupted:
        try:
            _main(launch)
        except (click.exceptions.Abort, KeyboardInterrupt):
            _fail(interrupted.line, interrupted.code, told=launch.leads)


def _main(launch: Launch) -> None:
    debug = "--debug" in sys.argv[1:]
    logging.basicConfig(
        format="bench: %(levelname)s: %(message)s", level=logging.WARNING if launch.leads else logging.ERROR
    )
    if sys.stdout is None:  # what is opened next would take its place
        _fail("standard output is closed; send it somewhere, e.g. > FILE", 1)
    try:
        cli.main(prog_name="bench", standalone_mode=False, obj=launch)
    except click.exceptions.Abort:
        raise
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        _fail(_in_words(error), error.exit_code, told=launch.leads)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if debug:
            raise
        from prunebench.benchmark.errors import explain

        line, code = explain(error)
        _fail(line if launch.leads else f"process {launch.rank}: {line}", code)


def _in_words(error: click.ClickException) -> str:
    """What is wrong with the words of a command, as a line like any other of ours."""
    said = " ".join(error.format_message().split()).rstrip(".")
    ctx = error.ctx if isinstance(error, click.UsageError) else None
    return f"{said[:1].lower()}{said[1:]}; see `{ctx.command_path if ctx else 'bench'} --help`"


def _fail(line: str, code: int, told: bool = True) -> None:
    """``told``: by this process; of several, the first tells what happens to all."""
    if told:
        click.echo(f"bench: {line}", err=True)
    sys.exit(code)
