"""Runs of `bench` in processes of their own: killed where one likes, several at once, and compared afterwards."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any
from unittest import mock

from counted import tiny
from small_world import SMALL_WORLD

from prunebench.datasets.library import Library
from prunebench.datasets.schema import RecDataset
from prunebench.datasets.synthetic import generate

PLUGIN = '''
"""A backbone that counts targets step by step, with a checkpoint after each, and has an effort."""

import json
import time
import numpy as np
from prunebench.recommenders.base import Config, FitReport, Rankings


class Stepwise:
    name, version, uses_samples, reads = "stepwise", 1, True, ("samples",)

    class Config(Config):
        steps: int = 3
        pause_s: float = 0.0

    def __init__(self, config, resources):
        self.config, self.resources, self.report = config, resources, FitReport()

    def needs(self, stage):
        return {}

    def key(self, stage):
        return self.config.model_dump()

    def effort(self, samples, runtime):
        return (samples.ids % 7 + 1).astype(np.float32)

    def fit(self, samples, stop, runtime, folder):
        parts = np.array_split(np.sort(samples.targets), self.config.steps)
        done = sorted(folder.glob("step-*.json"))
        counts = json.loads(done[-1].read_text()) if done else [0] * self.resources.dataset.n_items
        for step in range(int(done[-1].stem[5:]) if done else 0, len(parts)):
            time.sleep(self.config.pause_s)
            counts = (np.array(counts) + np.bincount(parts[step], minlength=len(counts))).tolist()
            older = list(folder.glob("step-*.json"))
            (folder / f"step-{step + 1}.json").write_text(json.dumps(counts))
            runtime.saved()
            for path in older:
                path.unlink()
        self.counts, self.report = np.array(counts), FitReport(steps=len(parts), samples=len(samples))
        return self

    def save(self, folder):
        (folder / "counts.json").write_text(json.dumps(self.counts.tolist()))

    def load(self, folder, runtime):
        self.counts = np.array(json.loads((folder / "counts.json").read_text()))
        return self

    def recommend(self, histories, depth, runtime):
        scores = np.broadcast_to(self.counts.astype(np.float32), (len(histories), len(self.counts)))
        return Rankings.from_scores(scores, depth)
'''

PRELOAD = (
    *(
        "torch._dynamo",
        "torch._decomp.decompositions_for_jvp",
        "peft",
        "faiss",
        "pytest",
        "prunebench.datasets.synthetic",
        "prunebench.benchmark.cli",
    ),
    *("prunebench.benchmark.commands", "prunebench.benchmark.surrogate_signals"),
    *("prunebench.benchmark.exports", "prunebench.benchmark.providers", "prunebench.recommenders.bigrec.backbone"),
    *("prunebench.recommenders.surrogates.sasrec", "prunebench.methods.dealrec", "sentence_transformers"),
)
VARIES = (
    *("finished", "wall_s", "cpu_s", "peak_rss_mb", "peak_gpu_mb", "totals", "killed"),
    *("command", "git_commit"),  # of the process that wrote it
)
"""What of a record may differ from one run to the next."""
QUICK = ("run", "--method", "dealrec", "--dataset", "small", "--budget", "12", "--backbone", "stepwise")
SURROGATE = ("surrogate.epochs=2", "surrogate.d=8")
REAL = {
    "bigrec": (
        *("llm.tokens=30000", "llm.hidden=32", "llm.layers=2", "llm.feed_forward=64", "llm.vocabulary=300"),
        *("llm.sequence=64", "llm.checkpoint_every=5", "backbone.max_steps=8", "backbone.batch=8"),
        *("backbone.micro_batch=8", "backbone.eval_every=2", "backbone.max_new_tokens=12", "backbone.patience=9"),
    ),
    "tiger": tuple(
        f"backbone.{setting}"
        for setting in (
            *("tokeniser.codes=8", "layers=1", "heads=2", "head_width=8", "width=16", "feed_forward=32", "batch=16"),
            *("micro_batch=8", "max_steps=24", "eval_every=4", "lr=0.01", "probe_users=20", "patience=99"),
        )
    ),
}
"""Settings that let a real backbone go through all stages in seconds, with several points to continue from in each."""
_CHANGES = {"open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate", "shutil.rmtree"}

processes = multiprocessing.get_context("forkserver")


def small_data() -> RecDataset:
    """`tiny` by another name: 60 users, 30 items."""
    return replace(tiny(), name="small")


@dataclass(frozen=True)
class Job:
    """`bench WORDS` with a home of its own. ``chunk``: users and samples between two points to continue from."""

    words: tuple[str, ...]
    home: Path
    chunk: int = 20
    threads: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)

    def at(self, home: Path) -> Job:
        return replace(self, home=home)


@dataclass(frozen=True)
class Undisturbed:
    """A job that ran to its end: on what data, how many changes it made to its home, and how long it took."""

    job: Job
    dataset: RecDataset
    changes: int
    lasts_s: float


@dataclass
class Attempt:
    """A running or ended process: ``code`` once it has ended (−9: killed), ``said`` on both its outputs."""

    process: ForkServerProcess
    log: Path
    started: float

    def wait(self, timeout_s: float | None = None) -> int | None:
        self.process.join(timeout_s)
        return self.process.exitcode

    def kill(self) -> None:
        self.process.kill()
        self.process.join()

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")


def start(job: Job, at: int | None = None) -> Attempt:
    """Start the job in a process that has all libraries loaded; ``at``: it dies at its so manieth change of the home."""
    job.home.mkdir(parents=True, exist_ok=True)
    log = job.home.parent / f"{job.home.name}-{time.monotonic_ns()}.log"
    log.touch()
    processes.set_forkserver_preload(list(PRELOAD))
    process = processes.Process(target=_attempt, args=(job, log, at))
    with mock.patch.dict(os.environ, {"OMP_NUM_THREADS": "1"}):
        process.start()
    return Attempt(process, log, time.monotonic())


def finish(job: Job, timeout_s: float = 600) -> str:
    """Run the job to its end and return what it said; AssertionError unless it ended well."""
    attempt = start(job)
    code = attempt.wait(timeout_s)
    assert code == 0, f"exit code {code}:\n{attempt.said}"
    return attempt.said


def changes(job: Job) -> int:
    """How often the job changes something in its home, from where that is now; runs it to its end."""
    return int(finish(replace(job, environment={**job.environment, "COUNT": "1"})).rsplit("changes: ", 1)[1])


def quick_run(folder: Path) -> Undisturbed:
    """DEALRec, all its stages real and tiny, for a backbone that only counts."""
    (folder / "stepwise.py").write_text(PLUGIN)
    words = with_settings((*QUICK, "--plugin", str(folder / "stepwise.py")), SURROGATE)
    return run_undisturbed(Job(words, folder / "undisturbed"), small_data())


def real_run(backbone: str, folder: Path) -> Undisturbed:
    """DEALRec for a real backbone, small."""
    words = with_settings((*QUICK[:-1], backbone), (*SURROGATE, *REAL[backbone]))
    return run_undisturbed(Job(words, folder / "undisturbed"), replace(generate(SMALL_WORLD, 0), name="small"))


def run_undisturbed(job: Job, dataset: RecDataset) -> Undisturbed:
    Library(job.home).install(dataset)
    finish(replace(job, words=("ls",)))  # so that the libraries are loaded when the clock starts
    started = time.monotonic()
    return Undisturbed(job, dataset, changes(job), time.monotonic() - started)


def with_settings(words: tuple[str, ...], settings: tuple[str, ...]) -> tuple[str, ...]:
    return (*words, *(part for setting in settings for part in ("--set", setting)))


def _attempt(job: Job, log: Path, at: int | None) -> None:
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update({"COLUMNS": "200", **job.environment, "PRUNEBENCH_HOME": str(job.home)})

    import torch

    from prunebench.benchmark import cli, engines, harness
    from prunebench.benchmark.store import Store
    from prunebench.recommenders import resumable

    torch.set_num_threads(job.threads)
    engines.PROCESSES = multiprocessing.get_context("fork")  # jobs that have their libraries already
    harness.CHUNK = job.chunk
    resumable.in_chunks.__defaults__ = (job.chunk,)
    sys.argv = ["bench", *job.words]
    publish = Store._publish

    def logged(store: Store, artefact: Any, *rest: Any) -> None:
        with built_log(job.home).open("a") as file:
            file.write(f"{artefact.stage}/{artefact.hash}\n")
        publish(store, artefact, *rest)

    Store._publish = logged  # type: ignore[method-assign]
    death = _Death(job.home, at)
    if at is not None or "COUNT" in job.environment:
        sys.addaudithook(death)
    cli.main()
    sys.stdout.flush()
    if "COUNT" in job.environment:
        os.write(1, f"\nchanges: {death.seen}\n".encode())


class _Death:
    """Kills this process just before its ``at``-th change of a file below ``home``, leaving what it would write torn."""

    def __init__(self, home: Path, at: int | None) -> None:
        self.home, self.at, self.seen = str(home.resolve()), at, 0

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if event not in _CHANGES:
            return
        name = os.fsdecode(args[0]) if isinstance(args[0], (str, bytes, os.PathLike)) else ""
        if not os.path.isabs(name) and isinstance(args[-1], int) and args[-1] > 2 and event != "open":
            name = os.path.join(os.readlink(f"/proc/self/fd/{args[-1]}"), name)
        if not os.path.abspath(name).startswith(self.home):
            return
        writes = event == "open" and bool(args[2] & (os.O_WRONLY | os.O_RDWR))
        if event == "open" and not writes:
            return
        self.seen += 1
        if self.seen == self.at:
            if writes and not name.endswith(".lock") and os.path.isdir(os.path.dirname(name)):
                descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | (args[2] & (os.O_APPEND | os.O_TRUNC)))
                os.write(descriptor, b'{"torn')
            os.kill(os.getpid(), signal.SIGKILL)


def built_log(home: Path) -> Path:
    """A line for every artefact that was built, beside the home."""
    return home.parent / f"{home.name}-built.txt"


# -- afterwards --------------------------------------------------------------------------------------------------------


def records(home: Path) -> dict[str, dict[str, Any]]:
    """Every record of a home, by the name of the run."""
    return {path.parent.name: json.loads(path.read_text()) for path in sorted((home / "runs").glob("*/record.json"))}


def the_record(home: Path) -> dict[str, Any]:
    """The only record of a home."""
    (record,) = records(home).values()
    return record


def timeless(value: Any) -> Any:
    """A record without what may differ from one run to the next."""
    if isinstance(value, dict):
        return {key: timeless(inner) for key, inner in value.items() if key not in VARIES}
    return [timeless(inner) for inner in value] if isinstance(value, list) else value


def contents(home: Path, *places: Path) -> dict[str, str]:
    """sha256 of every file of every artefact, but for manifests and cards, which have bills.

    An adapter says where its LLM lies: which of ``places`` that is makes no difference.
    """
    somewhere = re.compile(b"|".join(re.escape(bytes(place)) for place in places))
    return {
        path.relative_to(home).as_posix(): hashlib.sha256(somewhere.sub(b"HOME", path.read_bytes())).hexdigest()
        for path in (home / "store").rglob("*")
        if path.is_file() and path.name not in ("artefact.json", "manifest.json")
    }


def check_same(home: Path, undisturbed: Path) -> None:
    """The same records as the undisturbed home's but for times, of artefacts that are the same to the byte."""
    ours, expected = records(home), records(undisturbed)
    assert timeless(ours) == timeless(expected)
    for run in expected:
        for name in ("selection.txt", "per_user.npz"):
            paths = [folder / "runs" / run / name for folder in (home, undisturbed)]
            assert paths[0].read_bytes() == paths[1].read_bytes(), paths[0]
    ours, expected = (contents(place, home, undisturbed) for place in (home, undisturbed))
    assert not {path for path in ours.keys() | expected.keys() if ours.get(path) != expected.get(path)}
    check_tidy(home)


