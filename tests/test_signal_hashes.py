"""What changes a signal changes its hash, and what does not leaves it: nothing stale is used, nothing is built twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from prunebench.benchmark.harness import Harness
from prunebench.benchmark.progress import ConsoleReporter
from prunebench.benchmark.workbench import Choices, Seeds, Workbench
from prunebench.datasets.library import Library
from prunebench.datasets.synthetic import MiniConfig, generate
from prunebench.recommenders.base import Request

SHAPE = {"genres": 4, "franchises_per_genre": 3, "instalments": 3, "platforms": 2, "editions": 4, "longest": 6}
QUICK = ("surrogate.epochs=1", "surrogate.d=8")
SIGNALS = {
    "surrogate": Request("surrogate"),
    "influence": Request("influence"),
    "user_vectors": Request("user_vectors", {"source": "surrogate"}),
    "run 0": Request("surrogate", {"run": 0, "epochs": 1}),
    "run 1": Request("surrogate", {"run": 1, "epochs": 1}),
    "trajectory": Request("trajectory", {"epochs": 1}),
    "el2n": Request("el2n", {"epochs": 1}),
    "grand": Request("grand", {"runs": 1, "epochs": 1, "scope": "block"}),
    "forgetting": Request("forgetting", {"epochs": 1}),
}
STOPPED_EARLY = {"surrogate", "influence", "user_vectors"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    config = MiniConfig(users=120, valid_users=30, test_users=40, listed_twice=2, **SHAPE)
    for name, seed in (("one", 0), ("two", 1)):
        Library(folder).install(replace(generate(config, seed), name=name))
    return folder


def hashes(home: Path, *settings: str, seeds: Seeds | None = None, **choices: Any) -> dict[str, str]:
    bench = Workbench(home, ConsoleReporter(Console(quiet=True), quiet=True))
    asked = Choices(**{"dataset": "one", "method": "random", "backbone": "popular", "budget": "20", **choices})
    run, dataset, _ = bench.resolve(asked, (*QUICK, *settings), {}, seeds or Seeds(), select_only=True)
    harness: Harness = bench.harness(run, dataset)
    return {name: harness.graph.artefact(request).hash for name, request in SIGNALS.items()}


@pytest.mark.parametrize(
    ("settings", "choices", "changed"),
    [
        ((), {}, set()),
        ((), {"seeds": Seeds(selection=5, finetune=5)}, set()),
        ((), {"backbone": "content_knn"}, set()),
        ((), {"budget": "7"}, set()),
        ((), {"seeds": Seeds(signal=1)}, set(SIGNALS)),
        ((), {"dataset": "two"}, set(SIGNALS)),
        ((), {"surrogate": "gru4rec"}, set(SIGNALS)),
        (("surrogate.learning_rate=0.01",), {}, set(SIGNALS)),
        (("surrogate.epochs=2",), {}, STOPPED_EARLY),
    ],
)
def test_a_signals_hash_follows_what_it_is_made_of(
    home: Path, settings: tuple[str, ...], choices: dict[str, Any], changed: set[str]
) -> None:
    before, after = hashes(home), hashes(home, *settings, **choices)
    assert {name for name in SIGNALS if before[name] != after[name]} == changed


def test_every_signal_is_its_own(home: Path) -> None:
    assert len(set(hashes(home).values())) == len(SIGNALS)
