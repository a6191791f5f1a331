"""Generating one title per prompt by beam search."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig

from prunebench.recommenders.bigrec.prompts import Prompts
from prunebench.recommenders.runtime import Runtime


def generate_titles(
    model: Any, tokenizer: Any, prompts: Prompts, end_token: int, beams: int, new_tokens: int, batch: int, runtime: Runtime
) -> list[str]:
    """The best beam's text for each prompt; identical prompts are generated once.

    ``new_tokens``: most tokens of an answer, the end token included. ``batch``: prompts per call.
    """
    distinct, where = prompts.distinct()
    texts = [""] * len(distinct)
    done = 0
    for positions in distinct.batches(1 << 40, batch):
        runtime.checkpoint()
        rows = plain_generate(model, distinct, positions, end_token, beams, new_tokens, runtime.device)
        for position, text in zip(positions, tokenizer.batch_decode(rows, skip_special_tokens=True), strict=True):
            texts[position] = text.strip()
        done += len(positions)
        runtime.report(done, len(distinct), "generating titles")
    return [texts[row] for row in where]


def generation_config(end_token: int, pad: int, beams: int, new_tokens: int) -> GenerationConfig:
    """Every setting that decides the output, so that none of a checkpoint's own leaks in."""
    return GenerationConfig(
        num_beams=beams,
        max_new_tokens=new_tokens,
        min_new_tokens=None,
        do_sample=False,
        temperature=1.0,
        top_k=50,
        top_p=1.0,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        length_penalty=1.0,
        early_stopping=False,
        eos_token_id=end_token,
        pad_token_id=pad,
        use_cache=True,
    )


@torch.inference_mode()
def plain_generate(
    model: Any,
    prompts: Prompts,
    positions: np.ndarray,
    end_token: int,
    beams: int,
    new_tokens: int,
    device: torch.device,
) -> list[list[int]]:
    """transformers' own ``generate``: token ids of the best beam after each prompt, the end token not included."""
    batch = prompts.batch(positions).to(device)
    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        out = model.generate(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            generation_config=generation_config(end_token, prompts.pad, beams, new_tokens),
        )
    finally:
        model.generation_config = own
    answers = out[:, batch.input_ids.shape[1] :].tolist()
    return [row[: row.index(end_token)] if end_token in row else row for row in answers]
