"""A tiny Llama with a word-level tokenizer, and a data set whose next item follows from the last one."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from prunebench.datasets.schema import RecDataset, Sequences

WORDS = [a + b for a in ("red", "old", "big", "sly") for b in ("fox", "cat", "owl", "elk", "bee", "ant")]
TITLES = tuple(f"{WORDS[i % 24]} {WORDS[(7 * (i % 24) + 3) % 24]}" for i in range(25))
"""24 titles for 25 items: the last item has the first one's."""


def make_llm(folder: Path, *, words: list[str] | None = None, seed: int = 0, **config: int) -> Path:
    """Save a random Llama and its tokenizer; ``config`` overrides its sizes."""
    vocabulary = ["<unk>", "<s>", "</s>", *dict.fromkeys(words or WORDS), ";", "=>", ":", "."]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape |= {"num_key_value_heads": 2, "max_position_embeddings": 256, **config}
    generator = torch.Generator().manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(vocabulary), bos_token_id=1, eos_token_id=2, **shape))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    model.save_pretrained(folder)
    return folder


def make_dataset(users: int = 40, seed: int = 0) -> RecDataset:
    """Walks of items, each followed by the next by number; the first 8 users have validation items, the next 8 test."""
    rng = np.random.default_rng(seed)
    starts, lengths = rng.integers(0, 24, users), rng.integers(2, 7, users)
    train = [[int((s + k) % 25) for k in range(n)] for s, n in zip(starts, lengths, strict=True)]
    follow = [[int((row[-1] + 1) % 25), int((row[-1] + 2) % 25)] for row in train]
    valid = [row if u < 8 else [] for u, row in enumerate(follow)]
    test = [row if 8 <= u < 16 else [] for u, row in enumerate(follow)]
    return RecDataset("walks", TITLES, *(Sequences.from_rows(rows) for rows in (train, valid, test)))


@dataclass
class TinyResources:
    """What a backbone is given: sentence vectors count the title's words."""

    dataset: RecDataset
    folder: Path
    asked: list[str] = field(default_factory=list)

    def llm(self) -> Path:
        return self.folder

    def encode(self, texts: list[str]) -> np.ndarray:
        self.asked += list(texts)
        counts = np.array([[text.split().count(word) + 1e-3 for word in WORDS] for text in texts], np.float32)
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)

    def title_vectors(self) -> np.ndarray:
        return self.encode(list(self.dataset.titles))
