"""Titles with new lines, markup, bidi, emoji or special tokens go all the way through, and nothing in them is obeyed."""

from __future__ import annotations

import importlib.util
import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mistakes import Answer, ask
from tiny_llm import WORDS, make_llm

from prunebench.datasets.library import Library
from prunebench.datasets.schema import Sequences
from prunebench.recommenders.bigrec.catalogue import BOS, EOS, PAD, TEMPLATE, train_tokenizer
from prunebench.recommenders.bigrec.model import embed_texts, load_base, load_tokenizer
from prunebench.recommenders.bigrec.prompts import COMPACT, PromptBuilder
from prunebench.recommenders.encoder import PACKAGE, EncoderConfig, SentenceEncoder
from prunebench.recommenders.literal import JOINER, literal
from prunebench.recommenders.runtime import Runtime

needs_encoder = pytest.mark.skipif(
    importlib.util.find_spec(PACKAGE) is None, reason="the packaged encoder (extra `offline`) is not installed"
)
SPECIAL = ("</s>", "<s> red fox", "old </s></s> cat", "<unk>", "<<s>s>", "[SEP] [CLS]", "<|endoftext|>", "<pad>")
ODD = (
    *(
        "two\nlines",
        "three\r\nmore\vlines\u2028end",
        "a\ttab",
        "\"double\" and 'single'",
        "back\\slash \\n",
        "; ",
        " ; ",
    ),
    *(
        "עברית",
        "\u202egnp.exe\u202c",
        "🎮 🏳️‍🌈 👩‍👩‍👧",
        "e\u0301 \u0327c",
        "<script>alert(1)</script>",
        "{braces} {0} {x!r} %s",
    ),
    *(
        "[bold]brackets[/] [/nothing] [red",
        "NUL \0 NUL",
        "| a | pipe |",
        "\x1b[31mred\x1b[0m\x07",
        "`code` **bold** # h",
    ),
    *("", "   ", "'empty'", "None", "nan", "=cmd|'/c calc'!A0", "\ufeffmark", "w" * 10_000, "red fox " * 1250),
    *SPECIAL,
)
USERS = 40
MODEL = ("max_steps=2", "eval_every=1", "batch=8", "micro_batch=8")
TOKENISER = ("tokeniser.codes=4", "layers=1", "heads=2", "head_width=8", "width=16", "feed_forward=32", "beams=4")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the odd titles imported from the released layout, every one somebody's history and target; an LLM."""
    folder = tmp_path_factory.mktemp("odd")
    rng = np.random.default_rng(0)
    orders = [rng.permutation(len(ODD)).tolist() for _ in range(USERS)]
    parts = {"training": (0, 6), "validation": (6, 8), "testing": (8, 10)}
    released = folder / "[bold]released[red]"
    released.mkdir()
    for name, (start, stop) in parts.items():
        rows: Any = {user: order[start:stop] for user, order in enumerate(orders)}
        np.save(released / f"{name}_dict.npy", rows, allow_pickle=True)
    titles: Any = {"recid2title": dict(enumerate(ODD))}
    np.save(released / "title_maps.npy", titles, allow_pickle=True)
    answer = ask(folder, ("datasets", "import", released.name, "--format", "dealrec", "--name", "odd"))
    assert answer.code == 0, answer.err
    make_llm(folder / "llm", words=[*WORDS, *" ".join(ODD).split()])
    return folder


@pytest.fixture
def bench(folder: Path) -> Callable[..., Answer]:
    """`bench COMMAND --dataset odd`, which must work."""

    def call(*words: str) -> Answer:
        answer = ask(folder, words)
        assert answer.code == 0, answer.err
        assert "Traceback" not in answer.err
        return answer

    return call


