"""Vectors of users as signals: whose text is read, how much of it, once, in chunks, joined by id."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from prunebench.benchmark import vector_signals
from prunebench.benchmark.signals import Context
from prunebench.benchmark.store import Store, Workspace
from prunebench.benchmark.vector_signals import (
    TextConfig,
    UserTextVectorsSignal,
    UserVectorsSignal,
    ValidationTextVectorsSignal,
)
from prunebench.datasets.schema import RecDataset, Sequences
from prunebench.recommenders import encoder as encoder_module
from prunebench.recommenders.base import Config, RecommenderError, Request
from prunebench.recommenders.encoder import EncoderConfig, SentenceEncoder
from prunebench.recommenders.runtime import Runtime
from prunebench.recommenders.user_texts import SEPARATOR, title_tokens, user_texts

TRAIN = [[0, 1], [2], [3, 0, 1, 2, 3], [0, 1], [], [1, 3, 2]]
VALID = [[2], [1, 0], [], [], [3], []]
TITLES = ("Doom", "Mario Kart", "Zelda", "The Last of Us")


class Words:
    """An encoder of words: its vector of a text is made of the text's characters, its window holds six words."""

    window = 6

    def __init__(self, fails_after: int | None = None) -> None:
        self.read: list[str] = []
        self.fails_after = fails_after

    def tokenizer(self, texts: Sequence[str], add_special_tokens: bool) -> dict[str, list[list[int]]]:
        assert not add_special_tokens
        return {"input_ids": [[0] * len(text.replace(";", "").split()) for text in texts]}

    def encode(self, texts: Sequence[str], runtime: Runtime | None = None) -> np.ndarray:
        if self.fails_after is not None and len(self.read) >= self.fails_after:
            raise KeyboardInterrupt
        self.read += texts
        if runtime is not None:
            runtime.report(1, 1, "words")
        return np.stack([vector_of(text) for text in texts])


def vector_of(text: str) -> np.ndarray:
    sums = np.array([sum(map(ord, text)), len(text), 1], np.float32)
    return sums / np.linalg.norm(sums)


class Reader:
    """A backbone with user vectors: how many items, their sum."""

    version = 7

    def __init__(self, config: Config | None = None, resources: Any = None) -> None:
        self.config = config

    def needs(self, stage: str) -> dict[str, Request]:
        return {"llm": Request("llm", {"name": stage})}

    def key(self, stage: str) -> dict[str, Any]:
        return {"stage": stage}

    def user_vectors(self, histories: Sequences, runtime: Runtime) -> np.ndarray:
        return np.array([[len(row), row.sum()] for row in histories], np.float32) * (histories.lengths > 2)[:, None]


def context_of(**parts: Any) -> Context:
    train, valid = Sequences.from_rows(TRAIN), Sequences.from_rows(VALID)
    dataset = RecDataset("tiny", TITLES, train, valid, Sequences.empty(6))
    queries = dataset.queries("valid")
    defaults: dict[str, Any] = {
        "dataset": dataset,
        "samples": dataset.samples(),
        "stop": queries,
        "select": queries,
        "run": SimpleNamespace(backbone="reader", plugins={}),
        "registry": None,
        "surrogate": None,
        "backbone": Reader(),
        "runtime": Runtime(),
    }
    return Context(**{**defaults, **parts})


def with_encoder(encoder: Any, **parts: Any) -> Context:
    return context_of(inputs={"title_vectors": SimpleNamespace(encoder=encoder)}, **parts)


def value(signal: Any, config: Config, context: Context, home: Path, again: Context | None = None) -> np.ndarray:
    """What a signal builds in a store of its own, and loads for ``again``."""

    def make(work: Workspace) -> dict[str, Any] | None:
        return signal.build(config, replace(context, runtime=replace(context.runtime, saved=work.keep)), work)

    artefact = Store(home, device="here").get_or_build("vectors", 1, {}, make, phase="pruning")
    return signal.load(config, again or context, artefact)


