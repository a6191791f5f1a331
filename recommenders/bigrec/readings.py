"""What the LLM makes of users and samples: vectors of texts, errors per token, losses of answers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from prunebench.datasets.schema import Sequences
from prunebench.recommenders.base import Float32
from prunebench.recommenders.bigrec.model import embed_texts, model_inputs, sample_losses
from prunebench.recommenders.bigrec.prompts import IGNORED, Batch, Prompts
from prunebench.recommenders.runtime import Runtime
from prunebench.recommenders.user_texts import user_texts


def user_vectors(
    model: Any,
    tokenizer: Any,
    titles: tuple[str, ...],
    tokens: NDArray[np.int64],
    histories: Sequences,
    room: int,
    batch_tokens: int,
    runtime: Runtime,
) -> Float32:
    """The LLM's last layer at the last token of each user's text, float32 [n, d]; see ``user_texts``, ``embed_texts``.

    One token of ``room`` is left for a token that starts every text.
    """
    texts = user_texts(tokens, titles, histories, room - 1)
    named = replace(runtime, report=lambda done, total, _: runtime.report(done, total, "embedding users"))
    return embed_texts(model, tokenizer, texts, batch_tokens, named)


@torch.inference_mode()
def token_errors(model: Any, prompts: Prompts, batch_tokens: int, runtime: Runtime) -> Float32:
    """Mean over the counted tokens of ‖softmax − onehot‖₂, float32 [n]: EL2N (Paul et al., NeurIPS 2021) per token."""
    errors, done = np.empty(len(prompts), np.float32), 0
    for positions in prompts.batches(batch_tokens):
        runtime.checkpoint()
        errors[positions] = mean_errors(model, prompts.batch(positions).to(runtime.device)).cpu().numpy()
        done += len(positions)
        runtime.report(done, len(prompts), "token errors")
    return errors


def mean_errors(model: Any, batch: Batch) -> torch.Tensor:
    """The same for one batch, float32 [b]. Logits are computed only for the last columns, where the answers are."""
    columns = batch.loss_columns
    logits = model(**model_inputs(model, batch, columns + 1)).logits[:, -columns - 1 : -1]
    targets = batch.labels[:, -columns:]
    counted = targets != IGNORED
    error = logits.float().softmax(-1)
    error.scatter_add_(-1, targets.clamp_min(0)[..., None], error.new_full((*targets.shape, 1), -1.0))
    return (error.norm(dim=-1) * counted).sum(1) / counted.sum(1).clamp_min(1)


@torch.inference_mode()
def answer_losses(model: Any, prompts: Prompts, batch_tokens: int, runtime: Runtime) -> Float32:
    """−Σ log P over each prompt's counted tokens, float32 [n], in batches of like length."""
    losses, done = np.empty(len(prompts), np.float32), 0
    for positions in prompts.batches(batch_tokens):
        runtime.checkpoint()
        losses[positions] = sample_losses(model, prompts.batch(positions).to(runtime.device))[0].cpu().numpy()
        done += len(positions)
        runtime.report(done, len(prompts), "losses of answers")
    return losses
