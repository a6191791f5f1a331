"""The paper's Fig. 6 as markdown: what each row reaches in each group of users, and how that differs from random."""

from __future__ import annotations

from collections.abc import Sequence

from prunebench.leaderboard.comparisons import REFERENCE, Difference, Figure
from prunebench.leaderboard.markdown import difference_words
from prunebench.leaderboard.reproduction_layouts import grid, named, plain
from prunebench.leaderboard.reproduction_page import Panel
from prunebench.leaderboard.tables import MISSING, VALIDATION_NOTE, escape, spread
from prunebench.leaderboard.user_groups import GroupFacts, GroupsRow, UserGroups

NOT_YET = "No groups yet: they need the losses of models fine-tuned on random samples, which this command takes where it runs."


def by_group(panel: Panel) -> list[str]:
    """All users, as in the other tables; then for each backbone its groups, and a table per metric."""
    grouped = [part for made in panel.groups for part in _section(made)]
    return [*plain(panel), *(grouped or [f"{NOT_YET}\n"])]


def _section(made: UserGroups) -> list[str]:
    heads = ["group", "users", "lowest loss", "mean loss", "highest loss"]
    facts = [[one.name, f"{one.users:,}", *(f"{x:.3f}" for x in (one.low, one.mean, one.high))] for one in made.groups]
    parts = [f"### {named(made.backbone)}\n", grid(heads, facts, 1)]
    heads = ["method", "seeds", *(one.name for one in made.groups)]
    heads += [f"{one.name} − {REFERENCE}" for one in made.groups]
    words = 1
    if len({row.backbone_label for row in made.rows}) > 1:
        heads, words = ["method", "backbone", *heads[1:]], 2
    for metric in made.metrics:
        rows = [_cells(row, metric, made.groups, words) for row in made.rows]
        parts += [f"{metric}:\n", grid(heads, rows, words)]
    if any(row.chose_by_validation for row in made.rows):
        parts.append(f"{VALIDATION_NOTE}\n")
    return [*parts, _legend(made)]


def _cells(row: GroupsRow, metric: str, groups: Sequence[GroupFacts], words: int) -> list[str]:
    found = [one.get(metric) for one in row.figures]
    name, _, settings = row.label.partition(" ")
    label = f"{named(name)} {escape(settings)}".strip() + (" †" if row.chose_by_validation else "")
    seeds = f"{row.seeds} of {row.seeds + row.lacks}" if row.lacks else str(row.seeds)
    differences = [_difference(one.to_random if one else None) for one in found]
    return [label, *([escape(row.backbone_label)] if words > 1 else []), seeds, *map(_score, found), *differences]


def _score(one: Figure | None) -> str:
    return MISSING if one is None else spread(one.mean, one.sd)


def _difference(one: Difference | None) -> str:
    return difference_words(one) + ("\\*" if one is not None and one.certain else "")


def _legend(made: UserGroups) -> str:
    models = len(made.losses.runs)
    of_models = f"{models} models, one per seed" if models > 1 else "one model"
    return f"""- Users stand in groups of equal size by the loss of {of_models}, fine-tuned on random samples: −log P of a target's
  tokens given the user's history, in nats, summed over the tokens, mean over the user's targets and over the models.
- "− {REFERENCE}": how much higher than the {REFERENCE} row, with the 95% interval; Holm's correction is for all rows and groups of
  a metric together.
- The very models that group the users stand in the {REFERENCE} row, so their luck does, too: it looks better than it is among
  the easy users and worse among the hard ones. What others gain among the hard and lose among the easy may be partly that.
"""