def _settings(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", f"backbone.{setting}")]


def _shown(text: str) -> bool:
    """Whether a terminal gets nothing but letters and line ends: no control character, no override of direction."""
    return not any(
        unicodedata.category(letter) in ("Cc", "Cf")
        for letter in text.replace("\n", "")
        if letter not in "\u200c\u200d"
    )


def test_titles_come_back_as_they_are(folder: Path) -> None:
    assert Library(folder / "home").load("odd").titles == ODD


def test_they_are_inspected(bench: Callable[..., Answer]) -> None:
    facts = json.loads(bench("datasets", "inspect", "odd", "--json").out)
    assert facts["titles"]["distinct"] == len(ODD)
    shown = bench("datasets", "inspect", "odd").out
    assert _shown(shown)
    assert "[bold]released[red]" in shown, "where it is from"


def test_they_are_written_for_fine_tuning_one_sample_a_line(bench: Callable[..., Answer]) -> None:
    out = bench("prune", "--dataset", "odd", "--method", "random", "--budget", "30", "--format", "jsonl").out
    samples = [json.loads(line) for line in out.removesuffix("\n").split("\n")]
    assert len(samples) == 30
    assert {sample["output"] for sample in samples} <= set(ODD)


def test_bigrec_learns_and_ranks_them_and_the_board_shows_it(folder: Path, bench: Callable[..., Answer]) -> None:
    llm = ("--llm", "./llm", *_settings(*MODEL, "grounding=llm", "template=compact", "max_new_tokens=5"))
    run = ("run", "--dataset", "odd", "--method", "random", "--budget", "16", *llm, "--json")
    record = json.loads(bench(*run).out)
    assert record["protocol"]["users_evaluated"] == USERS
    assert "| random" in bench("leaderboard", "show").out
    told = bench("explain", "3", "--run", record["run"]).out
    assert _shown(told), repr(told)


@needs_encoder
def test_tiger_makes_tokens_of_them(bench: Callable[..., Answer]) -> None:
    run = ("run", "--dataset", "odd", "--method", "random", "--budget", "16", "--backbone", "tiger", "--json")
    record = json.loads(bench(*run, *_settings(*MODEL, *TOKENISER)).out)
    assert record["protocol"]["users_evaluated"] == USERS


# --- special tokens ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizers(folder: Path) -> list[Any]:
    """By words, where a special token is a word as well; and by bytes, trained on titles that are full of them."""
    made = [load_tokenizer(folder / "llm"), train_tokenizer([*ODD[:-10], *[EOS, BOS, PAD] * 50], 400)]
    if importlib.util.find_spec(PACKAGE) is not None:
        made.append(SentenceEncoder(EncoderConfig()).tokenizer)
    return made


def _special_ids(tokenizer: Any, texts: list[str]) -> set[int]:
    """Of the texts' tokens those that mean something to a model; an unknown word is nothing but that."""
    made = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return {token for row in made for token in row} & {*tokenizer.all_special_ids} - {tokenizer.unk_token_id}


def test_no_title_holds_a_special_token(tokenizers: list[Any]) -> None:
    for tokenizer in tokenizers:
        assert _special_ids(tokenizer, list(ODD)), "or the test would see nothing"
        assert not _special_ids(tokenizer, literal(tokenizer, ODD))


@given(
    st.lists(
        st.sampled_from(["<", "s", ">", "/", "</s>", "<s>", "[", "SEP]", "[SEP]", " ", "fox", JOINER]), max_size=12
    )
)
def test_whatever_it_is_made_of(tokenizers: list[Any], parts: list[str]) -> None:
    text = "".join(parts)
    for tokenizer in tokenizers:
        written = literal(tokenizer, [text])
        assert not _special_ids(tokenizer, written)
        assert written[0].replace(JOINER, "") == text.replace(JOINER, "")


@given(st.text())
def test_other_titles_stay_as_they_are(tokenizers: list[Any], text: str) -> None:
    for tokenizer in tokenizers:
        if not any(token in text for token in tokenizer.all_special_tokens):
            assert literal(tokenizer, [text]) == [text]


def test_a_prompt_ends_where_its_template_says(tokenizers: list[Any]) -> None:
    for tokenizer, template in ((tokenizers[0], COMPACT), (tokenizers[1], TEMPLATE)):
        rows, targets = Sequences.from_rows([[0, 1, 2], [1], []]), np.array([2, 0, 1], np.int32)
        ends = []
        for titles in (("red fox", "old cat", "big owl"), ("</s>", "<s>a</s>", "x </s> y")):
            made = PromptBuilder(tokenizer, titles, template).with_answers(rows, targets, "answer")
            tokens = [made.tokens(row) for row in range(3)]
            ends.append([int(np.isin(row, (tokenizer.bos_token_id, tokenizer.eos_token_id)).sum()) for row in tokens])
        assert ends[0] == ends[1]


def test_an_llm_reads_of_a_title_what_it_can(folder: Path) -> None:
    tokenizer = load_tokenizer(folder / "llm")
    model = load_base(folder / "llm", "fp32", Runtime().device)
    window = model.config.max_position_embeddings
    long = "redfox " * (window + 50)
    vectors = embed_texts(model, tokenizer, [long, "redfox " * (window - 1), "redfox"], 512, Runtime())
    np.testing.assert_allclose(vectors[0], vectors[1], rtol=1e-5)
    assert not np.allclose(vectors[0], vectors[2])
