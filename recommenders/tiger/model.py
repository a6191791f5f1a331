"""The encoder-decoder: T5 of transformers from random weights, its inputs, and a loss per sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import T5Config, T5ForConditionalGeneration

from prunebench.datasets.schema import Sequences
from prunebench.recommenders.base import Float32
from prunebench.recommenders.batching import length_batches, pad_left
from prunebench.recommenders.runtime import Runtime
from prunebench.recommenders.tiger.config import TIGERConfig
from prunebench.recommenders.tiger.semantic_ids import PADDING, SemanticIDs


def new_model(config: TIGERConfig, ids: SemanticIDs, runtime: Runtime) -> Any:
    """An untrained T5 in evaluation mode on the runtime's device; its weights depend on the seed and shape alone.

    With the paper's shape and about 800 tokens it has 4.6 million parameters; the paper says 13 million.
    """
    shape = T5Config(
        vocab_size=ids.vocabulary + config.user_tokens,
        d_model=config.width,
        d_kv=config.head_width,
        d_ff=config.feed_forward,
        num_layers=config.layers,
        num_decoder_layers=config.layers,
        num_heads=config.heads,
        dropout_rate=config.dropout,
        pad_token_id=PADDING,
        decoder_start_token_id=PADDING,
        eos_token_id=None,
        use_cache=False,
        semantic_ids=ids.digest,
    )
    with torch.random.fork_rng():
        torch.manual_seed(runtime.derive("tiger weights") % 2**63)
        model = T5ForConditionalGeneration(shape)
    return model.to(runtime.device).eval()


@dataclass(frozen=True, eq=False)
class Spelt:
    """Histories spelt in tokens, ``tokens`` ragged [n] (each of one token or more), and the ``answers``.

    ``answers`` int64 [n, levels] are the targets' tokens, or None where there is nothing to predict.
    """

    tokens: Sequences
    answers: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each history, int64 [n]."""
        return self.tokens.lengths

    def batches(self, rows: int, tokens: int | None = None) -> list[NDArray[np.int64]]:
        """Positions in batches of like length, in a fixed order; at most ``rows`` of at most ``tokens`` padded tokens."""
        return length_batches(self.lengths, rows, tokens)

    def batch(self, positions: NDArray[np.int64], device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """What the model takes: ``input_ids`` and ``attention_mask`` int64 [b, t], padded on the left; ``labels`` [b, levels]."""
        source, real = pad_left(self.tokens.offsets, positions)
        entered = np.where(real, self.tokens.items[source], PADDING).astype(np.int64)
        batch = {"input_ids": torch.from_numpy(entered), "attention_mask": torch.from_numpy(real.astype(np.int64))}
        if self.answers is not None:
            batch["labels"] = torch.from_numpy(self.answers[positions])
        return {name: value.to(device) for name, value in batch.items()}


def spell(
    ids: SemanticIDs,
    histories: Sequences,
    config: TIGERConfig,
    targets: NDArray[np.int32] | None = None,
    users: NDArray[np.int64] | None = None,
) -> Spelt:
    """The newest ``max_history`` items of each history as tokens, with the user's token first if there are such.

    An empty history is one padding token: its encoding is the same for all.
    """
    rows = ids.spell(histories.tail(config.max_history))
    if config.user_tokens and users is not None:
        names = ids.vocabulary + hashed(users, config.user_tokens)
        rows = Sequences(names.astype(np.int32), np.arange(len(users) + 1, dtype=np.int64)).join(rows)
    empty = np.concatenate([[0], np.cumsum(rows.lengths == 0)]).astype(np.int64)
    rows = Sequences(np.full(empty[-1], PADDING, np.int32), empty).join(rows)
    answers = None if targets is None else ids.tokens[targets].astype(np.int64)
    return Spelt(rows, answers)


def hashed(users: NDArray[np.int64], buckets: int) -> NDArray[np.int64]:
    """Users' ids to 0 … buckets − 1 by a fixed mixing of their bits (splitmix64), int64 [n]."""
    x = users.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((x ^ (x >> np.uint64(31))) % np.uint64(buckets)).astype(np.int64)


def started(labels: Tensor) -> Tensor:
    """The decoder's input: the start token, then all but the last of ``labels`` [b, levels]."""
    return torch.cat([torch.full_like(labels[:, :1], PADDING), labels[:, :-1]], 1)


def sample_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """−Σ_l log P(c_l | c_<l, history) of each sample, float32 [b]; ``logits`` [b, levels, vocabulary]."""
    return torch.nn.functional.cross_entropy(logits.float().transpose(1, 2), labels, reduction="none").sum(1)


def batch_losses(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """``sample_losses`` of a batch of ``Spelt.batch``, by one forward pass, float32 [b]."""
    labels = batch["labels"]
    logits = model(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], decoder_input_ids=started(labels)
    ).logits
    return sample_losses(logits, labels)


@torch.inference_mode()
def answer_losses(model: Any, spelt: Spelt, batch_tokens: int, runtime: Runtime) -> Float32:
    """``batch_losses`` of all samples, float32 [n], in batches of like length of at most ``batch_tokens`` a side."""
    assert spelt.answers is not None
    losses, done = np.empty(len(spelt), np.float32), 0
    for positions in spelt.batches(max(1, batch_tokens // spelt.answers.shape[1]), batch_tokens):
        runtime.checkpoint()
        losses[positions] = batch_losses(model, spelt.batch(positions, runtime.device)).cpu().numpy()
        done += len(positions)
        runtime.report(done, len(spelt), "losses of answers")
    return losses
