"""Selections written to files: every row against a plain loop, whole or not at all, refused before any work."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from mistakes import Answer, ask

import datasets as hugging_face
from prunebench.benchmark import exports
from prunebench.benchmark.exports import FACTS, SCHEMA, Target, batches
from prunebench.datasets.library import Library
from prunebench.datasets.schema import DataError, RecDataset, Samples, Sequences, Strings
from prunebench.recommenders.bigrec.prompts import alpaca

TITLES = (
    "Plain",
    "",
    'Two\nlines, "quotes" and \\ a slash',
    "مرحبا بالعالم",
    "Space 🚀 👩‍👩‍👧",
    "<script>alert(1)</script>",
    "x" * 10_000,
    "tab\tand \u2028 and \x00",
    "[red]no markup[/red]; with the separator",
)
ALPACA = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n{output}"
)
"""The prompt that tools make of the three texts (Taori et al. 2023)."""


def odd_data(keys: bool = True, users: int = 40) -> RecDataset:
    """Titles that break careless code, users of 0 to 6 items, one of 300."""
    rng = np.random.default_rng(5)
    rows = [rng.integers(0, len(TITLES), rng.integers(0, 7)).tolist() for _ in range(users)]
    rows[3] = rng.integers(0, len(TITLES), 300).tolist()
    nobody = Sequences.empty(users)
    return RecDataset(
        "odd",
        TITLES,
        Sequences.from_rows(rows),
        nobody,
        nobody,
        meta={"item_noun": "game"},
        user_keys=Strings.from_list([f'u"{user}\né' for user in range(users)]) if keys else None,
        item_keys=Strings.from_list([f"B00{item}" for item in range(len(TITLES))]) if keys else None,
    )


def plain_rows(data: RecDataset, ids: list[int], noun: str) -> list[dict[str, Any]]:
    """What is to be written, the slow way."""
    rows = []
    for user in ids:
        *history, target = data.train[user].tolist()
        item_keys = list(data.item_keys) if data.item_keys else [str(item) for item in range(data.n_items)]
        rows.append(
            {
                "instruction": f"Given a list of {noun}s the user has purchased before, please recommend a new {noun} that the user likes to the user.",
                "input": f"The user has purchased the following {noun}s before: "
                + "; ".join(data.titles[item] for item in history),
                "output": data.titles[target],
                "sample_id": user,
                "user": data.user_keys[user] if data.user_keys else str(user),
                "history_items": [item_keys[item] for item in history],
                "target_item": item_keys[target],
            }
        )
    return rows


def load(folder: Path, cache: Path) -> list[dict[str, Any]]:
    return list(hugging_face.load_dataset(str(folder), split="train", cache_dir=str(cache)))


@pytest.mark.parametrize("keys", [True, False])
@pytest.mark.parametrize(("rows", "size"), [(4096, 1 << 24), (3, 1 << 24), (4096, 1), (4096, 30_000)])
def test_batches_hold_every_sample_once_and_little_text(keys: bool, rows: int, size: int) -> None:
    data = odd_data(keys)
    samples = data.samples()
    kept = samples.take(samples.ids[::2])
    with mock.patch.object(exports, "BATCH_ROWS", rows), mock.patch.object(exports, "BATCH_BYTES", size):
        made = list(batches(kept, "game"))
    assert [row for batch in made for row in batch.to_pylist()] == plain_rows(data, kept.ids.tolist(), "game")
    assert all(batch.schema == SCHEMA for batch in made)
    for batch in made:
        assert len(batch) <= rows
        titles = sum(len(row["input"].encode()) for row in batch.to_pylist())
        assert len(batch) == 1 or titles <= size + 60 * len(batch)


def test_with_the_alpaca_template_a_row_is_the_prompt_bigrec_learns() -> None:
    data, template = odd_data(), alpaca("book")
    samples = data.samples()
    for row, user in zip(next(batches(samples, "book")).to_pylist(), samples.ids, strict=True):
        *history, target = (data.titles[item] for item in data.train[user])
        prompt = template.prefix + template.separator.join(history) + template.suffix + target
        assert ALPACA.format(**row) == prompt


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Library(tmp_path / "home").install(odd_data())
    return tmp_path


PRUNE = ("prune", "--dataset", "odd", "--backbone", "sasrec", "--method", "random", "--budget", "7")


def prune(folder: Path, *words: str) -> Answer:
    return ask(folder, (*PRUNE, *words))


def test_every_format_holds_the_same_samples(folder: Path) -> None:
    printed = prune(folder)
    ids = [int(line) for line in printed.out.split()]
    assert (printed.code, len(ids)) == (0, 7)
    expected = plain_rows(odd_data(), ids, "game")

    assert prune(folder, "--out", "kept.txt").out == ""
    assert (folder / "kept.txt").read_text() == printed.out

    lines = prune(folder, "--format", "jsonl").out
    answer = prune(folder, "--format", "jsonl", "--out", "kept.jsonl")
    assert (answer.code, answer.out) == (0, "")
    assert "Wrote 7 samples to kept.jsonl" in answer.err
    assert (folder / "kept.jsonl").read_bytes().decode() == lines
    assert [json.loads(line) for line in lines.removesuffix("\n").split("\n")] == expected
    read = hugging_face.load_dataset(
        "json", data_files=str(folder / "kept.jsonl"), split="train", cache_dir=str(folder / "cache")
    )
    assert list(read) == expected

    assert prune(folder, "--format", "hf", "--out", "kept").code == 0
    assert load(folder / "kept", folder / "cache") == expected
    assert sorted(path.name for path in folder.iterdir() if path.name.startswith("kept")) == [
        "kept",
        "kept.jsonl",
        "kept.txt",
    ]


def test_a_data_set_folder_says_where_it_comes_from(folder: Path) -> None:
    answer = prune(folder, "--format", "hf", "--out", "kept", "--json", "--seed", "3")
    printed, facts = json.loads(answer.out), json.loads((folder / "kept" / FACTS).read_text())
    data = odd_data()
    assert (printed["format"], printed["out"], len(printed["sample_ids"])) == ("hf", "kept", 7)
    assert (facts["method"], facts["budget"], facts["seeds"]) == ("random", 7, {"signal": 3, "selection": 3})
    assert facts["dataset"]["fingerprint"] == data.fingerprint
    assert facts["dataset"]["counts"]["samples"] == len(data.samples())
    assert facts["config"]["method"] == {}
    assert {stage["stage"] for stage in facts["bill"]} == {"evidence", "selection"}
    assert facts["command"].startswith("bench prune --dataset odd")
    assert facts["names"] == {"user": "key", "history_items": "key", "target_item": "key"}
    card = (folder / "kept" / "README.md").read_text()
    assert data.fingerprint in card
    assert "Histories are whole" in card


def test_json_is_complete_and_the_file_is_written_too(folder: Path) -> None:
    answer = prune(folder, "--json", "--out", "kept.jsonl", "--format", "jsonl")
    printed = json.loads(answer.out)
    written = [json.loads(line)["sample_id"] for line in (folder / "kept.jsonl").open(encoding="utf-8")]
    assert printed["sample_ids"] == written
    assert "out" not in json.loads(prune(folder, "--json").out)


@pytest.mark.parametrize("layout", ["ids", "jsonl"])
def test_no_samples_are_a_file_without_lines(folder: Path, layout: str) -> None:
    answer = ask(folder, (*PRUNE[:-1], "0", "--format", layout, "--out", "none"))
    assert answer.code == 0, answer.err
    assert (folder / "none").read_bytes() == b""


def test_no_samples_are_no_data_set_folder(folder: Path) -> None:
    answer = ask(folder, (*PRUNE[:-1], "0", "--format", "hf", "--out", "none"))
    assert (answer.code, "keeps no samples" in answer.line) == (2, True)
    assert not (folder / "none").exists()


@pytest.mark.parametrize("layout", ["ids", "jsonl", "hf"])
def test_what_is_there_stays_unless_it_may_be_replaced(folder: Path, layout: str) -> None:
    assert prune(folder, "--format", layout, "--out", "kept").code == 0
    before = contents(folder / "kept")
    refused = ask(folder, (*PRUNE[:-1], "3", "--format", layout, "--out", "kept"))
    assert (refused.code, refused.out) == (2, "")
    assert "--overwrite" in refused.line
    assert contents(folder / "kept") == before
    assert ask(folder, (*PRUNE[:-1], "3", "--format", layout, "--out", "kept", "--overwrite")).code == 0
    assert contents(folder / "kept") != before
    assert not [path for path in folder.rglob("*.tmp") if "home" not in path.parts]


def test_a_folder_of_something_else_is_never_replaced(folder: Path) -> None:
    (folder / "thesis").mkdir()
    (folder / "thesis" / "chapter.tex").write_text("years of work")
    answer = prune(folder, "--format", "hf", "--out", "thesis", "--overwrite")
    assert (answer.code, "chapter" in contents(folder / "thesis")) == (2, False)
    assert (folder / "thesis" / "chapter.tex").read_text() == "years of work"
    (folder / "empty").mkdir()
    assert prune(folder, "--format", "hf", "--out", "empty", "--overwrite").code == 0
    (folder / "empty" / "data" / "notes.md").write_text("mine")
    answer = prune(folder, "--format", "hf", "--out", "empty", "--overwrite")
    assert (answer.code, "holds data/notes.md" in answer.line) == (2, True)
    assert (folder / "empty" / "data" / "notes.md").read_text() == "mine"


def test_a_link_is_written_through(folder: Path) -> None:
    (folder / "link").symlink_to(folder / "there.txt")
    assert prune(folder, "--out", "link").code == 0
    assert (folder / "link").is_symlink()
    assert len((folder / "there.txt").read_text().split()) == 7


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--format", "hf"), "give it by --out"),
        (("--format", "jsonl", "--json"), "--out"),
        (("--overwrite",), "--out"),
        (("--out", "absent/kept.txt"), "there is no folder"),
        (("--out", "home"), "is a folder"),
        (("--out", "file", "--format", "hf", "--overwrite"), "is a file"),
        (("--out", "/dev/null", "--overwrite"), "no regular file"),
    ],
)
def test_refusals_come_before_the_work(folder: Path, words: tuple[str, ...], said: str) -> None:
    (folder / "file").write_text("mine")
    answer = prune(folder, *words)
    assert (answer.code, answer.out) == (2, ""), answer.err
    assert said in answer.line
    assert not (folder / "home" / "store").exists()
    assert (folder / "file").read_text() == "mine"


def test_a_folder_that_cannot_be_written_to_is_the_machines_fault(folder: Path) -> None:
    error = OSError(30, "Read-only file system", str(folder))
    with mock.patch.object(exports, "tempfile", mock.Mock(TemporaryFile=mock.Mock(side_effect=error))):
        answer = prune(folder, "--out", "kept.txt")
    assert (answer.code, answer.out) == (1, "")
    assert "Read-only file system" in answer.line
    assert not (folder / "home" / "store").exists()


@pytest.mark.parametrize("layout", ["jsonl", "hf"])
def test_a_full_disk_leaves_nothing_half_written(folder: Path, layout: str) -> None:
    assert prune(folder, "--format", layout, "--out", "kept").code == 0
    before, real = contents(folder / "kept"), exports.batches

    def fails(kept: Samples, noun: str) -> Iterator[Any]:
        yield from real(kept, noun)
        raise OSError(28, "No space left on device")

    with mock.patch.object(exports, "batches", fails):
        for name in ("kept", "new"):
            answer = prune(folder, "--format", layout, "--out", name, "--overwrite")
            assert (answer.code, "No space left" in answer.line) == (1, True)
    assert contents(folder / "kept") == before
    assert not (folder / "new").exists()
    assert not [path for path in folder.iterdir() if path.name.endswith(".tmp")]


def test_what_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    samples, target = odd_data().samples(), tmp_path / "kept.txt"

    @contextmanager
    def another_process() -> Iterator[None]:
        Target(target).check(as_json=False)
        target.write_text("somebody else's")
        yield

    with another_process(), pytest.raises(DataError, match="exists already"):
        Target(target).write(samples, "game", {}, mock.Mock())
    assert target.read_text() == "somebody else's"


def contents(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    return {file.name: file.read_bytes() for file in files if file.is_file()}
