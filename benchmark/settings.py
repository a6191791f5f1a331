"""`bench ls settings`: every `--set` key with its default and meaning."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from prunebench.benchmark.listing import print_rows
from prunebench.benchmark.plugins import Registry
from prunebench.recommenders.bigrec.catalogue import CatalogueConfig


def show(as_json: bool) -> None:
    print_rows({"settings": rows()}, as_json)


def rows() -> list[dict[str, Any]]:
    """Settings of all methods, backbones and surrogates that import, and of the catalogue LLM."""
    registry = Registry()
    kinds = [("llm", "catalogue", CatalogueConfig)]
    for section, kind in (("method", "methods"), ("backbone", "backbones"), ("surrogate", "surrogates")):
        kinds += [(section, name, part.Config) for name, part in registry.resolve_all(kind).items()]  # type: ignore[arg-type]
    return [row for section, name, config in kinds for row in _of(config, section, name)]


def _of(config: type[BaseModel], path: str, name: str) -> Iterator[dict[str, Any]]:
    """One row for each key, and for each key of a nested configuration in its place."""
    for key, info in config.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from _of(info.annotation, f"{path}.{key}", name)
            continue
        default = "required" if info.is_required() else repr(info.get_default(call_default_factory=True))
        yield {
            "name": f"{path}.{key}",
            "of": name,
            "default": default,
            "summary": f"[{name}] {default}  {info.description or ''}".rstrip(),
        }
