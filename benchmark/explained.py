"""What `bench explain` says: its typed form, which is what `--json` prints, and the same in words."""

from __future__ import annotations

import unicodedata
from typing import TextIO

import numpy as np
from pydantic import BaseModel, ConfigDict
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from prunebench.methods.base import Step

SHOWN = 20
"""Items of a history that are printed, the latest; the typed form has all."""
NARROWEST = 24
"""Columns that lines are written for at least."""
JOINERS = "\u200c\u200d"
"""Invisible characters that words and emoji need."""


class Facts(BaseModel):
    """Base of the parts: immutable, unknown keys refused, no NaN or infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class EvidenceFacts(Facts):
    """One number (or vector) the method had of the sample, and where it stands among those of all samples.

    ``rank`` is 1 for the highest; ``percentile``: percent of the samples with a lower value; ``of``: samples with a
    value. A sample without one (no candidate, say) has no ``value``. A vector has ``dimensions`` and a ``length``.
    """

    name: str
    value: float | None = None
    rank: int | None = None
    percentile: float | None = None
    of: int
    dimensions: int | None = None
    length: float | None = None


class StepFacts(Facts):
    """One step of the method's choice: its name, what came of it in words, and the numbers in those words."""

    name: str
    says: str
    facts: dict[str, float | int | str | bool | None]

    @classmethod
    def of(cls, step: Step) -> StepFacts:
        plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in step.facts.items()}
        return cls(name=step.name, says=step.says, facts=plain)


class ItemFacts(Facts):
    """An item: its number in the data set, what it is called where the data come from (if known), and its title."""

    item: int
    key: str | None
    title: str


class Explained(Facts):
    """Why a run kept a sample, or did not.

    ``samples``: how many there were, of which ``budget`` were kept; ``user``: what the user is called where the data
    come from, if known; ``label``: what was planted, in synthetic data; ``steps``: none where the method does not
    explain itself; ``history``: oldest first; ``notes``: the selection's; ``made_again``: stages of the run that were
    gone from the store.
    """

    run: str
    method: str
    backbone: str
    dataset: str
    fingerprint: str
    samples: int
    budget: int
    seeds: dict[str, int]
    sample: int
    user: str | None
    label: str | None
    kept: bool
    evidence: list[EvidenceFacts]
    steps: list[StepFacts] | None
    history: list[ItemFacts]
    target: ItemFacts
    notes: dict[str, float | int | str]
    made_again: list[str]


def print_explained(found: Explained, out: TextIO) -> None:
    """In words, in lines that fit the terminal; plain text where there is none."""
    page = _Page(out)
    page.text(
        f"Sample {found.sample} of {found.dataset} was {'kept' if found.kept else 'not kept'} by {found.method} × {found.backbone}",
        style="bold",
    )
    seeds = set(found.seeds.values())
    seeded = f"seed {seeds.pop()}" if len(seeds) == 1 else ", ".join(f"{k} seed {v}" for k, v in found.seeds.items())
    page.text(f"run {found.run}: {found.budget:,} of {found.samples:,} samples, {seeded}")
    if found.user is not None:
        page.text(f"user {visible(found.user)}")
    if found.label is not None:
        page.text(f"planted as: {visible(found.label)}")
    count = len(found.history)
    page.head(f"History, {count:,} item{'s' if count > 1 else ''}, oldest first")
    if count > SHOWN:
        page.text(f"… {count - SHOWN:,} earlier ones", "      ")
    for number, item in list(enumerate(found.history, 1))[-SHOWN:]:
        page.item(f"{number:>4}  ", item)
    page.head("Target")
    page.item("      ", found.target)
    if found.evidence:
        page.head("Evidence")
        for entry in found.evidence:
            page.text(_standing(entry), "  - ")
    page.head("Why")
    if found.steps is None:
        page.text(f"{found.method} does not explain its choices; what it went by is all there is to say.", "  - ")
    for number, step in enumerate(found.steps or [], 1):
        page.text(f"{step.name}: {step.says}", f"{number:>3}. ")
    page.text(f"so it was {'kept' if found.kept else 'not kept'}", "  => ", style="bold")
    if found.notes:
        page.head("Notes of the selection")
        for name, value in found.notes.items():
            page.text(f"{name}: {f'{value:.6g}' if isinstance(value, float) else value}", "  - ")


def visible(text: str) -> str:
    """Characters that would move the cursor, end the line or turn the direction of writing, as Python writes them."""
    return "".join(
        char
        if unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Zl", "Zp") or char in JOINERS
        else char.encode("unicode_escape").decode()
        for char in text
    )


def _standing(entry: EvidenceFacts) -> str:
    if entry.dimensions is not None:
        return f"{entry.name}: a vector of {entry.dimensions:,} numbers, {entry.length:.4g} long"
    if entry.value is None:
        return f"{entry.name}: none; {entry.of:,} samples have it"
    return f"{entry.name} {entry.value:.6g}: rank {entry.rank:,} of {entry.of:,}, the highest first; higher than {entry.percentile:.1f}% of them"


class _Page:
    """Lines as wide as the terminal, in styles if it is one. Nothing in them is read as markup."""

    def __init__(self, out: TextIO) -> None:
        self.console = Console(file=out, markup=False, emoji=False, highlight=False)
        self.width = max(self.console.width, NARROWEST)

    def _line(self, line: str, style: str = "") -> None:
        self.console.print(Text(line.rstrip(), style=style), soft_wrap=True)

    def head(self, text: str) -> None:
        self._line("")
        self.text(text, style="bold")

    def text(self, text: str, mark: str = "", style: str = "") -> None:
        """Wrapped, the first line after ``mark``, the others below it."""
        for number, line in enumerate(Text(visible(text)).wrap(self.console, self.width - len(mark))):
            self._line((" " * len(mark) if number else mark) + line.plain, style)

    def item(self, mark: str, item: ItemFacts) -> None:
        """One line: the title, as much as fits, and the item."""
        called = f"item {item.item}" + (f", {_cut(visible(item.key), 20)}" if item.key is not None else "")
        room = self.width - len(mark) - cell_len(called) - 3
        title = visible(item.title[: self.width]) or "(no title)"
        if room < self.width // 3:
            self._line(mark + _cut(title, self.width - len(mark)))
            self._line(" " * len(mark) + f"({called})")
        else:
            self._line(f"{mark}{_cut(title, room)} ({called})")


def _cut(text: str, width: int) -> str:
    """At most ``width`` columns wide, with an ellipsis where something is left out."""
    return text if cell_len(text) <= width else set_cell_size(text, width - 1).rstrip() + "…"
