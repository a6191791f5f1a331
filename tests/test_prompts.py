"""Prompts: what is joined, what is truncated, and what is counted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_llm import TITLES, make_llm
from tokenizers import processors

from prunebench.datasets.schema import Sequences
from prunebench.recommenders.base import RecommenderError
from prunebench.recommenders.bigrec.model import load_tokenizer
from prunebench.recommenders.bigrec.prompts import (
    COMPACT,
    IGNORED,
    PROMPT_FILE,
    PromptBuilder,
    Template,
    alpaca,
    choose_template,
)

TEMPLATE = Template(prefix=". :", separator=" ; ", suffix=" =>")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory):
    return load_tokenizer(make_llm(tmp_path_factory.mktemp("llm")))


def builder(tokenizer, template=TEMPLATE, **options) -> PromptBuilder:
    return PromptBuilder(tokenizer, TITLES, template, **options)


def test_prompt_is_the_tokenised_text(tokenizer) -> None:
    made = builder(tokenizer).with_answers(Sequences.from_rows([[3, 5], []]), np.array([7, 1], np.int32), "answer")
    texts = [f". : {TITLES[3]} ; {TITLES[5]} => {TITLES[7]} </s>", f". : => {TITLES[1]} </s>"]
    for row, text in enumerate(texts):
        assert made.tokens(row).tolist() == tokenizer(text)["input_ids"]
    assert made.lengths.tolist() == [len(made.tokens(0)), len(made.tokens(1))]
    assert made.answer_lengths.tolist() == [3, 3]


def test_batch_is_padded_left_and_counts_what_it_should(tokenizer) -> None:
    rows, targets = Sequences.from_rows([[], [1, 2, 3]]), np.array([4, 5], np.int32)
    for loss_on in ("answer", "all"):
        made = builder(tokenizer).with_answers(rows, targets, loss_on)
        batch = made.batch(np.array([0, 1]))
        for row in range(2):
            length = int(made.lengths[row])
            tokens = made.tokens(row).tolist()
            assert batch.input_ids[row, -length:].tolist() == tokens
            assert batch.attention_mask[row].sum() == length
            assert batch.attention_mask[row, -length:].all()
            assert batch.position_ids[row, -length:].tolist() == list(range(length))
            counted = tokens[-3:] if loss_on == "answer" else tokens[1:]
            assert batch.labels[row][batch.labels[row] != IGNORED].tolist() == counted
        assert batch.loss_columns == (3 if loss_on == "answer" else made.lengths.max() - 1)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.lists(st.integers(0, 24), max_size=30), min_size=1, max_size=6),
    max_history=st.integers(0, 12),
    cutoff=st.integers(8, 40),
)
def test_truncation_drops_the_oldest_titles_only(tokenizer, rows, max_history, cutoff) -> None:
    targets = np.arange(len(rows), dtype=np.int32)
    made = builder(tokenizer, max_history=max_history, cutoff=cutoff)
    answered = made.with_answers(Sequences.from_rows(rows), targets, "answer")
    frame = 2 + 1  # ". :" and "=>"
    for row, history in enumerate(rows):
        kept = list(history[len(history) - min(len(history), max_history) :])
        while kept and frame + 3 * len(kept) - 1 + 3 > cutoff:  # two words a title, one separator between
            kept.pop(0)
        middle = " ; ".join(TITLES[item] for item in kept)
        assert answered.tokens(row).tolist() == tokenizer(f". : {middle} => {TITLES[row]} </s>")["input_ids"]
    asked = made.without_answers(Sequences.from_rows(rows), 3)
    for row in range(len(rows)):
        assert asked.tokens(row).tolist() == answered.tokens(row)[:-3].tolist()


def test_a_long_title_never_costs_the_template_or_the_answer(tokenizer) -> None:
    long = " ".join(["redfox"] * 50)
    made = PromptBuilder(tokenizer, ("oldcat", long), TEMPLATE, cutoff=20)
    prompts = made.with_answers(Sequences.from_rows([[1, 1], [0, 1], [1, 0]]), np.array([1, 0, 0], np.int32), "answer")
    assert prompts.tokens(0).tolist() == tokenizer(f". : => {long} </s>")["input_ids"]
    assert prompts.tokens(1).tolist() == tokenizer(". : => oldcat </s>")["input_ids"]
    assert prompts.tokens(2).tolist() == tokenizer(". : oldcat => oldcat </s>")["input_ids"]


def test_a_title_too_long_for_the_llm_loses_its_end(tokenizer, caplog: pytest.LogCaptureFixture) -> None:
    long = " ".join(["redfox"] * 50)
    made = PromptBuilder(tokenizer, ("oldcat", long), TEMPLATE, window=30)
    answered = made.with_answers(Sequences.from_rows([[1, 0]] * 2), np.array([1, 0], np.int32), "answer")
    assert answered.tokens(0).tolist() == tokenizer(f". : => {' '.join(['redfox'] * 26)} </s>")["input_ids"]
    assert answered.tokens(1).tolist() == tokenizer(". : oldcat => oldcat </s>")["input_ids"]
    assert "1 titles are longer than the 26 tokens the LLM can read of one" in caplog.text
    with pytest.raises(RecommenderError, match="longest title take 54 tokens, the LLM reads 12"):
        PromptBuilder(tokenizer, ("oldcat", long), TEMPLATE, window=12)


def test_batches_cover_all_rows_once_and_stay_within_their_tokens(tokenizer) -> None:
    rng = np.random.default_rng(0)
    rows = Sequences.from_rows([rng.integers(0, 25, rng.integers(0, 12)).tolist() for _ in range(50)])
    made = builder(tokenizer).without_answers(rows, 3)
    batches = list(made.batches(100, most=7))
    assert sorted(np.concatenate(batches)) == list(range(50))
    assert all(len(b) <= 7 and (len(b) == 1 or len(b) * made.lengths[b].max() <= 100) for b in batches)


def test_equal_prompts_are_found(tokenizer) -> None:
    made = builder(tokenizer).without_answers(Sequences.from_rows([[1], [2], [1], [], [0], [24]]), 3)
    distinct, where = made.distinct()
    assert where.tolist() == [0, 1, 0, 2, 3, 3]  # items 0 and 24 have one title
    assert [distinct.tokens(int(i)).tolist() for i in where] == [made.tokens(i).tolist() for i in range(6)]


def test_a_bos_token_the_tokenizer_adds_comes_first(tmp_path: Path) -> None:
    from_disk = load_tokenizer(make_llm(tmp_path))
    from_disk.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    for template, head in ((TEMPLATE, [1]), (COMPACT, [1])):
        tokens = builder(from_disk, template).with_answers(Sequences.from_rows([[1]]), np.array([2]), "all").tokens(0)
        assert tokens[:1].tolist() == head
        assert (tokens == 1).sum() == 1
        assert (tokens == 2).sum() == 1


def test_template_choice(tmp_path: Path) -> None:
    assert choose_template("auto", "book", tmp_path) == alpaca("book")
    assert choose_template("compact", "book", tmp_path) == COMPACT
    assert "recommend a new book" in alpaca("book").prefix
    (tmp_path / PROMPT_FILE).write_text(json.dumps(TEMPLATE.model_dump()))
    assert choose_template("auto", "book", tmp_path) == choose_template("compact", "book", tmp_path) == TEMPLATE
    assert choose_template("alpaca", "book", tmp_path) == alpaca("book")
    (tmp_path / PROMPT_FILE).write_text('{"sufix": ""}')
    with pytest.raises(RecommenderError, match="is no prompt template"):
        choose_template("auto", "book", tmp_path)
