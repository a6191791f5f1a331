"""Test users in three groups of equal size by how hard they are, and each row's figures in every group: the paper's Fig. 6.

How hard a user is says the loss of models fine-tuned on random samples: the mean of a user's loss over their seeds, so that
one grouping serves all rows and all seeds, as the statistics ask for, and the luck of a single model counts for less.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from prunebench.leaderboard import paper_figures, tables
from prunebench.leaderboard.board import Kind, Run, group_of, kind_of
from prunebench.leaderboard.comparisons import PROTOCOL, Figure, Group, Member, Report, compare
from prunebench.leaderboard.per_user import PerUser, metric_names
from prunebench.leaderboard.record import Part, RecordError
from prunebench.leaderboard.statistics import RESAMPLES

GROUPS = ("easy", "medium", "hard")
DIGITS = 6
"""Significant digits of a loss; platforms differ in the last ones of a float32."""


class UserLosses(Part):
    """Each user's loss in nats, −log P(target | history), mean over the user's targets and then over ``runs``, by id."""

    runs: list[str] = Field(min_length=1)
    users: list[Annotated[int, Field(ge=0, lt=2**63)]] = Field(min_length=len(GROUPS))
    losses: list[Annotated[float, Field(ge=0, lt=1e9)]]

    @model_validator(mode="after")
    def _fits(self) -> UserLosses:
        if len(self.users) != len(self.losses):
            raise ValueError("there must be one loss per user")
        if len(set(self.runs)) < len(self.runs):
            raise ValueError("a run counts once")
        if any(later <= user for user, later in zip(self.users, self.users[1:], strict=False)):
            raise ValueError("users must increase")
        return self


class GroupFacts(Part):
    """A group: how many users, and their losses in nats from ``low`` to ``high``."""

    name: str
    users: int
    low: float
    mean: float
    high: float


class GroupsRow(Part):
    """One row of the board. ``figures``: for each group its metrics (``R@10``, ``N@10``, …) under ``PROTOCOL``.

    ``lacks``: how many seeds other rows of the backbone have and this one has not. Differences are to the random row whose
    settings differ least; p-values are adjusted for all rows and groups together.
    """

    id: str
    kind: Kind
    method: str
    label: str
    backbone_label: str
    chose_by_validation: bool
    seeds: int
    lacks: int
    figures: list[dict[str, Figure]]


class UserGroups(Part):
    """A table of a board, taken apart by ``groups``, easiest first; ``group_of_user`` [users of ``losses``] counts from 0."""

    format: int = 1
    dataset: str
    fingerprint: str
    split: str
    backbone: str
    llm: str | None
    budget: int
    share: float
    metrics: list[str]
    groups: list[GroupFacts]
    rows: list[GroupsRow]
    losses: UserLosses
    group_of_user: list[int]

    @property
    def title(self) -> str:
        """``games · bigrec · catalogue · 1,024 samples``, plain text."""
        return " · ".join([self.dataset, self.backbone, *([self.llm] if self.llm else []), f"{self.budget:,} samples"])


def mean_losses(said: Mapping[str, tuple[NDArray[np.int64], NDArray[np.float64]]]) -> UserLosses:
    """From each run's name, users [n] and losses [n], in any order. Raises RecordError where they are of different users."""
    if not said:
        raise RecordError("there is no run on random samples whose losses could group the users")
    ordered = {run: (np.sort(users), losses[np.argsort(users)]) for run, (users, losses) in sorted(said.items())}
    first, (users, _) = next(iter(ordered.items()))
    for run, (own, _) in ordered.items():
        if not np.array_equal(own, users):
            raise RecordError(
                f"run {run} has losses of other users than run {first}; compare runs on the same test users"
            )
    if len(users) < len(GROUPS):
        raise RecordError(f"{len(users)} users cannot be split into {len(GROUPS)} groups; evaluate more")
    mean = np.mean([losses for _, losses in ordered.values()], axis=0)
    return UserLosses(
        runs=list(ordered), users=users.tolist(), losses=[float(f"{loss:.{DIGITS}g}") for loss in mean.tolist()]
    )


