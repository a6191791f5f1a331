"""Prompts as token arrays: titles are tokenised once, prompts are joined from their tokens."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from prunebench.datasets.schema import Sequences
from prunebench.recommenders.base import Config, RecommenderError
from prunebench.recommenders.literal import literal

logger = logging.getLogger(__name__)

PROMPT_FILE = "prunebench_prompt.json"
IGNORED = -100
SHORTEST = 16
"""Tokens of a title that must be read at least, where it has as many."""


class Template(Config):
    """``prefix`` title ``separator`` title … ``suffix`` | title ``end``; an empty ``end`` is the tokenizer's eos."""

    prefix: str = ""
    separator: str = "; "
    suffix: str
    end: str = ""


COMPACT = Template(separator=" ; ", suffix=" =>")


def alpaca_words(noun: str) -> tuple[str, str]:
    """BIGRec's games instruction and what stands before its input's titles, with the data set's own word for an item."""
    return (
        f"Given a list of {noun}s the user has purchased before, please recommend a new {noun} that the user likes to the user.",
        f"The user has purchased the following {noun}s before: ",
    )


def alpaca(noun: str) -> Template:
    """BIGRec's template in Alpaca form, as fine-tuning tools make it from an instruction and an input."""
    instruction, before_titles = alpaca_words(noun)
    return Template(
        prefix=(
            "Below is an instruction that describes a task, paired with an input that provides further context. "
            "Write a response that appropriately completes the request.\n\n"
            f"### Instruction:\n{instruction}\n\n### Input:\n{before_titles}"
        ),
        separator="; ",
        suffix="\n\n### Response:\n",
    )


def choose_template(choice: str, noun: str, folder: str | Path) -> Template:
    """The template for an LLM: ``auto`` takes the folder's ``prunebench_prompt.json`` if there is one, else Alpaca.

    ``compact`` takes the folder's, else a plain default. Raises RecommenderError for a file that is no template.
    """
    if choice == "alpaca":
        return alpaca(noun)
    own = Path(folder) / PROMPT_FILE
    if own.is_file():
        try:
            return Template.model_validate(json.loads(own.read_text("utf-8")))
        except ValidationError as error:
            wrong = error.errors()[0]
            key = ".".join(map(str, wrong["loc"]))
            raise RecommenderError(f"{own} is no prompt template: {key}: {wrong['msg'].lower()}") from error
        except ValueError as error:
            raise RecommenderError(f"{own} is no prompt template: {error}") from error
    return COMPACT if choice == "compact" else alpaca(noun)


