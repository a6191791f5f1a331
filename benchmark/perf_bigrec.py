"""BIGRec: batched effort and shared-prefix beam search timed against plain references, on the same subset."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch

from prunebench.datasets.schema import RecDataset
from prunebench.recommenders.base import Float32, RecommenderError
from prunebench.recommenders.bigrec.backbone import effort_layers, efforts
from prunebench.recommenders.bigrec.beams import beam_search
from prunebench.recommenders.bigrec.catalogue import TEMPLATE, CatalogueConfig, new_model, train_tokenizer
from prunebench.recommenders.bigrec.config import BIGRecConfig
from prunebench.recommenders.bigrec.generation import plain_beam_search
from prunebench.recommenders.bigrec.model import add_adapter, sample_losses
from prunebench.recommenders.bigrec.prompts import PromptBuilder, Prompts
from prunebench.recommenders.runtime import Runtime

AGREEMENT = 1e-4
NEW_TOKENS = 24
T = TypeVar("T")


def rows(
    dataset: RecDataset, effort_samples: int = 192, single_samples: int = 48, users: int = 48
) -> list[dict[str, Any]]:
    """Rows ``{name, ours_s, reference_s, ratio}`` on random samples of ``dataset``; ratio is reference over ours.

    The LLM has the catalogue's shape and random weights, so that beams run to their full length on both sides. Results
    of both sides are compared where they are the same thing: RecommenderError where they disagree.
    """
    runtime, config = Runtime(), BIGRecConfig(max_history=10, cutoff=128)
    torch_model = new_model(CatalogueConfig(), tokenizer := train_tokenizer(sorted(set(dataset.titles)), 4096), runtime)
    model = add_adapter(torch_model.requires_grad_(False), config, runtime)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # a trained adapter: both its halves have gradients
                parameter.normal_(std=0.02, generator=runtime.torch_rng("perf", name))
    builder = PromptBuilder(tokenizer, dataset.titles, TEMPLATE, max_history=config.max_history, cutoff=config.cutoff)
    samples = dataset.samples().take(runtime.rng("perf").permutation(dataset.samples().ids)[:effort_samples])
    prompts = builder.with_answers(samples.histories, samples.targets, config.loss_on)
    few = samples.take(samples.ids[:single_samples])
    single = builder.with_answers(few.histories, few.targets, config.loss_on)
    asked = builder.without_answers(samples.take(samples.ids[:users]).histories, NEW_TOKENS)

    layers = effort_layers(model, config.effort_scope)
    _backward(model, single, config)
    ours = _best(lambda: efforts(model, prompts, layers, config, runtime))
    plain = _best(lambda: _backward(model, prompts, config))
    alone = _best(lambda: _one_by_one(model, single))
    together = _best(lambda: efforts(model, single, layers, config, runtime))
    if np.abs(together[1] - alone[1]).max() > AGREEMENT * np.abs(alone[1]).max():
        raise RecommenderError("effort: our result disagrees with the one-sample loop, so the times mean nothing")
    batch = asked.batch(np.arange(len(asked)))
    shared = _best(lambda: beam_search(model, batch, builder.end_token, config.beams, NEW_TOKENS))
    generated = _best(lambda: plain_beam_search(model, batch, builder.end_token, config.beams, NEW_TOKENS))
    if sum(here != there for here, there in zip(shared[1], generated[1], strict=True)) > len(shared[1]) // 20:
        raise RecommenderError("generation: our titles disagree with generate's, so the times mean nothing")
    return [
        _row(f"effort, {len(samples)} samples, against one batched forward and backward", ours[0], plain[0]),
        _row(f"effort, {len(few)} samples, against a one-sample loop", together[0], alone[0]),
        _row(f"beam search, {len(asked)} users, against transformers' generate", shared[0], generated[0]),
    ]


def _backward(model: Any, prompts: Prompts, config: BIGRecConfig) -> None:
    """What one epoch's gradients cost in the same batches: the floor for anything that needs gradients."""
    for positions in prompts.batches(config.batch_tokens):
        sample_losses(model, prompts.batch(positions))[0].sum().backward()
    model.zero_grad()


def _one_by_one(model: Any, prompts: Prompts) -> Float32:
    learnable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    norms = []
    for position in range(len(prompts)):
        loss = sample_losses(model, prompts.batch(np.array([position])))[0].sum()
        gradients = torch.autograd.grad(loss, learnable)
        norms.append(float(torch.stack([part.square().sum() for part in gradients]).sum().sqrt()))
    return np.array(norms, np.float32)


def _timed(work: Callable[[], T]) -> tuple[float, T]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def _best(work: Callable[[], T], repeats: int = 2) -> tuple[float, T]:
    """The fastest of a few: another process on the machine can only add time."""
    return min((_timed(work) for _ in range(repeats)), key=lambda timed: timed[0])


def _row(name: str, ours: float, reference: float) -> dict[str, Any]:
    return {"name": name, "ours_s": ours, "reference_s": reference, "ratio": reference / ours}
