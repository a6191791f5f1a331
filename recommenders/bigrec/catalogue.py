"""The `catalogue` LLM: a small Llama pre-trained from scratch on the item titles alone."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from prunebench.datasets.schema import Sequences
from prunebench.recommenders.base import Config, Float32, RecommenderError
from prunebench.recommenders.bigrec.documents import Documents, WalkConfig
from prunebench.recommenders.bigrec.prompts import PROMPT_FILE, Template
from prunebench.recommenders.literal import literal
from prunebench.recommenders.runtime import Runtime

BOS, EOS, PAD = "<s>", "</s>", "<pad>"
TEMPLATE = Template(prefix=BOS, separator=EOS, suffix=EOS, end=EOS)
"""A prompt is a document of the pre-training kind: every title is closed by the end token, the answer too."""

_FEED = 64  # optimiser steps whose text is drawn together; part of what a seed means
_CHECKPOINT = "pretraining-{:08d}.pt"


class CatalogueConfig(Config):
    """Size, text and optimiser of the pre-training. Its budget is in tokens, never in minutes."""

    tokens: int | None = Field(None, ge=1, description="the budget; none: tokens_per_title for each distinct title")
    tokens_per_title: int = Field(500, ge=1)
    vocabulary: int = Field(4096, ge=300, description="BPE tokens at most, the 256 bytes and 3 special ones included")
    hidden: int = Field(256, ge=8)
    layers: int = Field(4, ge=1)
    heads: int = Field(4, ge=1)
    key_value_heads: int = Field(1, ge=1, description="fewer than heads makes generation's caches small")
    feed_forward: int = Field(704, ge=8)
    window: int = Field(1024, ge=16, description="longest input in tokens")
    walk: WalkConfig = WalkConfig()
    sequence: int = Field(128, ge=8, description="tokens per packed row")
    batch: int = Field(16, ge=1, description="rows per optimiser step")
    lr: float = Field(4e-3, gt=0, description="peak; linear warm-up, then cosine to a twentieth")
    warmup: float = Field(0.05, ge=0, le=1, description="share of the steps")
    weight_decay: float = Field(0.1, ge=0)
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 where the processor has it")
    checkpoint_every: int = Field(500, ge=1, description="optimiser steps")

    def steps(self, titles: int) -> int:
        """Optimiser steps that the budget pays for, given the number of distinct titles."""
        budget = self.tokens_per_title * titles if self.tokens is None else self.tokens
        return max(1, budget // (self.batch * self.sequence))

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of a step, counted from 0, of so many."""
        warm = max(1, round(self.warmup * steps))
        if step < warm:
            return self.lr * (step + 1) / warm
        done = (step - warm) / max(1, steps - warm)
        return self.lr * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))


def pretrain(
    titles: Sequence[str],
    vectors: Float32,
    config: CatalogueConfig,
    runtime: Runtime,
    folder: Path,
    scratch: Path,
) -> dict[str, Any]:
    """Write a causal LM, its tokenizer and its prompt template to ``folder``, in Hugging Face's layout.

    ``vectors`` float32 [n_items, d]: unit-length sentence vectors of ``titles``; items and their order are used for
    nothing but to look texts up. ``scratch`` keeps a checkpoint: a killed run given the same arguments continues to the
    same weights. Returns facts for the record. Raises RecommenderError where there are fewer than two distinct titles.
    """
    # Sorted text, so that neither the numbering nor the number of items that share a title means anything.
    row = {title: index for index, title in enumerate(titles)}
    distinct = sorted(row)
    if len(distinct) < 2:
        raise RecommenderError("the catalogue LLM needs two distinct titles or more to learn from")
    tokenizer = train_tokenizer(distinct, config.vocabulary)
    ids = tokenizer(literal(tokenizer, distinct), add_special_tokens=False)["input_ids"]
    documents = Documents(
        Sequences.from_rows(ids),
        vectors[[row[title] for title in distinct]],
        tokenizer.bos_token_id,
        tokenizer.eos_token_id,
        config.walk,
    )
    model = new_model(config, tokenizer, runtime).to(runtime.device)
    steps = config.steps(len(distinct))
    identity = _identity(distinct, vectors, config, runtime)
    losses = _train(model, documents, steps, config, runtime, scratch, identity)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / PROMPT_FILE).write_text(json.dumps(TEMPLATE.model_dump(), indent=1), "utf-8")
    return {
        "parameters": model.num_parameters(),
        "steps": steps,
        "tokens": steps * config.batch * config.sequence,
        "loss": round(float(np.mean(losses[-100:])), 4),
    }


