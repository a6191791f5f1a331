"""`bench ls settings`: every `--set` key with its default and meaning."""

from __future__ import annotations

from typing import Any

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
    listed = []
    for section, name, config in kinds:
        for key, info in config.model_fields.items():
            default = "required" if info.is_required() else repr(info.get_default(call_default_factory=True))
            listed.append(
                {
                    "name": f"{section}.{key}",
                    "of": name,
                    "default": default,
                    "summary": f"[{name}] {default}  {info.description or ''}".rstrip(),
                }
            )
    return listed
