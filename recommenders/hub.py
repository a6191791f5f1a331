"""Models by name: a folder of this machine, or what an id of the Hugging Face Hub stands for now."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, HFValidationError, RepositoryNotFoundError

from prunebench.recommenders.base import RecommenderError

TIMEOUT = 10.0
"""Seconds to wait for the Hub's answer."""


def local_folder(name: str, what: str) -> Path | None:
    """The folder ``name`` is; None for what can only be an id of the Hub.

    ``what`` it should be, e.g. "LLM". Raises RecommenderError for a path at which there is no folder.
    """
    folder = Path(name).expanduser() if name.startswith(("~/", "~\\")) else Path(name)
    if folder.is_dir():
        return folder.resolve()
    if folder.exists():
        raise RecommenderError(f"{what} {name!r} is a file; give the folder that holds the model")
    if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1 or name.endswith("/") or "\\" in name:
        raise RecommenderError(f"{what} {name!r}: no such folder; check the path, or give a Hub id as OWNER/NAME")
    return None


@lru_cache
def hub_commit(name: str, what: str) -> str:
    """The commit a Hub id stands for now, or offline in the local cache; asked for once, and never waited for in vain.

    Raises RecommenderError where there is no such model, ConnectionError where the Hub cannot be asked and nothing is cached.
    """
    try:
        return str(get_hf_file_metadata(hf_hub_url(name, "config.json"), timeout=TIMEOUT).commit_hash)
    except (EntryNotFoundError, HFValidationError, RepositoryNotFoundError) as error:
        raise RecommenderError(
            f"{what} {name!r} is no folder here and no model of the Hub ({_reason(error)}); check the name, or log in where it is private"
        ) from None
    except Exception as error:  # no network: which exception it is depends on the HTTP library in use
        cached = try_to_load_from_cache(name, "config.json")
        if isinstance(cached, str):
            return Path(cached).parent.name
        raise ConnectionError(
            f"{what} {name!r} is no folder here, not in the Hub's local cache, and the Hub cannot be reached ({_reason(error)}); check the name and the network, or give a folder"
        ) from None


def _reason(error: Exception) -> str:
    said = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return said.partition(". ")[0].rstrip(".")
