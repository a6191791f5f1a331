"""A user in words: the titles of the history, as one text that fits its reader, or as the mean of their vectors."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from prunebench.datasets.schema import Sequences
from prunebench.recommenders.base import Float32
from prunebench.recommenders.literal import literal

TextReader = Literal["encoder", "titles", "backbone"]
"""What reads a user's text: the sentence encoder, the same title by title, or the LLM before fine-tuning."""

SEPARATOR = "; "


def title_tokens(tokenizer: Any, titles: tuple[str, ...]) -> NDArray[np.int64]:
    """Tokens of each title with a separator behind it, int64 [n_items]."""
    distinct = {title: row for row, title in enumerate(dict.fromkeys(titles))}
    texts = literal(tokenizer, (title + SEPARATOR for title in distinct))
    pieces = tokenizer(texts, add_special_tokens=False)["input_ids"]
    cost = np.fromiter(map(len, pieces), np.int64, len(pieces))
    return cost[np.fromiter((distinct[title] for title in titles), np.int64, len(titles))]


def user_texts(tokens: NDArray[np.int64], titles: tuple[str, ...], histories: Sequences, room: int) -> list[str]:
    """Each user's titles joined by "; ", as many of the latest as fit ``room`` tokens, at least the last one.

    ``tokens`` are ``title_tokens``: a text may come out a few tokens short of ``room``.
    """
    row, ends = histories.rows_of_items(), histories.offsets[1:]
    spent = np.concatenate([[0], np.cumsum(tokens[histories.items])])
    # Tokens of this title and all later ones of its row.
    fits = spent[ends[row]] - spent[:-1] <= room
    fits[ends[histories.lengths > 0] - 1] = True
    kept = Sequences.from_flat(histories.items[fits], np.bincount(row[fits], minlength=len(histories)))
    return [SEPARATOR.join(titles[item] for item in items) for items in kept]


def mean_title_vectors(histories: Sequences, title_vectors: Float32) -> Float32:
    """Unit vector of the mean over each row's title vectors, float32 [n, d]; zeros for an empty row.

    ``title_vectors`` float32 [n_items, d]. It costs one sparse product where reading whole texts costs a pass of the
    encoder over all their tokens.
    """
    shape = len(histories), len(title_vectors)
    counted = csr_array((np.ones(len(histories.items), np.float32), histories.items, histories.offsets), shape=shape)
    return unit_rows(counted @ title_vectors)


def unit_rows(vectors: Float32) -> Float32:
    """Rows scaled to length 1; a row of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)