def thirds(users: NDArray[np.int64], losses: NDArray[np.float64]) -> NDArray[np.int64]:
    """The group 0, 1 or 2 of each user, int64 [n]: by loss, equal losses by id. Their sizes differ by one at most."""
    group = np.empty(len(users), np.int64)
    group[np.lexsort((users, losses))] = np.arange(len(users)) * len(GROUPS) // max(len(users), 1)
    return group


def user_groups(
    runs: Iterable[Run],
    losses: UserLosses,
    resamples: int = RESAMPLES,
    report: Report = lambda done, total, what: None,
) -> UserGroups:
    """Every row of the board's table that the ``losses`` come from, group by group; equal input gives equal output.

    ``report(done, total, what)`` is called as statistics get done. Raises RecordError where no table has the random runs,
    or its runs were evaluated on other users.
    """
    by_name = {run.record.run: run for run in sorted(runs, key=lambda run: run.record.run)}
    key, members = _table_of(by_name, losses)
    whole = group_of(key, members, by_name)
    users, values = np.array(losses.users, np.int64), np.array(losses.losses)
    for name in (name for row in members for name in row["runs"]):
        if not np.array_equal(np.sort(by_name[name].per_user.users), users):
            raise RecordError(f"run {name} was evaluated on other users than there are losses of; make the groups anew")
    group = thirds(users, values)
    parts = [_part(whole, users[group == at]) for at in range(len(GROUPS))]
    figures = [made.rows for made in compare(parts, resamples, report)]
    seeds = {str(one) for member, row in zip(whole.members, members, strict=True) if member.own for one in row["seeds"]}
    return UserGroups(
        **dict(zip(("dataset", "fingerprint", "split", "backbone", "llm", "budget"), key, strict=True)),
        share=next(row["share"] for row in members if row["budget"] == key[5]),
        metrics=metric_names(paper_figures.cutoffs(key[0])),
        groups=[_facts(name, values[group == at]) for at, name in enumerate(GROUPS)],
        rows=[
            GroupsRow(
                id=member.id,
                kind=kind_of(row, key),
                **{name: row[name] for name in ("method", "label", "backbone_label", "chose_by_validation")},
                seeds=len(row["seeds"]),
                lacks=len(seeds - {str(one) for one in row["seeds"]}) if member.own else 0,
                figures=[rows[member.id].get(PROTOCOL, {}) for rows in figures],
            )
            for member, row in zip(whole.members, members, strict=True)
        ],
        losses=losses,
        group_of_user=group.tolist(),
    )


def _table_of(runs: Mapping[str, Run], losses: UserLosses) -> tuple[tuple[Any, ...], list[tables.Row]]:
    missing = sorted({*losses.runs} - {*runs})
    if missing:
        raise RecordError(f"there is no record of run {missing[0]}, whose losses group the users; add it")
    origin = runs[losses.runs[0]].record
    wanted = (origin.dataset.name, origin.dataset.fingerprint, origin.protocol.split, origin.backbone, origin.llm)
    found = tables.tables_of(tables.rows(run.record for run in runs.values()))
    for key, members in found:
        if key == (*wanted, origin.budget):
            return key, members
    raise RecordError(f"run {origin.run}, whose losses group the users, heads no table: it is of no random samples")


def _part(whole: Group, users: NDArray[np.int64]) -> Group:
    """The table as if only these users had been evaluated."""

    def own(per_user: PerUser) -> PerUser:
        kept = np.isin(per_user.users, users)
        values = {name: {at: every[kept] for at, every in found.items()} for name, found in per_user.values.items()}
        return PerUser(per_user.users[kept], values)

    def of(member: Member) -> Member:
        return replace(member, runs=[(seeds, own(per_user)) for seeds, per_user in member.runs])

    return replace(whole, members=[of(member) for member in whole.members])


def _facts(name: str, losses: NDArray[np.float64]) -> GroupFacts:
    low, mean, high = (float(f"{value:.{DIGITS}g}") for value in (losses.min(), losses.mean(), losses.max()))
    return GroupFacts(name=name, users=len(losses), low=low, mean=mean, high=high)
