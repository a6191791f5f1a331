"""Signals made of the items alone: their semantic IDs."""

from __future__ import annotations

from typing import Any

from pydantic import SerializerFunctionWrapHandler, model_serializer

from prunebench.benchmark.providers import titles_digest
from prunebench.benchmark.signals import Context
from prunebench.benchmark.store import Artefact, Workspace
from prunebench.recommenders.base import Request
from prunebench.recommenders.tiger.config import TokeniserConfig
from prunebench.recommenders.tiger.semantic_ids import SemanticIDs
from prunebench.recommenders.tiger.tokeniser import fit_semantic_ids, load_ids, save_ids


class SemanticIDsConfig(TokeniserConfig):
    """As hashed: settings without effect are left out, so that they change nothing."""

    @model_serializer(mode="wrap")
    def _in_use(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in dump(self).items() if name != "rqvae" or self.kind == "rqvae"}


class SemanticIDsSignal:
    """All items' semantic IDs: fitted once on the titles, outside any budget and seed, and charged to every method."""

    Config = SemanticIDsConfig
    version, phase, seeded, reads = 1, "fine-tuning", False, ("titles",)

    def needs(self, config: TokeniserConfig, context: Context) -> dict[str, Request]:
        return {"title_vectors": Request("title_vectors", config.encoder.model_dump(mode="json"))}

    def key(self, config: TokeniserConfig, context: Context) -> dict[str, Any]:
        return {"titles": titles_digest(context.dataset.titles)}

    def build(self, config: TokeniserConfig, context: Context, work: Workspace) -> dict[str, Any]:
        ids = fit_semantic_ids(context.inputs["title_vectors"].vectors, config, context.runtime)
        save_ids(ids, work.folder)
        return {"notes": dict(ids.quality)}

    def load(self, config: TokeniserConfig, context: Context, artefact: Artefact) -> SemanticIDs:
        return load_ids(artefact.folder)
