"""`bench leaderboard build` and `check` as a user meets them."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from board_world import run, runs, write_runs

from prunebench.benchmark import cli
from prunebench.leaderboard.board import Board
from prunebench.leaderboard.exports import FILES
from prunebench.leaderboard.record import DatasetFacts

Bench = Callable[..., tuple[int, str, str]]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Bench:
    """Calls the command in this process: ``(exit code, stdout, stderr)``, in a folder and home of its own."""
    monkeypatch.setenv("PRUNEBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["bench", "leaderboard", *words])
        capfd.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capfd.readouterr()
        return code, out, err

    write_runs(tmp_path / "home" / "runs", [*runs("random", (0.3, 0.34)), *runs("good", (0.6, 0.62))])
    return call


def texts(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def test_build_writes_a_board_that_check_passes(bench: Bench, tmp_path: Path) -> None:
    code, out, err = bench("build", "--out", "deep/board", "--json")
    assert code == 0, err
    said = json.loads(out)
    assert (said["tables"], said["rows"], said["runs"], said["left_out"]) == (1, 2, 4, [])
    assert sorted(said["files"]) == sorted(FILES) == sorted(texts(tmp_path / "deep" / "board"))
    before = texts(tmp_path / "deep" / "board")
    code, out, err = bench("build", "--out", "deep/board", "--records", "home/runs")
    assert (code, texts(tmp_path / "deep" / "board")) == (0, before)
    assert out.endswith(" in deep/board: tables 1, rows 2, runs 4\n")
    code, out, err = bench("check", "--published", "deep/board")
    assert (code, err) == (0, "")
    code, out, err = bench("check", "--published", "deep/board", "--json")
    assert json.loads(out)["runs"] == 4


@pytest.mark.parametrize("name", FILES)
def test_check_names_the_file_and_row_of_a_changed_digit(bench: Bench, tmp_path: Path, name: str) -> None:
    assert bench("build", "--out", "leaderboard/published")[0] == 0
    shutil.move(tmp_path / "home" / "runs", tmp_path / "leaderboard" / "published" / "records")
    assert bench("check")[0] == 0, "in the repository root neither folder need be named"
    path = tmp_path / "leaderboard" / "published" / name
    text = path.read_text(encoding="utf-8")
    at = text.index(".61")
    path.write_text(text[:at] + ".16" + text[at + 3 :], encoding="utf-8")
    code, out, err = bench("check")
    assert (code, out) == (2, "")
    assert f"{name}, line " in err
    assert ("(good)" if name.endswith(".tex") else "(good on bigrec") in err
    assert err.count("\n") == 1
    path.unlink()
    code, out, err = bench("check")
    assert (code, err.count("\n")) == (2, 1)
    assert f"{name} is missing" in err


def test_check_fails_when_a_record_is_added_spoilt_or_taken_away(bench: Bench, tmp_path: Path) -> None:
    runs_folder = tmp_path / "home" / "runs"
    assert bench("build", "--out", "board", "--dataset", "a")[0] == 0
    write_runs(runs_folder, runs("random", (0.5,), dataset=DatasetFacts(name="b", fingerprint="2")))
    assert bench("check", "--published", "board")[0] == 0, "the board is of data set a"
    extra = run("better", 0.9)
    write_runs(runs_folder, [extra])
    code, _, err = bench("check", "--published", "board")
    assert (code, err.count("\n")) == (2, 1)
    assert "better on bigrec" in err
    assert f"bench leaderboard build --records {runs_folder} --out board --split test --dataset a" in err
    with (runs_folder / extra.record.run / "per_user.npz").open("ab") as file:
        file.write(b"x")
    code, _, err = bench("check", "--published", "board")
    assert (code, err.count("\n")) == (2, 1)
    assert "per_user.npz does not match its checksum" in err
    shutil.rmtree(runs_folder / extra.record.run)
    assert bench("check", "--published", "board")[0] == 0


def test_a_damaged_run_is_left_out_with_a_line(bench: Bench, tmp_path: Path) -> None:
    runs_folder = tmp_path / "home" / "runs"
    gone = run("good", 0.62, 1).record.run
    (runs_folder / gone / "per_user.npz").unlink()
    code, out, err = bench("build", "--out", "board", "--json")
    assert code == 0
    assert [line for line in err.splitlines() if "left out" in line] == [
        f"bench: left out: {runs_folder / gone / 'per_user.npz'} is missing"
    ]
    assert json.loads(out)["runs"] == 3
    assert len(json.loads(out)["left_out"]) == 1
    assert "| good | bigrec | 10 | 1 of 2 |" in (tmp_path / "board" / "leaderboard.md").read_text(encoding="utf-8")


def test_nothing_is_written_where_there_is_nothing_or_an_error(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = bench("build", "--out", "board", "--dataset", "shop")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "no runs on the test split of shop" in err
    assert "there are runs on a (test)" in err
    assert not (tmp_path / "board").exists()
    assert bench("build", "--out", "board")[0] == 0
    before = texts(tmp_path / "board")
    write_runs(tmp_path / "home" / "runs", [run("better", 0.9)])

    def full(board: Board) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(FILES, "leaderboard.tex", full)
    assert bench("build", "--out", "board")[0] == 1
    assert texts(tmp_path / "board") == before
