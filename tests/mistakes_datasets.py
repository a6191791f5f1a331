"""Mistakes: data sets."""

from __future__ import annotations

from mistakes import Mistake

TITLE = "Data sets"
CASES: list[Mistake] = []
