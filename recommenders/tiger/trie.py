"""All semantic IDs as a trie in a few tensors: a node's children are a range, found for many nodes at once."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from prunebench.recommenders.base import RecommenderError
from prunebench.recommenders.tiger.semantic_ids import SemanticIDs


class Trie:
    """The IDs' distinct prefixes, one node each, numbered per depth in lexicographic order; depth 0 is the root alone.

    ``first[l]`` int64 [nodes at depth l + 1]: node v's children are the nodes ``first[l][v]`` … ``first[l][v + 1]`` − 1
    of depth l + 1. ``tokens[l]`` int64 [nodes at depth l + 1] is the token that leads to each of them. ``items`` int64
    [n_items]: the item of each leaf. ``widest[l]``: the most children of a node at depth l.
    """

    def __init__(self, ids: SemanticIDs, device: torch.device | str = "cpu") -> None:
        """Raises RecommenderError where there is no item, or no code to tell items by."""
        spelt = ids.tokens.astype(np.int64)
        if not spelt.size:
            raise RecommenderError(f"semantic IDs of {len(spelt)} items and {ids.levels} codes make no trie: fit them")
        items = np.lexsort(spelt.T[::-1])
        ordered = spelt[items]
        starts, node = np.arange(len(items)) == 0, np.zeros(len(items), np.int64)
        self.first: list[Tensor] = []
        self.tokens: list[Tensor] = []
        self.widest: list[int] = []
        self._foreign = ids.vocabulary
        self.items = torch.from_numpy(items).to(device)
        for level in range(ids.levels):
            starts = starts | np.concatenate([[True], ordered[1:, level] != ordered[:-1, level]])
            fan_out = np.bincount(node[starts])
            self.first.append(torch.from_numpy(np.concatenate([[0], np.cumsum(fan_out)])).to(device))
            self.tokens.append(torch.from_numpy(ordered[starts, level]).to(device))
            self.widest.append(int(fan_out.max()))
            node = np.cumsum(starts) - 1

    @property
    def levels(self) -> int:
        return len(self.tokens)

    def children(self, level: int, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Children of ``nodes`` [...] of depth ``level``, int64 [..., widest], and which of them exist, bool.

        The places behind a node's last child hold some node of the same depth.
        """
        start, end = self.first[level][nodes], self.first[level][nodes + 1]
        children = start[..., None] + torch.arange(self.widest[level], device=nodes.device)
        return children.clamp(max=len(self.tokens[level]) - 1), children < end[..., None]

    def contains(self, sequences: Tensor) -> Tensor:
        """Which token ``sequences`` int64 [..., levels] are an item's ID, bool [...]; any token of 0 or more may occur."""
        sequences = sequences.clamp(max=self._foreign)
        node = torch.zeros(sequences.shape[:-1], dtype=torch.int64, device=sequences.device)
        exists = torch.ones_like(node, dtype=torch.bool)
        for level, (first, tokens) in enumerate(zip(self.first, self.tokens, strict=True)):
            parents = torch.repeat_interleave(torch.arange(len(first) - 1, device=first.device), first.diff())
            edges = parents * (self._foreign + 1) + tokens
            asked = node * (self._foreign + 1) + sequences[..., level]
            node = torch.searchsorted(edges, asked).clamp(max=len(edges) - 1)
            exists &= edges[node] == asked
        return exists
