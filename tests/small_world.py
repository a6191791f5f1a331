"""A data set like `mini`, only small, for runs through the command line."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from prunebench.benchmark import cli
from prunebench.datasets.synthetic import MiniConfig

SMALL_WORLD = MiniConfig(
    users=160,
    valid_users=40,
    test_users=50,
    genres=4,
    franchises_per_genre=3,
    instalments=3,
    platforms=2,
    editions=4,
    longest=6,
    listed_twice=2,
)


def bench(patch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """What `bench … --json` prints: one JSON object and nothing else."""
    patch.setattr(sys, "argv", ["bench", *words, "--json"])
    capfd.readouterr()
    cli.main()
    out, err = capfd.readouterr()
    assert out, err
    return json.loads(out)


def stages(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """A record's bill by stage."""
    return {stage["stage"]: stage for stage in record["bill"]}
