"""A user in words: the titles of the history, as many of the latest as a reader has room for."""

from __future__ import annotations

from typing import Any

import numpy as np

from prunebench.datasets.schema import Sequences

SEPARATOR = "; "


def user_texts(tokenizer: Any, titles: tuple[str, ...], histories: Sequences, room: int) -> list[str]:
    """Each user's titles joined by "; ", as many of the latest as fit ``room`` tokens, at least the last one.

    Tokens are counted title by title, with a separator each, so a text may come out a few tokens short of ``room``.
    """
    distinct = {title: row for row, title in enumerate(dict.fromkeys(titles))}
    pieces = tokenizer([title + SEPARATOR for title in distinct], add_special_tokens=False)["input_ids"]
    cost = np.fromiter(map(len, pieces), np.int64, len(pieces))
    cost_of_item = cost[np.fromiter((distinct[title] for title in titles), np.int64, len(titles))]
    row, ends = histories.rows_of_items(), histories.offsets[1:]
    spent = np.concatenate([[0], np.cumsum(cost_of_item[histories.items])])
    # Tokens of this title and all later ones of its row.
    fits = spent[ends[row]] - spent[:-1] <= room
    fits[ends[histories.lengths > 0] - 1] = True
    kept = Sequences.from_flat(histories.items[fits], np.bincount(row[fits], minlength=len(histories)))
    return [SEPARATOR.join(titles[item] for item in items) for items in kept]