def test_a_users_text_is_the_newest_titles_that_fit(tmp_path: Path) -> None:
    encoder = Words()
    context = with_encoder(encoder)
    vectors = value(UserTextVectorsSignal(), TextConfig(), context, tmp_path)
    # Users 0 and 3 have the same text, user 2's oldest titles do not fit, user 4 is no sample.
    texts = ["Doom; Mario Kart", "Zelda; The Last of Us", "Doom; Mario Kart", "The Last of Us; Zelda"]
    assert context.samples.ids.tolist() == [0, 2, 3, 5]
    assert sorted(encoder.read) == sorted(set(texts))
    np.testing.assert_array_equal(vectors, np.stack([vector_of(text) for text in texts]))


def test_vectors_are_joined_by_id(tmp_path: Path) -> None:
    context = with_encoder(Words())
    few = replace(context, samples=context.samples.take(np.array([2, 5])))
    vectors = value(UserTextVectorsSignal(), TextConfig(), context, tmp_path, few)
    np.testing.assert_array_equal(vectors, [vector_of("Zelda; The Last of Us"), vector_of("The Last of Us; Zelda")])


def test_validation_users_are_read_with_their_targets(tmp_path: Path) -> None:
    encoder = Words()
    context = with_encoder(encoder)
    vectors = value(ValidationTextVectorsSignal(), TextConfig(), context, tmp_path)
    texts = ["Doom; Mario Kart; Zelda", "Zelda; Mario Kart; Doom", "The Last of Us"]
    np.testing.assert_array_equal(vectors, np.stack([vector_of(text) for text in texts]))
    others = replace(context, select=context.select.take(np.array([1, 2])))
    with pytest.raises(RecommenderError, match="other validation users"):
        value(ValidationTextVectorsSignal(), TextConfig(), context, tmp_path, others)


def test_a_users_titles_may_be_read_one_by_one(tmp_path: Path) -> None:
    titles = np.eye(4, 3, dtype=np.float32) + 1
    context = context_of(inputs={"title_vectors": SimpleNamespace(vectors=titles)})
    for signal, sequences in (
        (UserTextVectorsSignal(), context.samples.sequences),
        (ValidationTextVectorsSignal(), context.select.histories.join(context.select.targets)),
    ):
        config = TextConfig(source="titles")
        assert signal.needs(config, context) == {"title_vectors": Request("title_vectors")}
        means = np.array([titles[row].mean(axis=0) for row in sequences])
        vectors = value(signal, config, context, tmp_path / type(signal).__name__)
        np.testing.assert_allclose(vectors, means / np.linalg.norm(means, axis=1, keepdims=True), rtol=1e-6)


def test_no_validation_users_is_said_before_anything_is_built() -> None:
    nobody = context_of(select=context_of().select.take(np.empty(0, np.int64)))
    with pytest.raises(RecommenderError, match="tiny has no validation users"):
        ValidationTextVectorsSignal().needs(TextConfig(), nobody)


def test_a_killed_reading_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_signals, "CHUNK", 1)
    dying, heir = Words(fails_after=2), Words()
    with pytest.raises(KeyboardInterrupt):
        value(UserTextVectorsSignal(), TextConfig(), with_encoder(dying), tmp_path)
    done: list[int] = []
    runtime = Runtime(report=lambda count, total, what: done.append(count))
    vectors = value(UserTextVectorsSignal(), TextConfig(), with_encoder(heir, runtime=runtime), tmp_path)
    assert len(dying.read) == 2
    assert len(heir.read) == 1
    assert done == [3]
    whole = value(UserTextVectorsSignal(), TextConfig(), with_encoder(Words()), tmp_path / "other")
    np.testing.assert_array_equal(vectors, whole)