@dataclass(frozen=True)
class Batch:
    """A left-padded batch; all tensors [b, t]. ``labels`` repeats a token where it counts in the loss, else -100."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor

    @property
    def position_ids(self) -> torch.Tensor:
        """Positions from the first real token on, [b, t]; padding gets 0."""
        return (self.attention_mask.cumsum(1) - 1).clamp_min(0)

    @property
    def loss_columns(self) -> int:
        """How many of the last columns hold a counted token."""
        counted = (self.labels != IGNORED).any(0).nonzero()
        return self.labels.shape[1] - int(counted[0]) if len(counted) else 1

    def to(self, device: torch.device) -> Batch:
        return Batch(self.input_ids.to(device), self.attention_mask.to(device), self.labels.to(device))


@dataclass(frozen=True, eq=False)
class Prompts:
    """n prompts, each a row of piece ids into a table of token sequences; tokens are laid out only batch by batch.

    ``lengths`` and ``answer_lengths`` int64 [n], in tokens (an answer of 0 tokens where there is none).
    """

    pieces: Sequences
    rows: Sequences
    answer_lengths: NDArray[np.int64]
    pad: int
    loss_on: str

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        ends = np.concatenate([[0], np.cumsum(self.pieces.lengths[self.rows.items])])
        return np.diff(ends[self.rows.offsets]).astype(np.int64)

    def tokens(self, row: int) -> NDArray[np.int32]:
        """Token ids of one prompt with its answer, int32 [length]."""
        return self.pieces.take(self.rows[row]).items

    def batch(self, positions: NDArray[np.int64]) -> Batch:
        """The prompts at these positions, padded on the left to the longest of them."""
        lengths, answers = self.lengths[positions], self.answer_lengths[positions]
        width = int(lengths.max())
        flat = self.pieces.take(self.rows.take(positions).items).items
        column = np.arange(width)
        real = column >= (width - lengths)[:, None]
        ids = np.full(real.shape, self.pad, np.int64)
        ids[real] = flat
        first = width - (lengths - 1 if self.loss_on == "all" else answers)
        labels = np.where(column >= first[:, None], ids, IGNORED)
        return Batch(torch.from_numpy(ids), torch.from_numpy(real.astype(np.int64)), torch.from_numpy(labels))

    def batches(self, batch_tokens: int, most: int | None = None) -> Iterator[NDArray[np.int64]]:
        """Positions in batches of like length, longest first, of at most ``batch_tokens`` padded tokens each."""
        order = np.argsort(-self.lengths, kind="stable")
        start = 0
        while start < len(order):
            room = max(1, batch_tokens // max(1, int(self.lengths[order[start]])))
            stop = start + min(room, most or room)
            yield order[start:stop]
            start = stop

    def distinct(self) -> tuple[Prompts, NDArray[np.int64]]:
        """The distinct prompts, and for each prompt the position of its equal among them (int64 [n])."""
        seen: dict[bytes, int] = {}
        where = np.fromiter(
            (seen.setdefault(row.tobytes(), len(seen)) for row in self.rows), np.int64, count=len(self.rows)
        )
        _, first = np.unique(where, return_index=True)
        kept = Prompts(self.pieces, self.rows.take(first), self.answer_lengths[first], self.pad, self.loss_on)
        return kept, where


def _fitting(titles: list[list[int]], frame: int, window: int | None) -> list[list[int]]:
    """Titles' tokens, cut to what a window leaves beside the template's ``frame`` tokens and the end token."""
    longest = max(map(len, titles), default=0)
    room = longest if window is None else window - frame - 1
    if room < min(longest, SHORTEST):
        raise RecommenderError(
            f"template and longest title take {frame + longest + 1} tokens, the LLM reads {window}; use template=compact"
        )
    if longest > room:
        logger.warning(
            "%d titles are longer than the %d tokens the LLM can read of one, the longest has %d; their ends are left out",
            sum(len(title) > room for title in titles), room, longest,
        )  # fmt: skip
    return [title[:room] for title in titles]


class PromptBuilder:
    """Turns histories and targets into prompts.

    Prompts are joined from the tokens of their pieces (template parts and titles), not tokenised as text. So a title
    is the same tokens wherever it stands, truncation is exact, and no text is tokenised twice. The price: a tokenizer
    might have merged characters across a joint. Fine-tuning and generation both use the joined form, so they agree.
    """

    def __init__(
        self,
        tokenizer: Any,
        titles: tuple[str, ...],
        template: Template,
        *,
        max_history: int = 20,
        cutoff: int = 512,
        window: int | None = None,
    ) -> None:
        """``cutoff`` and ``window`` (the LLM's longest input, if it has one) in tokens.

        A title too long for the window loses its end, with a warning. Raises RecommenderError if the tokenizer has no
        end token, or the template leaves no room for titles.
        """
        if tokenizer.eos_token_id is None and not template.end:
            raise RecommenderError("the tokenizer has no eos token and the template no end: answers could not end")
        self.max_history, self.cutoff = max_history, min(cutoff, window or cutoff)
        distinct = {title: row for row, title in enumerate(dict.fromkeys(titles))}
        texts = [*literal(tokenizer, distinct), template.separator, template.suffix]
        ids = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
        # The prefix alone carries what the tokenizer puts in front (a bos token), and nothing it would put behind.
        bare = tokenizer(template.prefix, add_special_tokens=False)["input_ids"]
        full = tokenizer(template.prefix)["input_ids"]
        head = next((full[: at + len(bare)] for at in range(len(full)) if full[at : at + len(bare)] == bare), bare)
        if not bare:
            bos = tokenizer.bos_token_id
            head = [bos] if bos is not None and full[:1] == [bos] else []
        end = (
            tokenizer(template.end, add_special_tokens=False)["input_ids"] if template.end else [tokenizer.eos_token_id]
        )
        self._frame = len(head) + len(ids[-1])
        ids = [*_fitting(ids[: len(distinct)], self._frame, window), *ids[len(distinct) :]]
        table = [*ids, head, end]
        self._pieces = Sequences.from_flat(
            np.fromiter((token for piece in table for token in piece), np.int32), np.array([len(p) for p in table])
        )
        count = len(distinct)
        self._separator, self._suffix, self._prefix, self._end = count, count + 1, count + 2, count + 3
        self._piece_of_item = np.fromiter((distinct[title] for title in titles), np.int32, len(titles))
        self._pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0
        if len(end) != 1:
            raise RecommenderError(f"the template's end {template.end!r} is {len(end)} tokens; it must be one")
        self.end_token: int = end[0]

    def with_answers(self, histories: Sequences, targets: NDArray[np.int32], loss_on: str, reserve: int = 0) -> Prompts:
        """Prompts with their answers (title and end token). ``loss_on``: the tokens counted, "answer" or "all".

        ``reserve``: tokens of the cutoff left for the answer where it has fewer, as in ``without_answers``.
        """
        pieces = self._piece_of_item[targets]
        lengths = self._pieces.lengths[pieces] + 1
        answers = np.stack([pieces, np.full(len(pieces), self._end, np.int32)], 1).reshape(-1)
        tail = Sequences.from_flat(answers, np.full(len(pieces), 2))
        frames = self._frames(histories, np.maximum(lengths, reserve))
        return Prompts(self._pieces, frames.join(tail), lengths, self._pad, loss_on)

    def without_answers(self, histories: Sequences, reserve: int) -> Prompts:
        """Prompts to be continued; ``reserve`` tokens of the cutoff are left for the answer."""
        room = np.full(len(histories), reserve, np.int64)
        return Prompts(self._pieces, self._frames(histories, room), np.zeros_like(room), self._pad, "answer")

    def _frames(self, histories: Sequences, answer_lengths: NDArray[np.int64]) -> Sequences:
        """Prefix, as many of the latest titles as fit, suffix: piece ids."""
        recent = histories.tail(self.max_history)
        separator = int(self._pieces.lengths[self._separator])
        pieces = self._piece_of_item[recent.items]
        cost = np.concatenate([[0], np.cumsum(self._pieces.lengths[pieces] + separator)])
        row = recent.rows_of_items()
        # Tokens of this title and all later ones of its row, separators between them.
        tail_cost = cost[recent.offsets[row + 1]] - cost[:-1] - separator
        fits = tail_cost <= (self.cutoff - self._frame - answer_lengths)[row]
        kept = np.bincount(row[fits], minlength=len(recent)).astype(np.int64)
        return self._joined(Sequences.from_flat(pieces[fits], kept))

    def _joined(self, titles: Sequences) -> Sequences:
        counts = titles.lengths
        lengths = 2 + np.maximum(2 * counts - 1, 0)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        flat = np.full(offsets[-1], self._separator, np.int32)
        flat[offsets[:-1]] = self._prefix
        flat[offsets[1:] - 1] = self._suffix
        row = titles.rows_of_items()
        flat[offsets[row] + 1 + 2 * (np.arange(len(row)) - titles.offsets[row])] = titles.items
        return Sequences(flat, offsets)
