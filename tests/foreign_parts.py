"""Parts by other hands for the tests: whole ones, to be broken in one place, as files and as installed distributions."""

from __future__ import annotations

from pathlib import Path

import counted

from prunebench.datasets.library import Library
from prunebench.datasets.schema import RecDataset

HEAD = '''"""Parts by other hands."""

import json, os, sys
import numpy as np
from prunebench.methods.base import Method, Selection
from prunebench.recommenders.base import Config, FitReport, Rankings, Request

'''
METHOD = {
    "head": "class Kept(Method):\n    name = 'kept'\n",
    "requests": "def requests(self): return {}",
    "evidence_key": "def evidence_key(self): return {}",
    "prepare": "def prepare(self, samples, signals, runtime): return {'score': samples.ids.astype(np.float32)}",
    "select": "def select(self, samples, evidence, budget, runtime): return Selection(samples.ids[-budget:])",
}
BACKBONE = {
    "head": "class Counts:\n    name, version, uses_samples, reads = 'counts', 1, True, ('samples',)\n    Config = Config\n",
    "__init__": "def __init__(self, config, resources):\n"
    "        self.config, self.resources, self.report = config, resources, FitReport(steps=1)",
    "needs": "def needs(self, stage): return {}",
    "key": "def key(self, stage): return {}",
    "fit": "def fit(self, samples, stop, runtime, folder):\n"
    "        self.counts = np.bincount(samples.targets, minlength=self.resources.dataset.n_items)\n"
    "        return self",
    "save": "def save(self, folder): np.save(folder / 'counts.npy', self.counts)",
    "load": "def load(self, folder, runtime):\n"
    "        self.counts = np.load(folder / 'counts.npy')\n"
    "        return self",
    "recommend": "def recommend(self, histories, depth, runtime):\n"
    "        scores = np.broadcast_to(self.counts.astype(np.float32), (len(histories), len(self.counts)))\n"
    "        return Rankings.from_scores(scores, depth)",
}
SIGNAL = {
    "head": "class Ids:\n    name, version, phase, seeded, reads = 'ids', 1, 'pruning', False, ('train',)\n    Config = Config\n",
    "needs": "def needs(self, config, context): return {}",
    "key": "def key(self, config, context): return {}",
    "build": "def build(self, config, context, work): np.save(work.folder / 'ids.npy', context.samples.ids)",
    "load": "def load(self, config, context, artefact): return np.load(artefact.folder / 'ids.npy')",
}


def source(part: dict[str, str], **other: str | None) -> str:
    """A part's class, with some of its members written otherwise (None: left out)."""
    members = {**part, **other}
    return members.pop("head") + "".join(f"    {code}\n" for code in members.values() if code is not None) + "\n\n"  # type: ignore[operator]


def plugin(method: str = "", backbone: str = "", more: str = "") -> str:
    """A plugin file with a method `kept` and a backbone `counts`."""
    return HEAD + (method or source(METHOD)) + (backbone or source(BACKBONE)) + more


def install(site: Path, distribution: str, entry_points: str, **modules: str) -> None:
    """A distribution as pip leaves it, made by hand."""
    info = site / f"{distribution.replace('-', '_')}-1.5.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text(entry_points)
    for name, text in modules.items():
        (site / f"{name}.py").write_text(text)


def tiny() -> RecDataset:
    """60 users, all of them samples."""
    return counted.tiny(shortest=2)


def shelf(folder: Path) -> None:
    """`tiny`, installed in folder/home."""
    Library(folder / "home").install(tiny())
