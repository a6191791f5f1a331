"""`bench reproduce`: a table or figure of the paper by name: its declared study run, its page in the paper's layout."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import click
from rich.console import Console

from prunebench.benchmark import reproduced_groups as groups
from prunebench.benchmark import sweep
from prunebench.benchmark.boards import runs_of
from prunebench.benchmark.commands import workbench
from prunebench.benchmark.config import build
from prunebench.benchmark.output import clean_output
from prunebench.benchmark.plan import fitting
from prunebench.benchmark.progress import ConsoleReporter
from prunebench.benchmark.records import settings
from prunebench.benchmark.study import Study, Task, read_study
from prunebench.benchmark.workbench import Workbench
from prunebench.datasets.files import atomic_file
from prunebench.leaderboard.board import Run
from prunebench.leaderboard.comparisons import REFERENCE
from prunebench.leaderboard.group_layouts import by_group
from prunebench.leaderboard.reproduction_layouts import Section, fig4, fig5, fig7, markdown, table2, table3, table4
from prunebench.leaderboard.reproduction_page import Reproduction, reproduction
from prunebench.leaderboard.reproduction_pictures import ENDINGS, pictures_of
from prunebench.leaderboard.reproductions import FULL, Wanted, find

STUDIES = Path(str(files(__package__))) / "studies"


@dataclass(frozen=True)
class Named:
    """A table or figure: its title, what a page of it shows of each data set, and the method its rows are read against."""

    title: str
    section: Section
    against: str = REFERENCE


NAMED = {
    "table2": Named("Table 2: overall performance of the pruning methods", table2),
    "table3": Named("Table 3: all the data against DEALRec's samples", table3, FULL),
    "table4": Named("Table 4: DEALRec with different surrogates", table4, FULL),
    "fig4": Named("Figure 4: DEALRec without its parts", fig4),
    "fig5": Named("Figure 5: accuracy against the samples kept", fig5),
    "fig6": Named("Figure 6: performance by group of users", by_group),
    "fig7": Named("Figure 7: λ, the weight of the effort score", fig7),
}

MINUTES = {"table2": 32, "fig4": 15, "fig5": 18}
"""Minutes of work on one core at mini scale where nothing is there yet, measured; together, as they share runs, 50."""
TOGETHER = 50

GROUPED = "fig6"
"""The one whose page needs more than records: the losses of fine-tuned models, by which users are grouped."""


@dataclass(frozen=True)
class Asked:
    """What is to be reproduced, and what of the declared study is to be otherwise; None or empty: nothing."""

    name: str
    scale: str
    dataset: str | None = None
    backbones: tuple[str, ...] = ()
    llm: str | None = None
    seeds: tuple[int, ...] = ()
    plugins: tuple[Path, ...] = ()

    @property
    def command(self) -> str:
        """The command that reproduces it, without what leaves the page as it is."""
        words = ["bench", "reproduce", self.name, "--scale", self.scale]
        words += ["--dataset", self.dataset] if self.dataset else []
        words += [word for name in self.backbones for word in ("--backbone", name)]
        words += ["--llm", self.llm] if self.llm else []
        words += ["--seeds", ",".join(map(str, self.seeds))] if self.seeds else []
        words += [word for path in self.plugins for word in ("--plugin", str(path))]
        return shlex.join(words)

    @property
    def declared(self) -> Path:
        """The study as it is declared."""
        return STUDIES / f"{self.name}-{self.scale}.toml"

    def values(self) -> dict[str, Any]:
        """What the study holds, with what is to be otherwise."""
        otherwise: dict[str, Any] = {
            "datasets": [self.dataset] if self.dataset else None,
            "backbones": list(self.backbones),
            "llm": self.llm,
            "seeds": list(self.seeds),
            "plugins": [str(path.absolute()) for path in self.plugins],
        }
        declared = read_study(self.declared).model_dump(mode="json", exclude_unset=True)
        return declared | {key: value for key, value in otherwise.items() if value}

    def study_file(self, home: Path) -> Path:
        """The declared study or, where something is otherwise, one written to ``home``; `bench sweep` takes either."""
        values = self.values()
        if values == read_study(self.declared).model_dump(mode="json", exclude_unset=True):
            return self.declared
        text = json.dumps(values, indent=1, sort_keys=True) + "\n"
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        path = home / "studies" / f"{self.declared.stem}-{digest}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path, overwrite=True) as file:
            file.write(text)
        return path


def reproduce(
    home: Path,
    asked: Asked,
    *,
    plan_only: bool,
    no_run: bool,
    records: Path | None,
    jobs: int,
    out: Path | None,
    as_json: bool,
    device: str,
) -> None:
    """Run what is missing, then print the page and, with ``out``, write it there.

    The page comes also where runs failed; the exit code is then that of `bench sweep`.
    """
    if plan_only:
        _sweep(home, asked.study_file(home), jobs, device, plan_only=True, as_json=as_json)
        if not as_json and asked.name in MINUTES and asked == Asked(asked.name, "mini"):
            click.echo(
                f"measured on one core where nothing was there: {MINUTES[asked.name]} minutes;"
                f" {', '.join(MINUTES)} share runs and take {TOGETHER} together"
            )
        return
    if out is not None:
        _check_writable(out)
    with clean_output() as stream:
        failed = 0
        if not no_run and records is None:
            try:
                _sweep(home, asked.study_file(home), jobs, device)
            except SystemExit as ended:
                failed = ended.code if isinstance(ended.code, int) else 1
        before = out / f"{GROUPED}.json" if out is not None else None
        made = page(home, asked, records or home / "runs", device, no_run or records is not None, before)
        stream.write(_json(made) if as_json else markdown(made, NAMED[asked.name].section))
        if out is not None:
            click.echo(f"{', '.join(write(made, out))} in {out}", err=True)
    if failed:
        raise SystemExit(failed)


def _check_writable(out: Path) -> None:
    """Raise OSError for a folder that nothing can be written to: before the runs, not hours later."""
    out.mkdir(parents=True, exist_ok=True)
    try:
        with TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(out)) from None


def _sweep(
    home: Path, study_file: Path, jobs: int, device: str, plan_only: bool = False, as_json: bool = False
) -> None:
    sweep.sweep(
        home,
        study_file=study_file,
        plan_only=plan_only,
        jobs=jobs,
        on_exists="resume",
        as_json=as_json,
        device=device,
    )


def page(
    home: Path,
    asked: Asked,
    records: Path,
    device: str = "auto",
    no_run: bool = True,
    before: Path | None = None,
) -> Reproduction:
    """What a folder of runs has of a table or figure. A run that cannot be read is left out with a line.

    The losses that group users, where the figure has groups, are computed, or with ``no_run`` those of the page ``before``.
    """
    runs, left_out = runs_of(records, None, study_of(asked).split)
    for error in left_out:
        click.echo(f"bench: left out: {' '.join(str(error).split())}", err=True)
    return page_of(home, asked, runs, device, no_run, before)


def study_of(asked: Asked) -> Study:
    """The declared study, with what is to be otherwise."""
    study = build(Study, asked.values(), f"study {asked.declared.stem}")
    assert isinstance(study, Study)
    return study


def page_of(
    home: Path,
    asked: Asked,
    runs: Sequence[Run],
    device: str = "auto",
    no_run: bool = True,
    before: Path | None = None,
) -> Reproduction:
    """What these runs have of a table or figure; see ``page``."""
    study = study_of(asked)
    bench = workbench(home, device, tuple(map(Path, study.plugins)))
    rows = rows_of(bench, study, asked.declared.stem)
    with ConsoleReporter(Console(stderr=True)).stage("statistics") as report:
        found = find(wanted(bench, rows, runs), runs, NAMED[asked.name].against, report=report)
    made = reproduction(asked.name, NAMED[asked.name].title, asked.command, found)
    if asked.name != GROUPED:
        return made
    losses = groups.computed(bench, list(rows), found) if not no_run else groups.published(before, found)
    with ConsoleReporter(Console(stderr=True)).stage("statistics") as report:
        return groups.with_groups(made, found, losses, report)


def rows_of(bench: Workbench, study: Study, title: str) -> dict[Task, list[tuple[int, int]]]:
    """The rows of a study in its order, each a run of seed 0, and their seeds for selection and fine-tuning."""
    rows: dict[Task, list[tuple[int, int]]] = {}
    for task in fitting(bench, study, title):
        row = replace(task, selection_seed=0, finetune_seed=0)
        rows.setdefault(row, []).append((task.selection_seed, task.finetune_seed))
    return rows


def wanted(bench: Workbench, rows: Mapping[Task, list[tuple[int, int]]], runs: Sequence[Run]) -> list[Wanted]:
    """The rows as data. How large a data set is its runs say, or else the data set, which must be there."""
    sizes = {run.record.dataset.name: run.record.dataset.counts.get("samples") for run in runs}

    def size(name: str) -> tuple[str, int]:
        return name, sizes.get(name) or len(bench.dataset(name).samples())

    return [_wanted(bench, task, seeds, size) for task, seeds in rows.items()]


def _wanted(
    bench: Workbench, task: Task, seeds: list[tuple[int, int]], size: Callable[[str], tuple[str, int]]
) -> Wanted:
    def configured(budget: str | None) -> Any:
        choices = replace(task, budget=budget).choices
        return bench.configure(choices, task.set_options, {}, task.seeds, lambda: size(task.dataset))[0]

    run = configured(task.budget)
    return Wanted(
        method=run.method,
        backbone=run.backbone,
        dataset=run.dataset,
        split=run.split,
        llm=run.backbone_config.get("llm"),
        surrogate=run.surrogate,
        budget=run.budget,
        share=run.budget / size(task.dataset)[1],
        usual=run.budget == configured(None).budget,
        config=settings(run, ("surrogate",)),
        asked=dict(task.settings),
        seeds=seeds,
    )


def write(made: Reproduction, out: Path) -> list[str]:
    """The page, its figures as JSON and, of a figure, its pictures: all of them or, after an error, none; their names.

    Equal records give equal bytes, but for pictures drawn by another version of matplotlib.
    """
    files = {name: text.encode() for name, text in texts(made).items()}
    files |= {one.name + ending: one.draw(ending) for one in pictures_of(made) for ending in ENDINGS}
    out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        for name, content in files.items():
            stack.enter_context(atomic_file(out / name, overwrite=True)).buffer.write(content)
    return list(files)


def texts(made: Reproduction) -> dict[str, str]:
    """The page and its figures as JSON, by file name."""
    text = markdown(made, NAMED[made.name].section, pictures_of(made))
    return {f"{made.name}.md": text, f"{made.name}.json": _json(made)}


def picture_names(made: Reproduction) -> list[str]:
    """The file names of a page's pictures."""
    return [one.name + ending for one in pictures_of(made) for ending in ENDINGS]


def _json(made: Reproduction) -> str:
    return made.model_dump_json(indent=1) + "\n"