def test_the_surrogate_reads_history_and_target(tmp_path: Path) -> None:
    context = context_of(inputs={"surrogate": Reader()})
    config = UserVectorsSignal.Config()
    vectors = value(UserVectorsSignal(), config, context, tmp_path)
    np.testing.assert_array_equal(vectors, [[0, 0], [5, 9], [0, 0], [3, 6]])
    assert UserVectorsSignal().needs(config, context) == {"surrogate": Request("surrogate")}
    assert UserVectorsSignal().key(config, context) == {}
    assert UserVectorsSignal().reads_with(config) == ("train",)


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_the_backbone_reads_in_chunks(chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_signals, "CHUNK", chunk)
    context, config = context_of(), UserVectorsSignal.Config(source="backbone")
    vectors = value(UserVectorsSignal(), config, context, tmp_path)
    np.testing.assert_array_equal(vectors, [[0, 0], [5, 9], [0, 0], [3, 6]])
    assert UserVectorsSignal().needs(config, context) == {"llm": Request("llm", {"name": "vectors"})}
    assert UserVectorsSignal().key(config, context)["settings"] == {"stage": "vectors"}
    assert UserVectorsSignal().key(config, context)["code"] == 7
    assert set(UserVectorsSignal().reads_with(config)) == {"train", "titles"}


def test_the_backbones_texts_are_its_user_vectors_at_length_one(tmp_path: Path) -> None:
    config = TextConfig(source="backbone")
    read = np.array([[0, 0], [3, 4], [0, -2], [5, 12]], np.float32)
    context = context_of(inputs={"user_vectors": read})
    vectors = value(UserTextVectorsSignal(), config, context, tmp_path)
    np.testing.assert_allclose(vectors, [[0, 0], [0.6, 0.8], [0, -1], [5 / 13, 12 / 13]], rtol=1e-6)
    assert UserTextVectorsSignal().needs(config, context) == {
        "user_vectors": Request("user_vectors", {"source": "backbone"})
    }
    validation = value(ValidationTextVectorsSignal(), config, context_of(), tmp_path / "validation")
    np.testing.assert_allclose(validation, [[0.70710677, 0.70710677], [0.70710677, 0.70710677], [0, 0]], rtol=1e-6)
    assert ValidationTextVectorsSignal().key(config, context)["backbone"] == "reader"


ASKED: list[Callable[[Context], object]] = [
    lambda context: UserVectorsSignal().needs(UserVectorsSignal.Config(source="backbone"), context),
    lambda context: UserVectorsSignal().key(UserVectorsSignal.Config(source="backbone"), context),
    lambda context: ValidationTextVectorsSignal().needs(TextConfig(source="backbone"), context),
]


@pytest.mark.parametrize("ask", ASKED)
def test_a_backbone_without_vectors_is_one_clear_line(ask: Callable[[Context], object]) -> None:
    with pytest.raises(RecommenderError, match="reader has no user vectors; take them from the surrogate"):
        ask(context_of(backbone=SimpleNamespace()))


@pytest.mark.skipif(
    importlib.util.find_spec(encoder_module.PACKAGE) is None, reason="the packaged encoder is not installed"
)
def test_the_packaged_encoder_sees_the_newest_titles() -> None:
    """More titles than fit: the newest fill the window and decide the vector, and a further old one changes nothing."""
    encoder = SentenceEncoder(EncoderConfig())
    titles = (*(f"Half-Life {number}: Source, game of the year edition" for number in range(60)), "Doom")
    histories = Sequences.from_rows([list(range(1, 61)), list(range(61)), [60]])
    texts = user_texts(title_tokens(encoder.tokenizer, titles), titles, histories, encoder.window)
    assert texts[0] == texts[1]
    assert texts[0].endswith("Half-Life 59: Source, game of the year edition; Doom")
    assert texts[2] == "Doom"
    length = len(encoder.tokenizer(texts[0])["input_ids"])
    assert encoder.window + 2 - 20 < length <= encoder.window + 2
    cut, uncut, other = encoder.encode([texts[0], SEPARATOR.join(titles), texts[0].removesuffix("Doom") + "Zelda"])
    assert not np.allclose(cut, uncut, atol=1e-2)
    assert not np.allclose(cut, other, atol=1e-2)
