"""The signal of semantic IDs: what decides its hash, what it notes, and that it is nothing a method uses."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from prunebench.benchmark.item_signals import SemanticIDsConfig, SemanticIDsSignal
from prunebench.benchmark.providers import EffortSignal
from prunebench.benchmark.signals import Context, Graph
from prunebench.benchmark.store import Store
from prunebench.datasets.schema import RecDataset, Sequences
from prunebench.recommenders.base import Request
from prunebench.recommenders.encoder import EncoderConfig
from prunebench.recommenders.runtime import Runtime
from prunebench.recommenders.tiger.config import TokeniserConfig
from prunebench.recommenders.tiger.tokeniser import fit_semantic_ids

SMALL = {"hidden": [32, 16], "width": 8, "batch": 64, "epochs": 2}
VECTORS = np.random.default_rng(0).normal(size=(30, 12)).astype(np.float32)


def config(kind: str, **rqvae: Any) -> SemanticIDsConfig:
    return SemanticIDsConfig.model_validate({"kind": kind, "rqvae": rqvae})


def test_only_settings_in_use_are_dumped() -> None:
    plain, other = config("rkmeans"), config("rkmeans", epochs=9)
    assert plain.model_dump(mode="json") == other.model_dump(mode="json")
    assert config("rqvae").model_dump(mode="json") != config("rqvae", epochs=9).model_dump(mode="json")
    for knobs in (config("rqvae", epochs=9), SemanticIDsConfig()):
        assert SemanticIDsConfig.model_validate(knobs.model_dump(mode="json")) == knobs
        assert SemanticIDsConfig.model_validate_json(knobs.model_dump_json()) == knobs


class Vectors:
    """Title vectors without an encoder."""

    Config = EncoderConfig
    version, phase, seeded, reads = 1, "inference", False, ("titles",)

    def needs(self, config: EncoderConfig, context: Context) -> dict[str, Request]:
        return {}

    def key(self, config: EncoderConfig, context: Context) -> dict[str, Any]:
        return {}

    def build(self, config: EncoderConfig, context: Context, work: Any) -> None:
        np.save(work.folder / "vectors.npy", VECTORS)

    def load(self, config: EncoderConfig, context: Context, artefact: Any) -> Any:
        return SimpleNamespace(vectors=np.load(artefact.folder / "vectors.npy"))


class Tiger:
    """A backbone with an effort that needs the items' IDs."""

    version = 1

    def __init__(self, config: Any = None, resources: Any = None) -> None:
        self.config, self.resources = config, resources

    def needs(self, stage: str) -> dict[str, Request]:
        return {"ids": Request("semantic_ids")}

    def key(self, stage: str) -> dict[str, Any]:
        return {}

    def effort(self, samples: Any, runtime: Runtime) -> np.ndarray:
        return np.full(len(samples), len(self.resources.values["ids"].codes), np.float32)


def graph(home: Path, seed: int = 0) -> Graph:
    parts = {"title_vectors": Vectors, "semantic_ids": SemanticIDsSignal, "effort": EffortSignal}
    registry: Any = SimpleNamespace(
        resolve=lambda kind, name: parts[name],
        origin=lambda kind, name: SimpleNamespace(sha256=None),
        built_in=lambda kind, name: True,
    )
    rows = Sequences.from_rows([[item, item + 1, item + 2] for item in range(28)])
    titles = tuple(f"title {item}" for item in range(30))
    dataset = RecDataset("tiny", titles, rows, Sequences.from_rows([[0]] * 28), Sequences.empty(28))
    queries, run = (
        dataset.queries("valid"),
        SimpleNamespace(backbone="tiger", plugins={}, seeds=SimpleNamespace(signal=seed)),
    )
    reporter: Any = SimpleNamespace(
        stage=lambda name: contextlib.nullcontext(lambda done, total, what: None), built=lambda artefact: None
    )
    context: Any = Context(dataset, dataset.samples(), queries, queries, run, registry, None, Tiger(), Runtime())  # type: ignore[arg-type]
    return Graph(context, Store(home), reporter)


def test_the_signal_is_built_once_and_noted(tmp_path: Path) -> None:
    made = graph(tmp_path)
    artefact, ids = made.artefact(Request("semantic_ids")), made.value(Request("semantic_ids"))
    expected = fit_semantic_ids(VECTORS, TokeniserConfig(), Runtime())
    assert ids.codes.tobytes() == expected.codes.tobytes()
    assert artefact.info["notes"] == ids.quality == expected.quality
    assert artefact.phase == "fine-tuning"
    assert artefact.upstream == (made.artefact(Request("title_vectors")).hash,)
    assert made.reads["semantic_ids"] == ["titles"]


def test_the_signals_hash_follows_what_decides_the_ids(tmp_path: Path) -> None:
    def address(seed: int = 0, **settings: Any) -> str:
        return graph(tmp_path, seed).artefact(Request("semantic_ids", settings)).hash

    first = address()
    assert first == address(seed=5) == address(encoder={"batch_size": 32}) == address(rqvae={"epochs": 3})
    assert len({first, address(codes=8), address(codebooks=2), address(encoder={"name": "other"})}) == 4
    assert first != address(kind="rqvae", rqvae={**SMALL, "epochs": 1}) != address(kind="rqvae", rqvae=SMALL)


def test_a_backbones_ids_are_no_text_that_the_method_uses(tmp_path: Path) -> None:
    made = graph(tmp_path)
    made.artefact(Request("semantic_ids"))
    assert made.models == set()
    assert (made.value(Request("effort")) == 30).all()
    assert made.models == {"backbone"}
