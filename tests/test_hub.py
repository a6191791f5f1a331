"""Models by name: folders, Hub ids and what they stand for, and how fast one hears that a model cannot be had."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub.errors import EntryNotFoundError
from mistakes import ask
from tiny_llm import make_dataset

from prunebench.datasets.library import Library
from prunebench.recommenders import hub
from prunebench.recommenders.base import RecommenderError


@pytest.fixture(autouse=True)
def _nothing_asked_before() -> Iterator[None]:
    hub.hub_commit.cache_clear()
    yield
    hub.hub_commit.cache_clear()


def _answers(monkeypatch: pytest.MonkeyPatch, answer: Any) -> list[str]:
    """The Hub answers that; gives the addresses it is asked for."""
    asked: list[str] = []

    def metadata(url: str, timeout: float) -> Any:
        asked.append(url)
        if isinstance(answer, Exception):
            raise answer
        return SimpleNamespace(commit_hash=answer)

    monkeypatch.setattr(hub, "get_hf_file_metadata", metadata)
    return asked


def test_a_hub_id_is_its_commit_and_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = _answers(monkeypatch, "c0ffee")
    assert [hub.hub_commit("some/llm", "LLM") for _ in range(3)] == ["c0ffee"] * 3
    assert len(asked) == 1
    assert asked[0].endswith("/some/llm/resolve/main/config.json")


def test_offline_it_is_what_the_cache_holds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = _answers(monkeypatch, ConnectionError("no route"))
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda name, file: str(tmp_path / "beef" / file))
    assert hub.hub_commit("some/llm", "LLM") == "beef"
    assert len(asked) == 1, "asked once, and not again and again"
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda name, file: None)
    with pytest.raises(ConnectionError, match=r"LLM 'other/llm' is no folder here.*no route"):
        hub.hub_commit("other/llm", "LLM")


def test_a_model_the_hub_does_not_have_is_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    _answers(monkeypatch, EntryNotFoundError("404"))
    with pytest.raises(RecommenderError, match="no model of the Hub"):
        hub.hub_commit("some/llm", "LLM")


def test_what_is_a_folder_and_what_an_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some" / "llm").mkdir(parents=True)
    assert hub.local_folder("some/llm", "LLM") == tmp_path / "some" / "llm"
    assert hub.local_folder("other/llm", "LLM") is None
    assert hub.local_folder("gpt2", "LLM") is None
    for path in ("/no/such", "./gpt2", "../gpt2", "~/no-such-folder", "a/b/c", "gpt2/", "C:\\llm"):
        with pytest.raises(RecommenderError, match="no such folder"):
            hub.local_folder(path, "LLM")


def test_who_prunes_without_the_llm_need_not_have_it(tmp_path: Path) -> None:
    Library(tmp_path / "home").install(make_dataset())
    words = ("prune", "--dataset", "walks", "--method", "random", "--budget", "4", "--llm", "/no/such/llm")
    assert len(ask(tmp_path, words).out.split()) == 4


@pytest.mark.parametrize("method", ["dealrec", "herding"])
def test_an_llm_that_is_not_there_is_told_before_anything_is_built(tmp_path: Path, method: str) -> None:
    """Whether the method reads it, or only the fine-tuning after it."""
    Library(tmp_path / "home").install(make_dataset())
    words = ("run", "--dataset", "walks", "--method", method, "--budget", "4", "--llm", "/no/such/llm")
    assert ask(tmp_path, words).code == 2
    assert not list((tmp_path / "home").glob("store/*/*/artefact.json"))
