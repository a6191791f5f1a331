"""A backbone that counts, as a plugin file, and 60 users for it: runs through the command line in no time."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from prunebench.datasets.library import Library
from prunebench.datasets.schema import RecDataset, Sequences

PLUGIN = '''
"""A backbone that ranks items by how often they were targets of the samples; it prints where it should not."""

import json
import numpy as np
from prunebench.recommenders.base import Config, FitReport, Rankings


class Counted:
    name = "counted"
    version = 1
    uses_samples = True
    reads = ("samples",)

    class Config(Config):
        smoothing: float = 0.0

    def __init__(self, config, resources):
        self.config, self.resources = config, resources
        self.report = FitReport()

    def needs(self, stage):
        return {}

    def key(self, stage):
        return self.config.model_dump()

    def fit(self, samples, stop, runtime, folder):
        print("fitting, on standard output")
        self.counts = np.bincount(samples.targets, minlength=self.resources.dataset.n_items)
        self.report = FitReport(steps=1, samples=len(samples))
        return self

    def save(self, folder):
        (folder / "counts.json").write_text(json.dumps(self.counts.tolist()))

    def load(self, folder, runtime):
        self.counts = np.array(json.loads((folder / "counts.json").read_text()))
        return self

    def recommend(self, histories, depth, runtime):
        scores = np.broadcast_to(self.counts.astype(np.float32), (len(histories), len(self.counts)))
        return Rankings.from_scores(scores, depth)


class Newest:
    """Keeps the samples with the highest ids."""

    name = "newest"
    version = 1

    class Config(Config):
        broken: str = ""

    def __init__(self, config):
        self.config = config

    def requests(self):
        return {}

    def evidence_key(self):
        return {}

    def prepare(self, samples, signals, runtime):
        return {"score": samples.ids.astype(np.float32)}

    def select(self, samples, evidence, budget, runtime):
        from prunebench.methods.base import Selection

        ids = samples.ids[np.argsort(evidence["score"])[-budget:]]
        if self.config.broken == "few":
            ids = ids[1:]
        if self.config.broken == "twice":
            ids = np.concatenate([ids[1:], ids[-1:]])
        if self.config.broken == "foreign":
            ids = np.concatenate([ids[1:], [10**9]])
        return Selection(ids)
'''

COUNTED = ("--dataset", "tiny", "--plugin", "plug.py", "--backbone", "counted", "--method", "random")
"""What `bench run` and `bench prune` are told to use both, in the folder of ``install_counted``."""


def tiny(shortest: int = 1) -> RecDataset:
    """60 users with ``shortest`` training items or more, 30 items."""
    rng = np.random.default_rng(0)

    def rows(low: int, high: int) -> Sequences:
        return Sequences.from_rows([rng.integers(0, 30, rng.integers(low, high)).tolist() for _ in range(60)])

    titles = tuple(f"Game {number}" for number in range(30))
    return RecDataset("tiny", titles, rows(shortest, 6), rows(0, 3), rows(0, 3))


def install_counted(folder: Path) -> None:
    """Install `tiny` in folder/home and write the plugin to folder/plug.py."""
    Library(folder / "home").install(tiny())
    (folder / "plug.py").write_text(PLUGIN)
