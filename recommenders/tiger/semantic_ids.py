"""Semantic IDs: every item as a short tuple of codes, and the tokens they are to the model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from prunebench.datasets.schema import Sequences
from prunebench.recommenders.base import RecommenderError

PADDING = 0
"""The token of padding; it starts the decoder's sequence, too, as in T5."""


@dataclass(frozen=True, eq=False)
class SemanticIDs:
    """``codes`` int32 [n_items, levels], code ``codes[i, l]`` of item i in 0 … ``sizes[l]`` − 1; no two items alike.

    The last level is the collision code, which tells items apart that share all others. ``quality``: what the
    tokeniser measured of itself. Raises RecommenderError where two items have the same ID or a code is out of range.
    """

    codes: NDArray[np.int32]
    sizes: tuple[int, ...]
    quality: Mapping[str, float | int | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.codes.ndim != 2 or self.codes.shape[1] != len(self.sizes):
            raise RecommenderError(f"semantic IDs of shape {self.codes.shape} for {len(self.sizes)} levels")
        if len(self.codes) and ((self.codes < 0) | (self.codes >= np.array(self.sizes))).any():
            raise RecommenderError("a semantic ID has a code outside its level's codebook")
        if len(np.unique(self.codes, axis=0)) != len(self.codes):
            raise RecommenderError("two items have the same semantic ID: the collision code must tell them apart")

    @property
    def levels(self) -> int:
        return len(self.sizes)

    @cached_property
    def first_tokens(self) -> NDArray[np.int64]:
        """The token of code 0 of each level, and the first token after all of them, int64 [levels + 1]."""
        return np.concatenate([[1], 1 + np.cumsum(self.sizes)]).astype(np.int64)

    @property
    def vocabulary(self) -> int:
        """Tokens in use: padding (0) and every level's codes, one level after the other."""
        return int(self.first_tokens[-1])

    @cached_property
    def tokens(self) -> NDArray[np.int32]:
        """Each item's ID as tokens, int32 [n_items, levels]."""
        return (self.codes + self.first_tokens[:-1]).astype(np.int32)

    @cached_property
    def digest(self) -> str:
        """sha256 (first 16 hex digits) of all items' tokens: what a model knows the items by."""
        return hashlib.sha256(self.tokens.astype("<i4").tobytes()).hexdigest()[:16]

    def spell(self, histories: Sequences) -> Sequences:
        """Each row's items as the tokens of their IDs, oldest first: ``levels`` times as long."""
        return Sequences(self.tokens[histories.items].reshape(-1), histories.offsets * self.levels)
