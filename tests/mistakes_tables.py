"""Mistakes: files with interactions and items."""

from __future__ import annotations

from mistakes import Mistake

TITLE = "Files with interactions and items"
CASES: list[Mistake] = []
