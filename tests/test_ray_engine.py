"""`bench sweep --engine ray` with two workers: the same records, whatever fails, dies or is stopped on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
from counted import PLUGIN
from crashes import contents, records, timeless
from hypothesis import given as drawn
from hypothesis import strategies as st
from mistakes import Answer, ask
from test_sweep import given, rows

from prunebench.benchmark import sweep
from prunebench.benchmark.engines import Setup, next_run
from prunebench.benchmark.store import StoreError

pytest.importorskip("ray", reason="Ray is not installed (extra `ray`)")
from prunebench.benchmark import ray_engine

BESIDE = """
import os
from pathlib import Path

def note(name, line):
    with Path(__file__).with_name(name).open("a") as file:
        file.write(line + "\\n")

"""
DEADLY = """        steps = len(list(folder.glob("step-*")))
        note("fits", f"{self.config.smoothing:g} from step {steps}")
        if Path(__file__).with_name("deadly").exists() and self.config.smoothing >= 7:
            (folder / f"step-{steps}").touch()
            runtime.saved()
            if self.config.smoothing == 9 or not steps:
                os.kill(os.getpid(), 9)
        print("fitting"""
"""At smoothing 9 the process kills itself, at 7 before its first checkpoint is there: beside a file `deadly`."""
SLOW = """        import time
        note("fits", "begins")
        try:
            for _ in range(600):  # Ray interrupts Python, not what a library or the system is at
                time.sleep(0.1)
        finally:
            note("fits", "stopped")
        print("fitting"""
STUDY = """methods = ["random"]
backbones = ["counted"]
datasets = ["tiny"]
budgets = [5]
plugins = ["plug.py"]
vary = {"counted.smoothing" = [9, 7, 0]}
include = [
    {method = "newest", "counted.smoothing" = 0},
    {method = "newest", "counted.smoothing" = 1},
    {method = "newest", "counted.smoothing" = 0, "newest.broken" = "few"},
]
"""
SWEEP = ("sweep", "s.toml", "--json")


def plugin(fit: str) -> str:
    prepares = PLUGIN.replace('        return {"score"', '        note("prepared", "newest")\n        return {"score"')
    return prepares.replace("\nclass Counted", BESIDE + "\nclass Counted").replace('        print("fitting', fit)


@pytest.fixture(autouse=True, scope="module")
def environment() -> Iterator[None]:
    """One thread, and no password for Ray: it mistakes it where one process joins twice."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("RAY_AUTH_MODE", "disabled")
        yield


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Answer]:
    """A study in which a run fails, one loses its worker once and one always, on a Ray of its own."""
    folder = given(tmp_path_factory.mktemp("swept"), STUDY, plugin(DEADLY))
    (folder / "deadly").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_engine, "TRIES", 2)
        return folder, ask(folder, (*SWEEP, "--engine", "ray", "--jobs", "2"))


def test_all_that_can_be_recorded_is_as_on_the_local_engine(swept: tuple[Path, Answer], tmp_path: Path) -> None:
    folder, answer = swept
    assert [row["state"] for row in rows(answer)] == ["failed", "done", "done", "done", "done", "failed"], answer.err
    here = given(tmp_path, STUDY, plugin(DEADLY))
    local = ask(here, SWEEP)
    assert [row["state"] for row in rows(local)] == ["done"] * 5 + ["failed"], local.err
    assert [row["error"] for row in rows(answer)][1:] == [row["error"] for row in rows(local)][1:]
    dead = rows(local)[0]["record"]
    ours, expected = (timeless(records(place / "home")) for place in (folder, here))
    assert ours == {name: record for name, record in expected.items() if name != dead}
    assert {name: record["command"] for name, record in records(folder / "home").items()} == {
        row["record"]: row["command"] for row in rows(answer) if row["record"]
    }
    ours, expected = (contents(place / "home", folder, here) for place in (folder, here))
    assert ours.items() < expected.items()


def test_a_run_that_loses_its_worker_goes_on_from_its_checkpoints_or_fails(swept: tuple[Path, Answer]) -> None:
    folder, answer = swept
    fits = (folder / "fits").read_text().splitlines()
    assert sorted(line for line in fits if line[0] in "79") == [
        *("7 from step 0", "7 from step 1"),
        *("9 from step 0", "9 from step 1"),
    ]
    assert (answer.code, rows(answer)[0]["error"]) == (
        1,
        "its worker died 2 times, killed, or out of memory; try fewer --jobs",
    )
    assert "its worker died; begun again, 2 of 2" in answer.err


def test_what_several_runs_need_is_built_once(swept: tuple[Path, Answer]) -> None:
    assert (swept[0] / "prepared").read_text() == "newest\n"


def test_ray_itself_says_nothing(swept: tuple[Path, Answer]) -> None:
    folder, answer = swept
    assert json.loads(answer.out)["done"] == 4
    _, _, said = answer.err.partition("to do: 6 of 6 runs")
    assert [
        line for line in said.splitlines()[1:] if not line.startswith(("[", "  ", "bench: 2 of 6 runs failed"))
    ] == []
    assert "raylet" not in answer.err
    assert "Traceback" not in answer.err
    assert not list((folder / "home" / "sweeps").glob("ray-*"))


class Needs(NamedTuple):
    missing: tuple[str, ...]


HASHES = st.lists(st.sampled_from("abcde"), max_size=3, unique=True).map(tuple).map(Needs)


@drawn(st.lists(HASHES, max_size=4), st.lists(HASHES, max_size=3), st.sets(st.sampled_from("abcde")))
def test_no_run_starts_that_misses_what_another_one_is_building(
    waiting: list[Needs], at_work: list[Needs], built: set[str]
) -> None:
    def may(run: Needs) -> bool:
        return not any(one in other.missing and one not in built for one in run.missing for other in at_work)

    allowed = [run for run in waiting if may(run)]
    assert next_run(waiting, at_work, built) is (allowed[0] if allowed else None)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a Ray with one CPU that others started."""
    script = (
        "import ray\n"
        "ray.init(address='local', num_cpus=1, include_dashboard=False, log_to_driver=False, object_store_memory=10**8)\n"
        "print(ray.get_runtime_context().gcs_address, flush=True)\n"
        "input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.communicate("\n")


def joining(cluster: str) -> tuple[str, ...]:
    return (*SWEEP, "--engine", "ray", "--address", cluster)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--cpus-per-run", "9"), "no machine of the Ray cluster has 9 CPUs for a run; lower --cpus-per-run"),
        (("--device", "cuda"), "--device cuda: no machine of the Ray cluster has a GPU"),
        (("--gpus-per-run", "0.5"), "has 1 CPUs and 0.5 GPUs for a run"),
    ],
)
def test_a_cluster_without_room_is_refused(cluster: str, tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    folder = given(tmp_path, STUDY)
    answer = ask(folder, (*joining(cluster), *words))
    assert (answer.code, answer.out, said in answer.line) == (2, "", True), answer.err


def test_a_worker_with_another_home_or_version_takes_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = Setup(tmp_path, "cpu", (), 1, False)
    with ray_engine._token(tmp_path) as token:
        here = ray_engine.Order(Needs(()), 0, setup, token, "0")  # type: ignore[arg-type]
        elsewhere = replace(here, setup=replace(setup, home=tmp_path / "other"))
        said = [ray_engine.carry_out(order, news=None) for order in (elsewhere, here)]
    assert [isinstance(one, ray_engine.Stranger) for one in said] == [True, True]
    assert f"{tmp_path / 'other'} on " in said[0].line
    assert said[0].line.endswith("PRUNEBENCH_HOME must be a folder that all machines share")
    assert "this machine 0; install the same on all" in said[1].line
    monkeypatch.setattr(ray_engine.ray, "get", lambda ref: said[0])
    with pytest.raises(StoreError, match="another folder than here"):
        ray_engine._outcome(None, here, 1)


def test_ctrl_c_stops_the_workers_in_order(cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = sweep.Progressing.stage

    def interrupted(self: sweep.Progressing, job: int, text: str) -> None:
        said(self, job, text)
        if (folder / "fits").exists():
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(sweep.Progressing, "stage", interrupted)
    folder = given(tmp_path, STUDY, plugin(SLOW))
    answer = ask(folder, joining(cluster))
    assert (answer.code, answer.out) == (130, ""), answer.err
    assert answer.line == "interrupted; the same command continues where this one stopped"
    assert (folder / "fits").read_text() == "begins\nstopped\n"
    assert not list((folder / "home" / "runs").glob("*/record.json"))
