"""Mistakes: language models."""

from __future__ import annotations

from mistakes import Mistake

TITLE = "Language models"
CASES: list[Mistake] = []
