"""Mistakes: the machine."""

from __future__ import annotations

from mistakes import Mistake

TITLE = "The machine"
CASES: list[Mistake] = []