def check_tidy(home: Path) -> None:
    """Nothing unfinished is left, and each look at test is logged once."""
    assert not [path for path in (home / "scratch").rglob("*") if path.is_file()]
    assert not [
        path for path in home.rglob("*") if path.name.endswith((".tmp", ".half", ".new")) or ".half." in path.name
    ]
    logged = [json.loads(line)["run"] for line in (home / "test_evaluations.jsonl").read_text().splitlines()]
    assert sorted(logged) == sorted(path.name for path in (home / "runs").iterdir())


def check_bill(home: Path, undisturbed: Path, spent_s: float) -> None:
    """What was killed is apart; both together are no more than the time there was."""
    record = the_record(home)
    killed = [stage["wall_s"] for stage in record["killed"]]
    assert all(seconds > 0 for seconds in killed)
    assert sum(killed) + sum(stage["wall_s"] for stage in record["bill"]) <= spent_s
    assert [stage["hash"] for stage in record["bill"]] == [stage["hash"] for stage in the_record(undisturbed)["bill"]]


@contextmanager
def fresh(folder: Path, dataset: RecDataset) -> Iterator[Path]:
    """A home with the data set installed, removed afterwards unless a check failed."""
    Library(folder).install(dataset)
    yield folder
    shutil.rmtree(folder)
