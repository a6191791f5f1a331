"""Mistakes in the words of a command."""

from __future__ import annotations

from mistakes import Mistake

TITLE = "Names, budgets and settings"
CASES: list[Mistake] = [
    Mistake(
        "a method that does not exist",
        ("run", "--method", "randon"),
        ("unknown method 'randon'", "did you mean random"),
    ),
]
