"""The users of the paper's Fig. 6, grouped by the losses of the random runs: from the store, or from what was published."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from prunebench.benchmark.study import Task
from prunebench.benchmark.user_losses import user_losses
from prunebench.benchmark.workbench import Workbench
from prunebench.leaderboard.board import Run
from prunebench.leaderboard.comparisons import REFERENCE, Report
from prunebench.leaderboard.reproduction_page import Reproduction, read_reproduction
from prunebench.leaderboard.reproductions import Found, Row
from prunebench.leaderboard.user_groups import UserGroups, UserLosses, mean_losses, user_groups

Losses = Mapping[int, UserLosses]
"""By the place of a random row among all rows."""


def computed(bench: Workbench, tasks: Sequence[Task], found: Found) -> Losses:
    """Losses by the models of each random row's runs, built once and kept in the store; ``tasks``: the rows', of any seeds.

    Raises RecommenderError for a backbone that cannot say its losses.
    """

    def of_run(task: Task, run: Run) -> tuple[str, tuple]:
        seeds = run.record.seeds
        own = replace(task, selection_seed=seeds.selection, finetune_seed=seeds.finetune)
        resolved, dataset, _ = bench.resolve(own.choices, own.set_options, {}, own.seeds)
        harness = bench.harness(resolved, dataset)
        losses = user_losses(harness, harness.fit(harness.prune().selection.ids))
        return run.record.run, (losses.users, losses.losses)

    return {
        at: mean_losses(dict(of_run(tasks[at], run) for run in row.runs.values())) for at, row in _random_rows(found)
    }


def published(page: Path | None, found: Found) -> Losses:
    """Losses as a page written before has them, where they are of a random row's runs; none where there is no page."""
    panels = read_reproduction(page).panels if page is not None and page.exists() else []
    known = [made.losses for panel in panels for made in panel.groups]
    names = {at: {run.record.run for run in row.runs.values()} for at, row in _random_rows(found)}
    return {at: losses for at, own in names.items() for losses in known if own.issuperset(losses.runs)}


def _random_rows(found: Found) -> Iterator[tuple[int, Row]]:
    return ((at, row) for at, row in enumerate(found.rows) if row.wanted.method == REFERENCE and row.runs)


def with_groups(made: Reproduction, found: Found, losses: Losses, report: Report) -> Reproduction:
    """The figure with the groups that each random row's losses make. Raises RecordError for users that do not fit."""
    runs = [run for row in found.rows for run in row.runs.values()]
    groups: dict[str, list[UserGroups]] = defaultdict(list)
    for at, own in losses.items():
        groups[found.rows[at].wanted.dataset].append(user_groups(runs, own, found.resamples, report))
    panels = [panel.model_copy(update={"groups": groups[panel.dataset]}) for panel in made.panels]
    return made.model_copy(update={"panels": panels})
