"""Ctrl-C while any other signal is built than DEALRec's: one line, nothing of it kept, and the same command ends."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import pytest
from crashes import with_settings
from forked_bench import Trap, bench
from small_world import SMALL_WORLD
from test_interrupts import STAGES, check_one_line
from test_main_job import SMALL

from prunebench.benchmark.plugins import Registry
from prunebench.datasets.library import Library
from prunebench.datasets.synthetic import generate

TIGER = ("backbone.tokeniser.codes=4", "backbone.layers=1", "backbone.width=16", "backbone.max_steps=2")
SIGNALS: dict[str, tuple[str, tuple[str, ...]]] = {
    "el2n": ("el2n", ()),
    "trajectory": ("forgetting", ("method.epochs=2",)),
    "forgetting": ("forgetting", ("method.epochs=3",)),
    "grand": ("grand", ("method.runs=2", "method.epochs=2")),
    "user_vectors": ("herding", ()),
    "user_text_vectors": ("goracs", ("method.lam=0", "method.exchanges=1")),
    "validation_text_vectors": ("goracs", ("method.lam=0", "method.exchanges=1", "method.text=titles")),
    "token_errors": ("el2n", ("method.signal=backbone",)),
    "less": ("less", ("method.epochs=1", "method.projection=16")),
    "semantic_ids": ("random", TIGER),
}
"""By stage, a method that asks for it, with settings that keep it short and that no other here has."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("signals") / "home"
    Library(folder).install(replace(generate(SMALL_WORLD, 0), name="small"))
    return folder


def test_every_signal_is_interrupted_somewhere() -> None:
    assert {*SIGNALS, *STAGES} >= {*Registry().names("signals")}


@pytest.mark.parametrize("stage", SIGNALS)
def test_a_signal_that_is_interrupted_is_built_by_the_same_command(home: Path, stage: str) -> None:
    method, settings = SIGNALS[stage]
    job = ("run", "--backbone", "tiger") if stage == "semantic_ids" else ("prune",)
    shared = () if stage == "semantic_ids" else tuple(SMALL)
    words = with_settings((*job, "--dataset", "small", "--method", method, "--budget", "9"), (*shared, *settings))
    before = {*home.glob(f"store/{stage}/*")}
    check_one_line(bench(home, words, Trap(stage, signal=int(signal.SIGINT))), 130)
    assert {*home.glob(f"store/{stage}/*")} == before
    done = bench(home, words)
    assert done.code == 0, done.err
    assert {*home.glob(f"store/{stage}/*")} > before