def train_tokenizer(titles: Sequence[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE over the titles: every text can be written, and none needs an unknown token."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(titles, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=BOS, eos_token=EOS, pad_token=PAD, padding_side="left"
    )


def new_model(config: CatalogueConfig, tokenizer: PreTrainedTokenizerFast, runtime: Runtime) -> LlamaForCausalLM:
    """An untrained model, its weights drawn for the purpose "catalogue weights"."""
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=config.hidden,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.key_value_heads,
        intermediate_size=config.feed_forward,
        max_position_embeddings=config.window,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    # transformers draws initial weights from the global generator; give it back as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(runtime.derive("catalogue weights"))
        return LlamaForCausalLM(shape)


def _train(
    model: LlamaForCausalLM,
    documents: Documents,
    steps: int,
    config: CatalogueConfig,
    runtime: Runtime,
    scratch: Path,
    identity: str,
) -> list[float]:
    """Train in place; the mean loss of every step in nats per token."""
    optimizers = _optimizers(model, config)
    losses = _resume(scratch, model, optimizers, identity, runtime)
    per_step = config.batch * config.sequence
    text = torch.empty(0)
    model.train()
    runtime.report(len(losses), steps, "pre-training the catalogue LLM")
    for step in range(len(losses), steps):
        runtime.checkpoint()
        feed, place = divmod(step, _FEED)
        if place == 0 or not len(text):
            drawn = documents.stream(_FEED * per_step + 1, runtime.rng("catalogue text", feed))
            text = torch.from_numpy(drawn.astype(np.int64)).to(runtime.device)
        window = text[place * per_step : (place + 1) * per_step + 1]
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = config.rate(step, steps)
        with _precision(config.precision, runtime.device):
            hidden = model.model(input_ids=window[:-1].view(config.batch, -1), use_cache=False).last_hidden_state
            loss = TiedCrossEntropy.apply(hidden.flatten(0, 1), model.lm_head.weight, window[1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
        runtime.report(step + 1, steps, "pre-training the catalogue LLM")
        if (step + 1) % config.checkpoint_every == 0 and step + 1 < steps:
            older = _checkpoints(scratch)
            _save(scratch / _CHECKPOINT.format(step + 1), model, optimizers, losses, identity)
            runtime.saved()
            for path in older:
                path.unlink()
    model.eval()
    return losses


def _optimizers(model: LlamaForCausalLM, config: CatalogueConfig) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for the token table and the norms' scales."""
    table = model.get_input_embeddings().weight
    inside = [parameter for parameter in model.parameters() if parameter.ndim >= 2 and parameter is not table]
    scales = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups = [
        {"params": [table], "weight_decay": config.weight_decay},
        {"params": scales, "weight_decay": 0.0},
    ]
    return [
        torch.optim.Muon(inside, lr=config.lr, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.95), fused=True),
    ]


class TiedCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of the output layer, in pieces that stay in the processor's cache.

    The gradients are formed on the way forward, so the [tokens, vocabulary] logits never exist as a whole.
    """

    piece = 1024

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """``hidden`` [tokens, d], ``weight`` [vocabulary, d], ``target`` int64 [tokens]; nats per token, a scalar."""
        half = torch.is_autocast_enabled(hidden.device.type)
        dtype = torch.get_autocast_dtype(hidden.device.type) if half else hidden.dtype
        with torch.autocast(hidden.device.type, enabled=False):
            rows, output = hidden.to(dtype), weight.to(dtype)
            d_hidden, d_weight = torch.empty_like(rows), torch.zeros_like(weight)
            total = torch.zeros((), device=hidden.device)
            for start in range(0, len(rows), TiedCrossEntropy.piece):
                piece = slice(start, start + TiedCrossEntropy.piece)
                right = target[piece, None]
                log_p = torch.log_softmax((rows[piece] @ output.T).float(), dim=1)
                total -= log_p.gather(1, right).sum()
                slope = log_p.exp_().scatter_add_(1, right, -torch.ones_like(right, dtype=torch.float32)).to(dtype)
                d_hidden[piece] = slope @ output
                d_weight += (slope.T @ rows[piece]).to(d_weight.dtype)
        ctx.save_for_backward((d_hidden / len(rows)).to(hidden.dtype), d_weight / len(rows))
        return total / len(rows)

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        d_hidden, d_weight = ctx.saved_tensors
        return d_hidden * outer[0].to(d_hidden.dtype), d_weight * outer[0], None


@contextmanager
def _precision(precision: str, device: torch.device) -> Iterator[None]:
    wanted = precision == "bf16" or (precision == "auto" and has_bf16(device))
    with torch.autocast(device.type, torch.bfloat16, enabled=wanted):
        yield


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware: several times as fast as float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    capabilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _identity(titles: Sequence[str], vectors: Float32, config: CatalogueConfig, runtime: Runtime) -> str:
    """What a checkpoint must agree on to be continued."""
    made_of = [config.model_dump_json(), str(runtime.seed), str(vectors.shape), *titles]
    return hashlib.sha256("\n".join(made_of).encode()).hexdigest()


def _save(
    path: Path,
    model: LlamaForCausalLM,
    optimizers: list[torch.optim.Optimizer],
    losses: list[float],
    identity: str,
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    state = {"of": identity, "losses": losses, "model": model.state_dict()}
    torch.save({**state, "optimizers": [optimizer.state_dict() for optimizer in optimizers]}, fresh)
    os.replace(fresh, path)


def _checkpoints(scratch: Path) -> list[Path]:
    return sorted(scratch.glob(_CHECKPOINT.replace("{:08d}", "*")))


def _resume(
    scratch: Path,
    model: LlamaForCausalLM,
    optimizers: list[torch.optim.Optimizer],
    identity: str,
    runtime: Runtime,
) -> list[float]:
    """Losses of the steps already done, their weights loaded; empty where there is no checkpoint of this very run."""
    found = _checkpoints(scratch)
    if not found:
        return []
    state = torch.load(found[-1], map_location=runtime.device, weights_only=True)
    if state["of"] != identity:
        return []
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return list(state["losses"])
