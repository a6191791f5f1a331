"""Mistakes: plugins."""

from __future__ import annotations

from mistakes import Mistake

TITLE = "Plugins"
CASES: list[Mistake] = []
