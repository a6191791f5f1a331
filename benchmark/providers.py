"""Signals made of titles and the LLM: title vectors, the base LLM, effort."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from prunebench.benchmark.config import build
from prunebench.benchmark.scores import keep_scores, scores_of
from prunebench.benchmark.signals import Context
from prunebench.benchmark.store import Artefact, Workspace
from prunebench.methods import selection
from prunebench.recommenders.base import ChecksMachine, Config, HasEffort, RecommenderError, Request, Stage
from prunebench.recommenders.bigrec.catalogue import CatalogueConfig, pretrain
from prunebench.recommenders.bigrec.folder import check_llm_folder
from prunebench.recommenders.encoder import EncoderConfig, SentenceEncoder
from prunebench.recommenders.hub import hub_commit, local_folder
from prunebench.recommenders.resumable import in_chunks
from prunebench.recommenders.runtime import Runtime

CATALOGUE = "catalogue"


def titles_digest(titles: tuple[str, ...]) -> str:
    return hashlib.sha256(json.dumps(titles).encode()).hexdigest()[:16]


def folder_digest(folder: Path) -> str:
    """sha256 over the names and bytes of a model folder: what a local LLM is, wherever it lies."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(path.relative_to(folder).as_posix().encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class TitleVectors:
    """Sentence vectors of all titles, float32 [n_items, d], and the encoder that made them for further texts."""

    vectors: np.ndarray
    encoder: SentenceEncoder

    def encode(self, texts: Any) -> np.ndarray:
        return self.encoder.encode(texts)


class TitleVectorsSignal:
    """Unit-length sentence embeddings of the item titles: for grounding, semantic IDs, references, and the catalogue LLM."""

    Config = EncoderConfig
    version, phase, seeded, reads = 1, "inference", False, ("titles",)

    def needs(self, config: EncoderConfig, context: Context) -> dict[str, Request]:
        return {}

    def key(self, config: EncoderConfig, context: Context) -> dict[str, Any]:
        return {"titles": titles_digest(context.dataset.titles)}

    def build(self, config: EncoderConfig, context: Context, work: Workspace) -> None:
        vectors = SentenceEncoder(config, context.runtime.device).encode(context.dataset.titles, context.runtime)
        np.save(work.folder / "vectors.npy", vectors)

    def load(self, config: EncoderConfig, context: Context, artefact: Artefact) -> TitleVectors:
        return TitleVectors(np.load(artefact.folder / "vectors.npy"), SentenceEncoder(config, context.runtime.device))


class LLMSignal:
    """The base LLM: the `catalogue` pre-trained here on item text, a local folder, or a Hub id."""

    class Config(Config):
        name: str = Field(CATALOGUE, description="catalogue, a Hub id, or a local folder")

    version, phase, seeded, reads = 1, "pretraining", False, ("titles",)

    def needs(self, config: Config, context: Context) -> dict[str, Request]:
        """The catalogue's sentence vectors. Raises RecommenderError where the LLM cannot be had, before anything is built."""
        if isinstance(context.backbone, ChecksMachine):
            context.backbone.check_machine(context.runtime)
        if config.name == CATALOGUE:
            return {"title_vectors": Request("title_vectors")}
        folder = local_folder(config.name, "LLM")
        if folder is None:
            hub_commit(config.name, "LLM")
        else:
            check_llm_folder(folder)
        return {}

    def key(self, config: Config, context: Context) -> dict[str, Any]:
        """A folder is its files, wherever it lies; a Hub id is the commit it stands for."""
        if config.name == CATALOGUE:
            catalogue = self._catalogue(context).model_dump(mode="json")
            return {"catalogue": catalogue, "titles": titles_digest(context.dataset.titles)}
        folder = local_folder(config.name, "LLM")
        if folder is not None:
            return {"config": {}, "files": folder_digest(folder)}
        return {"commit": hub_commit(config.name, "LLM")}

    def build(self, config: Config, context: Context, work: Workspace) -> dict[str, Any]:
        if config.name != CATALOGUE:
            return {}
        vectors = context.inputs["title_vectors"].vectors
        catalogue = self._catalogue(context)
        return pretrain(context.dataset.titles, vectors, catalogue, context.runtime, work.folder, work.scratch)

    def load(self, config: Config, context: Context, artefact: Artefact) -> Path | str:
        if config.name == CATALOGUE:
            return artefact.folder
        return local_folder(config.name, "LLM") or config.name

    def _catalogue(self, context: Context) -> CatalogueConfig:
        return build(CatalogueConfig, context.run.llm_config, "the catalogue LLM")  # type: ignore[return-value]


def able(context: Context, capability: type, otherwise: str) -> Any:
    """The run's backbone, if it has the capability; else RecommenderError: which one has what not, and what to do."""
    if not isinstance(context.backbone, capability):
        raise RecommenderError(f"backbone {context.run.backbone} {otherwise}")
    return context.backbone


def backbone_key(context: Context, backbone: Any, stage: Stage) -> dict[str, Any]:
    """What of the run's backbone decides a signal made with it: its code, and the settings of that stage."""
    return {
        "backbone": context.run.backbone,
        "code": backbone.version,
        "settings": backbone.key(stage),
        "plugin": context.run.plugins.get("backbone"),
    }


class EffortSignal:
    """The backbone's gradient norm of each sample (Eq. 12), float32 [n]; NaN for samples that are no candidates."""

    class Config(Config):
        candidates: int | None = Field(
            None, ge=1, description="compute it only for the m samples with the highest `by`; all by default"
        )
        by: dict[str, Any] = Field({}, description="configuration of the influence that ranks the candidates")

    version, phase, seeded, reads = 1, "pruning", True, ("train", "titles")

    def needs(self, config: Config, context: Context) -> dict[str, Request]:
        backbone = self._backbone(context)
        first = {"by": Request("influence", config.by)} if config.candidates else {}
        return {**first, **backbone.needs("effort")}

    def key(self, config: Config, context: Context) -> dict[str, Any]:
        return backbone_key(context, self._backbone(context), "effort")

    def build(self, config: Config, context: Context, work: Workspace) -> dict[str, Any]:
        samples, scores = context.samples, np.full(len(context.samples), np.nan, np.float32)
        chosen = np.arange(len(samples))
        if config.candidates and config.candidates < len(samples):
            seed = context.runtime.derive("effort candidates")
            chosen = np.sort(selection.top(context.inputs["by"], samples.ids, config.candidates, seed))
        backbone, ids = context.backbone_with(context.inputs), samples.ids[chosen]

        def efforts(positions: np.ndarray, runtime: Runtime) -> np.ndarray:
            return backbone.effort(samples.take(ids[positions]), runtime)

        scores[chosen] = in_chunks(work.scratch, "effort", len(ids), efforts, context.runtime)
        keep_scores(work, samples.ids, scores)
        return {"scored": len(chosen)}

    def load(self, config: Config, context: Context, artefact: Artefact) -> np.ndarray:
        return scores_of(artefact, context)

    def _backbone(self, context: Context) -> Any:
        return able(
            context,
            HasEffort,
            "has no effort score; choose settings that need none (dealrec: method.use_effort=false, goracs: method.lam=0), or prune for a backbone that has one, e.g. bigrec",
        )
