"""Dependencies, bills and resumption: every stage built once, paid for once, and continued after a kill."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from crashes import Job, finish, start, the_record, with_settings

from prunebench.benchmark.config import presets
from prunebench.benchmark.harness import ids_digest
from prunebench.benchmark.rankings import load_rankings, save_rankings
from prunebench.benchmark.records import bill
from prunebench.benchmark.signals import LoadedResources, split_validation
from prunebench.benchmark.store import Store, Workspace
from prunebench.datasets.library import Library
from prunebench.datasets.schema import RecDataset, Sequences
from prunebench.leaderboard.record import total
from prunebench.recommenders.base import Rankings, RecommenderError


def data(valid_users: int = 40) -> RecDataset:
    rng = np.random.default_rng(1)

    def rows(low: int, high: int, users: int) -> Sequences:
        chosen = [rng.integers(0, 25, rng.integers(low, high)).tolist() for _ in range(users)]
        return Sequences.from_rows([*chosen, *[[]] * (80 - users)])

    return RecDataset(
        "tiny", tuple(f"Game {n}" for n in range(25)), rows(2, 6, 80), rows(1, 3, valid_users), rows(1, 3, 60)
    )


@pytest.mark.parametrize(("users", "stop"), [(40, 20), (7, 3), (80, 40)])
def test_validation_users_are_split_once_and_apart(users: int, stop: int) -> None:
    queries = data(users).queries("valid")
    chosen, stopping = split_validation(queries)
    assert len(stopping) == stop
    assert sorted([*chosen.users, *stopping.users]) == queries.users.tolist()
    again = split_validation(queries)
    assert np.array_equal(again[0].users, chosen.users)
    assert np.array_equal(again[1].users, stopping.users)


def test_pretraining_pays_for_what_only_it_needed(tmp_path: Path) -> None:
    store = Store(tmp_path, device="here")

    def nothing(work: Workspace) -> None:
        (work.folder / "file").write_text("x")

    vectors = store.get_or_build("title_vectors", 1, {}, nothing, phase="inference")
    llm = store.get_or_build("llm", 1, {}, nothing, [vectors], phase="pretraining")
    fit = store.get_or_build("fit", 1, {}, nothing, [llm], phase="fine-tuning")
    ranked = store.get_or_build("predictions", 1, {}, nothing, [fit], phase="inference")
    phases = {stage.stage: stage.phase for stage in bill(store, [ranked])[0]}
    assert phases == {
        "title_vectors": "pretraining",
        "llm": "pretraining",
        "fit": "fine-tuning",
        "predictions": "inference",
    }
    grounded = store.get_or_build(
        "predictions", 1, {"grounding": "sentence"}, nothing, [fit, vectors], phase="inference"
    )
    stages = bill(store, [grounded])[0]
    assert {stage.stage: stage.phase for stage in stages}["title_vectors"] == "inference"
    assert total(stages).total_s == pytest.approx(sum(stage.wall_s for stage in stages if stage.stage != "llm"))


def test_resources_refuse_what_was_not_declared() -> None:
    with pytest.raises(RecommenderError, match="needs"):
        LoadedResources(data()).title_vectors()


def test_rankings_survive_chunking(tmp_path: Path) -> None:
    scores = np.random.default_rng(0).integers(0, 4, (9, 12)).astype(np.float32)
    whole = Rankings.from_scores(scores, np.full(9, 3))
    order = np.random.default_rng(1).permutation(9)
    parts = [
        Rankings.from_scores(scores[order[at : at + 4]], np.full(len(order[at : at + 4]), 3)) for at in range(0, 9, 4)
    ]
    for number, part in enumerate(parts):
        save_rankings(tmp_path / f"{number}.npz", part)
    joined = Rankings.concatenate([load_rankings(tmp_path / f"{number}.npz") for number in range(3)])
    back = joined.take(np.argsort(order))
    assert np.array_equal(back.items, whole.items)
    assert np.array_equal(back.scores, whole.scores)
    assert np.array_equal(back.offsets, whole.offsets)


def test_digest_of_ids_ignores_their_order() -> None:
    assert ids_digest(np.array([3, 1, 2])) == ids_digest(np.array([1, 2, 3])) != ids_digest(np.array([1, 2, 4]))


DYING = '''
"""A backbone that is killed the first time: in its fit, or while ranking the second chunk."""

import json, os, signal, time
import numpy as np
from prunebench.recommenders.base import Config, FitReport, Rankings


class Dying:
    name = "dying"
    version = 1
    uses_samples = True
    reads = ("samples",)

    class Config(Config):
        die_in: str
        marks: str

    def __init__(self, config, resources):
        self.config, self.resources, self.report = config, resources, FitReport()

    def needs(self, stage):
        return {}

    def key(self, stage):
        return {}

    def _once(self, what):
        path = os.path.join(self.config.marks, what)
        if self.config.die_in == what and not os.path.exists(path):
            open(path, "w").close()
            time.sleep(4)  # longer than a heartbeat: what is lost is known to a few seconds
            os.kill(os.getpid(), signal.SIGKILL)

    def _log(self, what):
        with open(os.path.join(self.config.marks, "log"), "a") as log:
            log.write(what + "\\n")

    def fit(self, samples, stop, runtime, folder):
        if not (folder / "half").exists():
            self._log("first half")
            (folder / "half").write_text("done")
            runtime.saved()
        self._once("fit")
        self._log("second half")
        self.report = FitReport(steps=2, samples=len(samples))
        return self

    def save(self, folder):
        (folder / "model.json").write_text("{}")

    def load(self, folder, runtime):
        return self

    def recommend(self, histories, depth, runtime):
        self._log(f"rank {len(histories)}")
        if os.path.exists(os.path.join(self.config.marks, "chunk")) or self.config.die_in != "rank":
            pass
        else:
            open(os.path.join(self.config.marks, "chunk"), "w").close()
            scores = np.zeros((len(histories), self.resources.dataset.n_items), np.float32)
            return Rankings.from_scores(scores, depth)
        self._once("rank")
        scores = np.zeros((len(histories), self.resources.dataset.n_items), np.float32)
        return Rankings.from_scores(scores, depth)
'''


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a fork server")
@pytest.mark.parametrize("die_in", ["fit", "rank"])
def test_a_killed_run_continues_and_its_record_says_what_was_lost(tmp_path: Path, die_in: str) -> None:
    home, marks = tmp_path / "home", tmp_path / "marks"
    marks.mkdir()
    Library(home).install(data())
    (tmp_path / "dying.py").write_text(DYING)
    words = ("run", "--dataset", "tiny", "--method", "random", "--backbone", "dying", "--budget", "30")
    settings = (f"backbone.die_in={die_in}", f"backbone.marks={marks}")
    job = Job(with_settings((*words, "--plugin", str(tmp_path / "dying.py")), settings), home, chunk=25)
    killed = start(job)
    assert killed.wait() == -signal.SIGKILL, killed.said
    assert not list((home / "runs").glob("*"))
    finish(job)
    record = the_record(home)
    log = (marks / "log").read_text().split("\n")[:-1]
    ranked = sorted(line for line in log if line.startswith("rank"))
    assert log.count("first half") == 1, "the checkpoint was not continued"
    assert log.count("second half") == 1
    if die_in == "rank":
        assert ranked == ["rank 10", "rank 25", "rank 25", "rank 25"], "a finished chunk was ranked again"
    assert all(2 < stage["wall_s"] < 10 for stage in record["killed"])
    assert {stage["stage"] for stage in record["killed"]} == {"fit" if die_in == "fit" else "predictions"}
    finish(job)
    assert the_record(home) == record


def test_a_methods_preset_is_its_own() -> None:
    """λ means something else to other methods that have one."""
    assert presets("book", "dealrec", "bigrec", "catalogue")["method"] == {"lam": 1.0}
    assert presets("book", "goracs", "bigrec", "catalogue")["method"] == {}
