"""Whether a folder holds a causal LM, told from its small files before anything is loaded, and nothing of it run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import AutoConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES

from prunebench.recommenders.base import RecommenderError

LFS = b"version https://git-lfs"
INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
WRITES_ON = ("CausalLM", "LMHeadModel")
"""How the classes that continue a text are called, whatever else their architecture can be."""


def check_llm_folder(folder: Path) -> None:
    """Raises RecommenderError, in one line, for a folder that no causal LM can be loaded from."""
    _check_config(folder)
    _check_weights(folder)
    if not any(folder.glob("*token*")) and not any(folder.glob("vocab*")) and not any(folder.glob("*.model")):
        raise RecommenderError(
            f"{folder} has no tokenizer (tokenizer.json); save it there with save_pretrained as well"
        )


def _check_config(folder: Path) -> None:
    path = folder / "config.json"
    if (folder / "adapter_config.json").is_file() and not path.is_file():
        raise RecommenderError(
            f"{folder} is an adapter, no LLM; give its base model with --llm, and --set backbone.start_adapter={folder}"
        )
    if not path.is_file():
        raise RecommenderError(
            f"{folder} is no model folder (it has no config.json); --llm takes catalogue, a Hub id, or a folder saved by save_pretrained"
        )
    config = _json(path)
    kind = config.get("model_type")
    classes = [str(name) for name in config.get("architectures") or ()]
    if kind not in CONFIG_MAPPING_NAMES and config.get("auto_map"):
        raise RecommenderError(
            f"{folder} asks to run code of its own (auto_map in config.json), which is never done; give a model of an architecture that transformers has"
        )
    if kind is None:
        raise RecommenderError(f"{path} names no model_type; give a folder saved by save_pretrained")
    if kind not in CONFIG_MAPPING_NAMES:
        raise RecommenderError(
            f"{path}: this version of transformers knows no model_type {kind!r}; update it, or give another LLM"
        )
    encodes = config.get("is_encoder_decoder") or (
        kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not config.get("is_decoder")
    )
    writes = any(name.endswith(WRITES_ON) for name in classes)
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or (encodes and not writes):
        raise RecommenderError(
            f"{folder} holds {' '.join(classes) or kind}, which does not continue texts; --llm needs a causal LM, such as a Llama or GPT"
        )
    try:
        AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    except Exception as error:  # each architecture checks its own
        reason = " ".join(str(error).split())
        raise RecommenderError(f"{path} cannot be used ({reason}); copy or download it again") from None


def _check_weights(folder: Path) -> None:
    for index in (folder / name for name in INDICES):
        shards = _json(index).get("weight_map", {}) if index.is_file() else {}
        missing = [name for name in sorted({*map(str, shards.values())}) if not (folder / name).is_file()]
        if missing:
            raise RecommenderError(f"{folder} lacks {missing[0]}, a part of its weights; copy or download it again")
    weights = [*sorted(folder.glob("*.safetensors")), *sorted(folder.glob("pytorch_model*.bin"))]
    if not weights:
        raise RecommenderError(f"{folder} has no weights (model.safetensors); copy or download it again")
    for path in weights:
        with path.open("rb") as file:
            if file.read(len(LFS)) == LFS:
                raise RecommenderError(
                    f"{path} is a git-lfs pointer, not the weights; run `git lfs pull` where it comes from"
                )
    for path in weights:
        try:
            if path.suffix == ".safetensors":
                with safe_open(path, framework="numpy"):
                    pass
        except (SafetensorError, OSError) as error:
            raise RecommenderError(f"{path} is cut short or damaged ({error}); copy or download it again") from None


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RecommenderError(f"{path} cannot be read ({error}); copy or download it again") from None
    if not isinstance(values, dict):
        raise RecommenderError(f"{path} holds no table of settings; copy or download it again")
    return values
