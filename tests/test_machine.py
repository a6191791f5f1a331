"""The machine's failures are known by any name, homes may be called anything, and nothing of a newer version is lost."""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from foreign_parts import plugin, shelf
from mistakes import ask
from safetensors.torch import save_file
from tokenizers import Tokenizer, models

from prunebench.benchmark.errors import explain
from prunebench.benchmark.machine import disk_failed, disk_full, out_of_memory
from prunebench.datasets.files import NewerError, read_json, verify, write_json, write_manifest

RANDOM = ("prune", "--method", "random", "--dataset", "tiny", "--budget", "9")
RUN = ("run", "--method", "kept", "--backbone", "counts", "--dataset", "tiny", "--budget", "9", "--plugin", "plug.py")

WRITERS: dict[str, Callable[[Path], object]] = {
    "npy": lambda path: np.save(path, np.zeros(9999)),
    "npz": lambda path: np.savez(path, x=np.zeros(9999)),
    "text": lambda path: np.savetxt(path, np.zeros(9999)),
    "json": lambda path: write_json(path, [0] * 9999),
    "safetensors": lambda path: save_file({"x": torch.zeros(9999)}, path),
    "torch": lambda path: torch.save({"x": torch.zeros(9999)}, path),
    "parquet": lambda path: pq.write_table(pa.table({"x": np.random.default_rng(0).random(9999)}), path),
    "tokenizer": lambda path: Tokenizer(models.WordLevel({str(n): n for n in range(9999)}, "0")).save(str(path)),
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits a process of its own")
@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_known_by_what_every_library_says(tmp_path: Path, writer: str) -> None:
    child = os.fork()
    if not child:
        said = b"nothing"
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
            WRITERS[writer](tmp_path / "x")
        except Exception as error:
            line, code = explain(error)
            said = f"{disk_full(error)} {disk_failed(error)} {out_of_memory(error)} {code} {line}".encode()
        finally:
            (tmp_path / "said").write_bytes(said[:400])
            os._exit(0)
    os.waitpid(child, 0)
    said = (tmp_path / "said").read_text()
    assert said.startswith("True True False 1 ")
    assert "free some space" in said


@pytest.mark.parametrize(
    "ask_for", [lambda: np.zeros(10**15), lambda: torch.zeros(10**15), lambda: [0] * 10**15, lambda: bytearray(10**15)]
)
def test_memory_that_is_used_up_is_known(ask_for: Callable[[], object]) -> None:
    with pytest.raises((MemoryError, RuntimeError)) as caught:
        ask_for()
    assert out_of_memory(caught.value)
    assert explain(caught.value) == (
        "out of memory; use a smaller model, batch or data set, or a machine with more",
        1,
    )


@pytest.mark.parametrize(
    "error", [RuntimeError("shape mismatch"), ValueError("9 requested"), OSError("x"), KeyError(1)]
)
def test_other_errors_are_not_the_machine(error: Exception) -> None:
    assert not disk_full(error)
    assert not out_of_memory(error)
    assert not disk_failed(error)


# -- homes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["with space", "日本 ünï", "'quotes\"", "$HOME", "-dash", "a\nb", "[red]"])
def test_a_home_may_be_called_anything(tmp_path: Path, name: str) -> None:
    home = tmp_path / name
    home.mkdir()
    shelf(home)
    (tmp_path / "plug.py").write_text(plugin())
    answer = ask(tmp_path, (*RUN, "--json"), {"PRUNEBENCH_HOME": f"{name}/home"})
    assert answer.code == 0, answer.err
    assert (home / "home" / "runs" / json.loads(answer.out)["run"] / "record.json").is_file()


def test_an_empty_home_is_the_default_one(tmp_path: Path) -> None:
    answer = ask(tmp_path, ("ls", "runs"), {"PRUNEBENCH_HOME": "", "HOME": str(tmp_path)})
    assert (answer.code, answer.out) == (0, "runs: none yet\n")
    assert ask(tmp_path, (*RANDOM[:3], "--budget", "9"), {"PRUNEBENCH_HOME": "", "HOME": str(tmp_path)}).code == 0
    assert (tmp_path / ".prunebench" / "store" / "selection").is_dir()


@pytest.mark.parametrize("words", [("ls",), ("leaderboard", "show"), ("ls", "runs", "--json")])
def test_reading_commands_go_on_with_a_home_that_is_a_file(tmp_path: Path, words: tuple[str, ...]) -> None:
    (tmp_path / "home").write_text("mine")
    answer = ask(tmp_path, words)
    assert answer.code in (0, 2)
    assert "Traceback" not in answer.err


def test_an_import_into_a_home_that_cannot_be_says_so(tmp_path: Path) -> None:
    (tmp_path / "seen.csv").write_text(
        "user,item,timestamp\n" + "".join(f"u{n % 9},i{n % 3},{n}\n" for n in range(200))
    )
    (tmp_path / "items.csv").write_text("item,title\ni0,A\ni1,B\ni2,C\n")
    words = ("datasets", "import", "--format", "table", "--interactions", "seen.csv", "--items", "items.csv")
    answer = ask(tmp_path, (*words, "--name", "own"), {"PRUNEBENCH_HOME": "/dev/null/home"})
    assert answer.code == 1, answer.err
    assert "/dev/null/home/datasets: Not a directory" in answer.line


# -- what a newer version wrote ----------------------------------------------------------------------------------------


def test_a_damaged_digit_of_a_format_is_no_newer_version(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("x")
    write_manifest(tmp_path)
    manifest = read_json(tmp_path / "manifest.json")
    write_json(tmp_path / "manifest.json", {**manifest, "format": 3})
    with pytest.raises(Exception, match="not a manifest of format 1") as caught:
        verify(tmp_path)
    assert not isinstance(caught.value, NewerError)
    write_json(tmp_path / "manifest.json", {**manifest, "format": 3, "files": {"x.txt": {"bytes": 1}}})
    with pytest.raises(NewerError, match="newer prunebench"):
        verify(tmp_path)


def test_a_damaged_artefact_is_built_again_with_a_warning(tmp_path: Path) -> None:
    shelf(tmp_path)
    first = ask(tmp_path, RANDOM)
    (made,) = tmp_path.glob("home/store/selection/*")
    manifest = (made / "manifest.json").read_text()
    (made / "manifest.json").write_text(manifest.replace('"format": 1', '"format": 9'))
    again = ask(tmp_path, RANDOM)
    assert (again.code, again.out) == (0, first.out)
    assert "is damaged" in again.err
    assert "building it again" in again.err


def test_a_record_of_a_newer_version_is_left_out_and_left_alone(tmp_path: Path) -> None:
    shelf(tmp_path)
    (tmp_path / "plug.py").write_text(plugin())
    record = json.loads(ask(tmp_path, (*RUN, "--json")).out)
    folder = tmp_path / "home" / "runs" / record["run"]
    newer = json.dumps({**record, "schema_version": 99, "colour": "green"})
    (folder / "record.json").write_text(newer)
    write_manifest(folder)
    board = ask(tmp_path, ("leaderboard", "show", "--json"))
    assert (board.code, json.loads(board.out)["rows"]) == (0, [])
    assert "has record schema 99, newer than" in board.err
    assert ask(tmp_path, ("ls", "runs")).code == 0
    again = ask(tmp_path, RUN)
    assert (again.code, again.out) == (2, "")
    assert "update prunebench" in again.line
    assert (folder / "record.json").read_text() == newer

    write_json(folder / "manifest.json", {"format": 9, "files": {"record.json": {"blake3": "00"}}})
    again = ask(tmp_path, RUN)
    assert again.code == 2
    assert "written by a newer prunebench (format 9" in again.line
    assert (folder / "record.json").read_text() == newer


def test_a_list_goes_on_past_a_data_set_of_a_newer_version(tmp_path: Path) -> None:
    shelf(tmp_path)
    meta = tmp_path / "home" / "datasets" / "tiny" / "meta.json"
    for content in ({"format": 7, "name": "tiny"}, {"format": 7}, {"name": "tiny", "users": "many", "items": None}, []):
        meta.write_text(json.dumps(content))
        for more in ((), ("--json",)):
            answer = ask(tmp_path, ("ls", "datasets", *more))
            assert answer.code == 0, answer.err
            assert "tiny" in answer.out
