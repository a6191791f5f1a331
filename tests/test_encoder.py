"""The sentence encoder: verified weights, order, normalisation, no text twice."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from prunebench.recommenders import encoder as module
from prunebench.recommenders.base import RecommenderError
from prunebench.recommenders.encoder import EncoderConfig, SentenceEncoder, packaged_folder, verified
from prunebench.recommenders.runtime import Cancelled, Runtime

packaged = pytest.mark.skipif(
    importlib.util.find_spec(module.PACKAGE) is None, reason="the packaged encoder (extra `offline`) is not installed"
)
TEXTS = [
    "Half-Life 2 - PC",
    "Mario Kart 8",
    "Half-Life 2 - PC",
    "Charging cable for PlayStation 4, black, 3 m",
    "",
    "Doom",
]


@pytest.fixture(scope="module")
def encoder() -> SentenceEncoder:
    return SentenceEncoder(EncoderConfig(batch_size=2))


@packaged
def test_vectors_are_unit_length_in_order_and_sentence_transformers_own(encoder: SentenceEncoder) -> None:
    vectors = encoder.encode(TEXTS)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(TEXTS), 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    plain = SentenceTransformer(str(packaged_folder()), device="cpu")
    for text, vector in zip(TEXTS, vectors, strict=True):
        np.testing.assert_allclose(vector, plain.encode(text, normalize_embeddings=True), atol=1e-5)
    assert vectors[0] @ vectors[5] > vectors[0] @ vectors[3], "a game is more like a game than like a cable"


@packaged
def test_equal_texts_are_encoded_once(encoder: SentenceEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    whole = encoder._model.encode

    def spy(texts: list[str], **options: object) -> np.ndarray:
        seen.extend(texts)
        return whole(texts, **options)

    monkeypatch.setattr(encoder._model, "encode", spy)
    vectors = encoder.encode(TEXTS)
    assert sorted(seen) == sorted(set(TEXTS))
    assert np.array_equal(vectors[0], vectors[2])


@packaged
def test_no_text_no_vector_and_progress_may_cancel(encoder: SentenceEncoder) -> None:
    assert encoder.encode([]).shape == (0, 384)
    with pytest.raises(Cancelled):
        encoder.encode(TEXTS, Runtime(cancelled=lambda: True))


@packaged
def test_packaged_weights_are_verified() -> None:
    folder = packaged_folder()
    assert folder is not None
    assert (folder / "model.safetensors").is_file()


def test_other_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecommenderError, match=r"model\.safetensors is missing"):
        verified(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not the model")
    with pytest.raises(RecommenderError, match="expected 53aa51172d14") as raised:
        verified(tmp_path)
    assert "\n" not in str(raised.value)


def test_auto_falls_back_to_the_hub_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "packaged_folder", lambda: None)
    monkeypatch.setattr(module, "hub_commit", lambda name, what: "0" * 40)
    assert SentenceEncoder(EncoderConfig())._source() == module.HUB_NAME
    assert SentenceEncoder(EncoderConfig(name="some/model"))._source() == "some/model"


def test_a_folder_without_a_model_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(RecommenderError, match="could not be loaded") as raised:
        SentenceEncoder(EncoderConfig(name=str(tmp_path))).encode(["x"])
    assert "\n" not in str(raised.value)
    assert "prunebench[offline]" in str(raised.value)
