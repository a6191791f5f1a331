"""Texts as data: what a tokenizer would take for one of its special tokens stays letters."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

JOINER = "\u2060"
"""WORD JOINER: invisible, without width, and in no special token."""


def literal(tokenizer: Any, texts: Iterable[str]) -> list[str]:
    """The texts, with a ``JOINER`` after the first letter of every special token written out in them.

    Without it a title that says ``</s>`` would end an answer, and one that says ``[SEP]`` a sentence. Other texts come
    back as they are, and so do their tokens.
    """
    # Not every sentence encoder's tokenizer is one of transformers.
    added = [token.content for token in getattr(tokenizer, "added_tokens_decoder", {}).values() if token.special]
    named = getattr(tokenizer, "all_special_tokens", ())
    special = sorted({token for token in (*added, *named) if len(token) > 1})
    if not special:
        return list(texts)
    written = re.compile("|".join(f"(?<={re.escape(token[0])}){re.escape(token[1:])}" for token in special))
    return [written.sub(lambda found: JOINER + found[0], text) for text in texts]
