"""Loading a causal LM with its LoRA adapter, and its losses on prompts."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model, prepare_model_for_kbit_training
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from transformers.utils import logging as transformers_logging

from prunebench.recommenders.base import Float32, RecommenderError
from prunebench.recommenders.bigrec.config import BIGRecConfig
from prunebench.recommenders.bigrec.prompts import IGNORED, Batch, Prompts
from prunebench.recommenders.literal import literal
from prunebench.recommenders.runtime import Runtime

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.float16}


def load_tokenizer(llm: str | Path) -> Any:
    """The LLM's tokenizer. Raises RecommenderError where there is none."""
    try:
        return AutoTokenizer.from_pretrained(str(llm), trust_remote_code=False)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # damaged files fail in as many ways as there are kinds of tokenizers
        raise RecommenderError(
            f"no tokenizer for the LLM {llm}: {_first_line(error)}; copy or download it again, or give another LLM"
        ) from error


def check_precision(precision: str, device: torch.device) -> None:
    """Raises RecommenderError where weights cannot be held like that on this device."""
    if precision in ("fp16", "int8") and device.type == "cpu":
        raise RecommenderError(
            f"precision {precision} needs a GPU; on a CPU add --set backbone.precision=fp32, or bf16 for half the memory"
        )
    if precision == "int8" and importlib.util.find_spec("bitsandbytes") is None:
        raise RecommenderError("precision int8 needs the package bitsandbytes: pip install bitsandbytes")


def load_base(llm: str | Path, precision: str, device: torch.device) -> Any:
    """The causal LM in evaluation mode, frozen.

    Raises RecommenderError if it cannot be had as asked, or if its files lack a part of it: transformers would fill that
    with random numbers and say so only in a log.
    """
    check_precision(precision, device)
    options: dict[str, Any] = {"dtype": DTYPES[precision]}
    if precision == "int8":
        options |= {"quantization_config": BitsAndBytesConfig(load_in_8bit=True), "device_map": {"": device}}
    try:
        with _quiet():
            model, facts = AutoModelForCausalLM.from_pretrained(
                str(llm),
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # told below, by name
                **options,
            )
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except UnpicklingError:
        raise RecommenderError(
            f"the weights of the LLM {llm} are a pickle that is damaged or asks to run code, which is never done; give one with model.safetensors"
        ) from None
    except Exception as error:  # damaged files fail in as many ways as there are kinds of them
        raise RecommenderError(
            f"cannot load the LLM {llm}: {_first_line(error)}; give 'catalogue', a Hub id or a local folder"
        ) from error
    wrong = sorted([*facts["missing_keys"], *(name for name, *_ in facts["mismatched_keys"])])
    if wrong and precision != "int8":  # a quantiser has tensors of its own that no file holds
        raise RecommenderError(
            f"the weights of the LLM {llm} do not fit its config.json ({wrong[0]}, {len(wrong)} in all); they belong to another model"
        )
    if precision == "int8":
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    else:
        model.to(device)
    return model.requires_grad_(False).eval()


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars of transformers, and none of the warnings peft causes there: progress is the runtime's."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def add_adapter(model: Any, config: BIGRecConfig, runtime: Runtime) -> Any:
    """The model with a trainable adapter: the start adapter, or a fresh one with A from the seed "adapter" and B = 0.

    Raises RecommenderError when no module matches, or the start adapter cannot be read.
    """
    if config.start_adapter is not None:
        return load_adapter(model, config.start_adapter, trainable=True)
    lora = config.lora
    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    targets: Any = list(lora.targets) if isinstance(lora.targets, tuple) else lora.targets
    if targets == "auto":
        # None leaves the choice to peft, which knows the attention projections of many architectures.
        targets = ["q_proj", "v_proj"] if {"q_proj", "v_proj"} <= names else None
    adapter = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
    )
    try:
        with _quiet():
            adapted = get_peft_model(model, adapter)
    except ValueError as error:
        raise RecommenderError(f"lora.targets {lora.targets} do not fit this LLM: {_first_line(error)}") from error
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_A" in name:
                generator = runtime.torch_rng("adapter", name)
                fresh = torch.empty(parameter.shape)
                torch.nn.init.kaiming_uniform_(fresh, a=math.sqrt(5), generator=generator)
                parameter.copy_(fresh)
    return adapted.eval()


def load_adapter(model: Any, folder: str | Path, *, trainable: bool = False) -> Any:
    """The model with a saved adapter. Raises RecommenderError if it cannot be read."""
    try:
        with _quiet():
            return PeftModel.from_pretrained(model, str(folder), is_trainable=trainable).eval()
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise RecommenderError(f"cannot load the adapter {folder}: {_first_line(error)}") from error


