"""What the LLM says before fine-tuning: user vectors and token errors against one sample at a time; chunks that resume."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_llm import TITLES, TinyResources, make_dataset, make_llm

from prunebench.benchmark.llm_signals import LESSSignal, TokenErrorsSignal
from prunebench.benchmark.signals import Context
from prunebench.datasets.schema import Sequences
from prunebench.recommenders.base import (
    AlignmentConfig,
    HasAlignment,
    HasEffort,
    HasTokenErrors,
    HasUserVectors,
    RecommenderError,
)
from prunebench.recommenders.bigrec.backbone import BIGRec
from prunebench.recommenders.bigrec.config import BIGRecConfig
from prunebench.recommenders.bigrec.model import embed_texts
from prunebench.recommenders.resumable import in_chunks
from prunebench.recommenders.runtime import Runtime
from prunebench.recommenders.user_texts import title_tokens, user_texts

DATASET = make_dataset()
RUNTIME = Runtime(seed=3)


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return make_llm(tmp_path_factory.mktemp("llm"))


def backbone(llm: Path, **changes) -> BIGRec:
    config = BIGRecConfig.model_validate({"template": "compact", "lora": {"r": 4}, **changes})
    return BIGRec(config, TinyResources(DATASET, llm))


def test_capabilities(llm: Path) -> None:
    for capability in (HasEffort, HasUserVectors, HasTokenErrors, HasAlignment):
        assert isinstance(backbone(llm), capability)


# -- user vectors ---------------------------------------------------------------------------------------------------


def test_user_vectors_are_the_last_token_of_the_titles(llm: Path) -> None:
    made = backbone(llm, batch_tokens=64)
    rows = [*(list(row) for row in DATASET.samples().sequences), [], [3], [3], [24]]
    vectors = made.user_vectors(Sequences.from_rows(rows), RUNTIME)
    assert vectors.dtype == np.float32
    model = made.base(RUNTIME)
    for row, vector in zip(rows, vectors, strict=True):
        text = "; ".join(TITLES[item] for item in row)
        ids = [1, *made.tokenizer(text, add_special_tokens=False)["input_ids"]]
        with torch.no_grad():
            alone = model.model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
        np.testing.assert_allclose(vector, alone.numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(vectors[-2], vectors[-3])


@pytest.mark.parametrize("room", [2, 7, 12, 200])
def test_the_oldest_titles_are_dropped_first(llm: Path, room: int) -> None:
    tokenizer = backbone(llm).tokenizer
    rows = [[], [5], list(range(12)), [7] * 100]
    texts = user_texts(title_tokens(tokenizer, TITLES), TITLES, Sequences.from_rows(rows), room)
    for row, text in zip(rows, texts, strict=True):
        fitting = [
            kept
            for kept in range(len(row) + 1)
            if sum(
                len(tokenizer(TITLES[i] + "; ", add_special_tokens=False)["input_ids"]) for i in row[len(row) - kept :]
            )
            <= room
        ]
        kept = max(max(fitting), min(1, len(row)))
        assert text == "; ".join(TITLES[item] for item in row[len(row) - kept :])


def test_a_huge_history_fits_the_window(llm: Path) -> None:
    made = backbone(llm, cutoff=16)
    huge = np.arange(5000, dtype=np.int32) % 25
    vectors = made.user_vectors(Sequences.from_rows([huge.tolist(), [1]]), RUNTIME)
    fitted = user_texts(title_tokens(made.tokenizer, TITLES), TITLES, Sequences.from_rows([huge.tolist()]), 15)
    assert 2 <= fitted[0].count(";") + 1 < 8
    expected = embed_texts(made.base(RUNTIME), made.tokenizer, fitted, 64, RUNTIME)
    np.testing.assert_allclose(vectors[:1], expected, rtol=1e-4, atol=1e-5)


def test_nobody_has_no_vectors(llm: Path) -> None:
    assert backbone(llm).user_vectors(Sequences.empty(0), RUNTIME).shape == (0, 16)


# -- token errors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss_on", ["answer", "all"])
def test_token_errors_match_a_loop_over_samples(llm: Path, loss_on: str) -> None:
    made, samples = backbone(llm, batch_tokens=96, loss_on=loss_on), DATASET.samples()
    errors = made.token_errors(samples, RUNTIME)
    assert errors.dtype == np.float32
    model = made.base(RUNTIME)
    prompts = made.prompts(model).with_answers(samples.histories, samples.targets, "answer")
    for row, error in enumerate(errors):
        tokens = torch.from_numpy(prompts.tokens(row).astype(np.int64))
        with torch.no_grad():
            shares = model(input_ids=tokens[None]).logits[0].softmax(-1)
        answer = int(prompts.answer_lengths[row])
        each = []
        for at in range(len(tokens) - answer, len(tokens)):
            onehot = torch.zeros(shares.shape[1])
            onehot[tokens[at]] = 1
            each.append(float((shares[at - 1] - onehot).norm()))
        assert error == pytest.approx(np.mean(each), rel=1e-4)


def test_token_errors_do_not_depend_on_batches(llm: Path) -> None:
    samples = DATASET.samples()
    one, many = (backbone(llm, batch_tokens=size).token_errors(samples, RUNTIME) for size in (1, 4096))
    np.testing.assert_allclose(one, many, rtol=1e-4)
    assert (one >= 0).all()
    assert (one <= np.sqrt(2) + 1e-6).all()
    assert backbone(llm).token_errors(samples.take(samples.ids[:0]), RUNTIME).shape == (0,)


# -- chunks ---------------------------------------------------------------------------------------------------------


def test_chunks_are_computed_once_and_count_as_one_whole(tmp_path: Path) -> None:
    asked, seen, saved = [], [], []

    def compute(positions: np.ndarray, runtime: Runtime) -> np.ndarray:
        if len(asked) == 2:
            asked.append("killed")
            raise KeyboardInterrupt
        asked.append(positions.tolist())
        runtime.report(len(positions), len(positions), "part")
        return positions.astype(np.float32) ** 2

    runtime = replace(
        RUNTIME, report=lambda done, total, what: seen.append((done, total, what)), saved=lambda: saved.append(1)
    )
    with pytest.raises(KeyboardInterrupt):
        in_chunks(tmp_path, "squares", 8, compute, runtime, size=3)
    values = in_chunks(tmp_path, "squares", 8, compute, runtime, size=3)
    np.testing.assert_array_equal(values, np.arange(8.0, dtype=np.float32) ** 2)
    assert asked == [[0, 1, 2], [3, 4, 5], "killed", [6, 7]]
    assert seen == [(3, 8, "part"), (6, 8, "part"), (8, 8, "part")]
    assert len(saved) == 3
    assert in_chunks(tmp_path, "nothing", 0, compute, runtime).shape == (0,)


# -- signals --------------------------------------------------------------------------------------------------------


def context(backbone: Any, llm: Path | None = None) -> Context:
    run: Any = SimpleNamespace(backbone="some", plugins={})
    nobody: Any = None
    queries, samples = DATASET.queries("valid"), DATASET.samples()
    return Context(DATASET, samples, queries, queries, run, nobody, nobody, backbone, RUNTIME, {"llm": llm})


def built(signal: Any, config: Any, within: Context, folder: Path) -> np.ndarray:
    work: Any = SimpleNamespace(folder=folder, scratch=folder / "scratch", keep=lambda: None)
    work.scratch.mkdir(exist_ok=True)
    signal.build(config, within, work)
    stored: Any = SimpleNamespace(folder=folder, stage="test")
    return signal.load(config, within, stored)


def test_signals_hold_what_the_backbone_says(llm: Path, tmp_path: Path) -> None:
    made = backbone(llm)
    within, samples = context(made, llm), DATASET.samples()
    errors = built(TokenErrorsSignal(), TokenErrorsSignal.Config(), within, tmp_path)
    np.testing.assert_array_equal(errors, made.token_errors(samples, RUNTIME))
    (tmp_path / "alone").mkdir()
    (tmp_path / "less").mkdir()
    settings = AlignmentConfig(share=0.2, epochs=1)
    scores = made.alignment(samples, DATASET.queries("valid"), settings, RUNTIME, tmp_path / "alone")
    np.testing.assert_array_equal(built(LESSSignal(), settings, within, tmp_path / "less"), scores)
    assert LESSSignal().key(settings, within)["settings"] == made.key("alignment")
    assert LESSSignal.reads == ("train", "select", "titles")


@pytest.mark.parametrize(("signal", "what"), [(TokenErrorsSignal(), "token errors"), (LESSSignal(), "LESS")])
def test_a_backbone_without_the_capability_is_one_clear_line(signal: Any, what: str) -> None:
    within = context(SimpleNamespace(version=1, key=dict, needs=dict))
    for ask in (signal.needs, signal.key):
        with pytest.raises(RecommenderError, match=f"backbone some has no .*{what}.*e.g. bigrec") as caught:
            ask(signal.Config(), within)
        assert "\n" not in str(caught.value)
