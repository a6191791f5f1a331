"""Generating titles for each prompt by beam search."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import GenerationConfig

from prunebench.recommenders.bigrec.beams import beam_search, shares_prefix, until
from prunebench.recommenders.bigrec.prompts import Batch, Prompts
from prunebench.recommenders.runtime import Runtime


def generate_titles(
    model: Any,
    tokenizer: Any,
    prompts: Prompts,
    runtime: Runtime,
    *,
    end: int,
    beams: int,
    new_tokens: int,
    wanted: int,
    batch: int,
) -> list[list[str]]:
    """The ``wanted`` best beams' texts for each prompt, likeliest first; identical prompts are generated once.

    ``end``: the token that ends an answer; ``new_tokens``: most tokens of an answer, that one included; ``batch``:
    prompts decoded together. Beams share their prompt's cache where the LLM allows it, else ``generate`` does the work.
    """
    distinct, where = prompts.distinct()
    texts: NDArray[np.object_] = np.full((len(distinct), wanted), "", object)
    search, done = None, 0
    for positions in distinct.batches(1 << 40, batch):
        runtime.checkpoint()
        together = distinct.batch(positions).to(runtime.device)
        if search is None:
            # Batches come longest first, so the trial is made on the longest prompt.
            search = beam_search if shares_prefix(model, together) else plain_beam_search
        answers = search(model, together, end, beams, new_tokens, wanted)
        for rank, ranked in enumerate(zip(*answers, strict=True)):
            written = tokenizer.batch_decode(ranked, skip_special_tokens=True)
            texts[positions, rank] = [text.strip() for text in written]
        done += len(positions)
        runtime.report(done, len(distinct), "generating titles")
    return texts[where].tolist()


@torch.inference_mode()
def plain_beam_search(
    model: Any, batch: Batch, end: int, beams: int, new_tokens: int, wanted: int = 1
) -> list[list[list[int]]]:
    """The same by transformers' ``generate``: token ids of the ``wanted`` best beams, the end token not included.

    Every setting that decides the output is given, and the checkpoint's own generation configuration is put aside: what
    it holds (sampling, penalties, forced tokens) would otherwise fill in for whatever is not given.
    """
    chosen = GenerationConfig(
        num_beams=beams,
        num_return_sequences=wanted,
        max_new_tokens=new_tokens,
        do_sample=False,
        temperature=1.0,
        top_k=50,
        top_p=1.0,
        length_penalty=1.0,
        early_stopping=False,
        eos_token_id=end,
        pad_token_id=end,
        use_cache=True,
    )
    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        out = model.generate(input_ids=batch.input_ids, attention_mask=batch.attention_mask, generation_config=chosen)
    finally:
        model.generation_config = own
    answers = [until(end, answer) for answer in out[:, batch.input_ids.shape[1] :].tolist()]
    return [answers[at : at + wanted] for at in range(0, len(answers), wanted)]