def adapter_digest(folder: str | Path) -> str | None:
    """sha256 of a local adapter's weights (first 16 hex digits); None for a Hub id, which stands for itself."""
    weights = Path(folder) / "adapter_model.safetensors"
    return hashlib.sha256(weights.read_bytes()).hexdigest()[:16] if weights.is_file() else None


def adapter_state(model: Any) -> dict[str, torch.Tensor]:
    """A copy of the adapter's parameters on the CPU, by name."""
    return {name: parameter.detach().cpu().clone() for name, parameter in model.named_parameters() if "lora_" in name}


def window(model: Any) -> int | None:
    """Longest input in tokens, where the configuration names one."""
    return getattr(model.config, "max_position_embeddings", None)


def causal_model(model: Any) -> Any:
    """The causal LM itself, the adapter's layers in it."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def model_inputs(model: Any, batch: Batch, columns: int | None = None) -> dict[str, Any]:
    """What the LLM's forward takes: tokens, mask, positions that do not count padding, and no cache.

    ``columns``: only the logits of the last ones are wanted, where the LLM can leave out the others.
    """
    known = inspect.signature(causal_model(model).forward).parameters
    inputs: dict[str, Any] = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "use_cache": False}
    if "position_ids" in known:
        inputs["position_ids"] = batch.position_ids
    if columns is not None and "logits_to_keep" in known:
        inputs["logits_to_keep"] = columns
    return inputs


def sample_losses(model: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Token sums of −log P over the counted tokens and their counts, both [b], in float32 and int64.

    Logits are computed only for the last columns, where left padding puts the counted tokens.
    """
    return token_losses(model(**model_inputs(model, batch, batch.loss_columns + 1)).logits, batch.labels)


def token_losses(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss sums and counts per sample, from the logits of the last columns [b, c, vocabulary] and all labels [b, t]."""
    targets = labels[:, 1:][:, -(logits.shape[1] - 1) :]
    scores = logits[:, -targets.shape[1] - 1 : -1].float()
    losses = functional.cross_entropy(scores.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none")
    return losses.view(targets.shape).sum(1), (targets != IGNORED).sum(1)


@torch.inference_mode()
def mean_token_loss(model: Any, prompts: Prompts, batch_tokens: int, runtime: Runtime) -> float:
    """−log P per counted token over all prompts, in evaluation mode; each process of the team takes its share."""
    training = model.training
    model.eval()
    total, count = 0.0, 0.0
    for positions in list(prompts.batches(batch_tokens))[runtime.team.mine]:
        losses, counts = sample_losses(model, prompts.batch(positions).to(runtime.device))
        total, count = total + float(losses.double().sum()), count + int(counts.sum())
    model.train(training)
    total, count = runtime.team.total(total, count)
    return total / max(count, 1)


@torch.inference_mode()
def embed_texts(model: Any, tokenizer: Any, texts: list[str], batch_tokens: int, runtime: Runtime) -> Float32:
    """Last layer's state at the last token, by the LLM itself (the adapter switched off), float32 [n, d].

    Equal texts get equal rows; the end of one longer than the LLM's window is not read. Every text starts with the tokenizer's bos token where it has one, an empty one with eos
    where it has none.
    """
    distinct = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    if not distinct:
        return np.empty((0, int(model.config.hidden_size)), np.float32)
    bos = tokenizer.bos_token_id
    tokens_of = tokenizer(literal(tokenizer, distinct))["input_ids"]
    ids = [row if bos is None or row[:1] == [bos] else [bos, *row] for row in tokens_of]
    ids = [(row or [tokenizer.eos_token_id])[: window(model)] for row in ids]
    lengths = np.array([len(row) for row in ids])
    order = np.argsort(-lengths, kind="stable")
    vectors = np.empty((len(ids), int(model.config.hidden_size)), np.float32)
    with model.disable_adapter() if isinstance(model, PeftModel) else torch.no_grad():
        start = 0
        while start < len(order):
            runtime.checkpoint()
            length = int(lengths[order[start]])
            rows = order[start : start + max(1, batch_tokens // length)]
            start += len(rows)
            tokens = torch.zeros(len(rows), length, dtype=torch.long)
            mask = torch.zeros_like(tokens)
            for at, row in enumerate(rows):
                tokens[at, : lengths[row]] = torch.tensor(ids[row])
                mask[at, : lengths[row]] = 1
            # Padding on the right: a causal model's last real token never sees it.
            hidden = (
                causal_model(model)
                .base_model(
                    input_ids=tokens.to(runtime.device), attention_mask=mask.to(runtime.device), use_cache=False
                )
                .last_hidden_state
            )
            last = torch.from_numpy(lengths[rows] - 1).to(hidden.device)
            vectors[rows] = hidden[torch.arange(len(rows), device=hidden.device), last].float().cpu().numpy()
            runtime.report(start, len(order), "embedding titles")
    return vectors[np.fromiter((distinct[text] for text in texts), np.int64, len(texts))]
