"""A method as an installed package with an entry point: listed and selected with like ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from prunebench.datasets.library import Library
from prunebench.datasets.schema import RecDataset, Sequences

BENCH = [sys.executable, "-c", "from prunebench.benchmark.cli import main; main()"]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    rows = Sequences.from_rows([[user % 7, user % 5, user % 3] for user in range(50)])
    titles = tuple(f"Game {number}" for number in range(7))
    Library(tmp_path / "home").install(RecDataset("tiny", titles, rows, rows, rows))
    return tmp_path / "home"


@pytest.fixture
def site(tmp_path: Path, home: Path) -> Path:
    """A folder like site-packages with one distribution, `acme-pruning`, made of what `bench new-method` writes."""
    site = tmp_path / "site"
    made = call(home, site, "new-method", "closest", "--out", str(site))
    assert made.returncode == 0, made.stderr
    info = site / "acme_pruning-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-pruning\nVersion: 1.5\n")
    line = made.stdout.split("[project.entry-points.")[1].splitlines()[1]
    points = ["[prunebench.methods]", line.strip().replace('"', ""), "absent = no_such_module:Absent"]
    (info / "entry_points.txt").write_text("\n".join(points) + "\n")
    return site


def call(home: Path, site: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PRUNEBENCH_HOME": str(home), "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    return subprocess.run([*BENCH, *words], capture_output=True, text=True, env=environment)


def test_an_installed_method_is_listed_and_used_like_ours(home: Path, site: Path) -> None:
    listed = call(home, site, "ls", "methods", "--json")
    rows = {row["name"]: row for row in json.loads(listed.stdout)["methods"]}
    assert rows["closest"]["from"] == "acme-pruning"
    assert rows["closest"]["summary"].startswith("Closest: the most typical users")
    assert rows["dealrec"]["from"] == "prunebench"
    assert "acme-pruning has no module no_such_module" in listed.stderr
    shown = call(home, site, "ls", "methods").stdout
    assert any(line.split()[:2] == ["closest", "Closest:"] for line in shown.splitlines())

    words = ("--dataset", "tiny", "--budget", "8", "--set", "surrogate.epochs=1", "--set", "surrogate.d=16")
    pruned = call(home, site, "prune", "--method", "closest", *words)
    assert pruned.returncode == 0, pruned.stderr
    assert len(set(pruned.stdout.split())) == 8

    taken = call(home, site, "new-method", "closest", "--out", str(site / "again"))
    assert taken.returncode == 2
    assert "method 'closest' is already taken by acme-pruning" in taken.stderr


def test_the_lists_say_what_every_method_is() -> None:
    shown = subprocess.run([*BENCH, "ls", "methods"], capture_output=True, text=True, check=True).stdout.splitlines()
    lines = {line.split()[0]: line.split(maxsplit=1)[1:] for line in shown[1:]}
    ours = {
        "ccs",
        "dealrec",
        "el2n",
        "forgetting",
        "full",
        "goracs",
        "grand",
        "herding",
        "k_center",
        "less",
        "moderate",
    }
    assert ours | {"random", "recranker", "tf_dcon"} <= set(lines)
    assert all(rest and len(rest[0]) > 20 for rest in lines.values())
