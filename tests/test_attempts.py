"""The diary of an unfinished stage: what was kept survives to the byte, what was not goes, and bills follow."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from prunebench.benchmark.attempts import Attempts
from prunebench.benchmark.meter import Bill

ONE, TWO, THREE = (Bill(wall_s=seconds) for seconds in (1.0, 2.0, 3.0))


def left(folder: Path) -> dict[str, str]:
    found = sorted(path for path in (folder / "checkpoints").rglob("*") if path.is_file())
    return {path.relative_to(folder / "checkpoints").as_posix(): path.read_text() for path in found}


def cut_off(folder: Path) -> Path:
    """An attempt that kept a part and a folder of two after two seconds, and died in the third; its checkpoints."""
    attempts = Attempts(folder, 1.0)
    attempts.resume()
    attempts.write("start", Bill.zero())
    (attempts.checkpoints / "part-0").write_text("first")
    attempts.keep(ONE)
    (attempts.checkpoints / "step-4").mkdir()
    for name in ("weights", "optimizer"):
        (attempts.checkpoints / "step-4" / name).write_text(name)
    attempts.keep(TWO)
    attempts.write("beat", THREE)
    return attempts.checkpoints


def test_what_was_kept_survives_and_nothing_else(tmp_path: Path) -> None:
    checkpoints = cut_off(tmp_path)
    kept = left(tmp_path)
    (checkpoints / "part-1").write_text("seco")
    (checkpoints / "step-4" / "state").write_text("not kept")
    (checkpoints / "step-8").mkdir()
    (checkpoints / "step-8" / "weights").write_text("half")
    assert Attempts(tmp_path, 1.0).resume() == (TWO, ONE)
    assert left(tmp_path) == kept
    assert sorted(path.name for path in checkpoints.iterdir()) == ["part-0", "step-4"]


def test_what_its_owner_removed_is_not_missed_and_a_folder_goes_as_a_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = cut_off(tmp_path)
    (checkpoints / "step-4" / "optimizer").unlink()  # killed while it was being removed
    assert Attempts(tmp_path, 1.0).resume() == (TWO, ONE)
    assert left(tmp_path) == {"part-0": "first"}
    (checkpoints / "part-0").unlink()
    assert Attempts(tmp_path, 1.0).resume() == (TWO, ONE)
    assert not caplog.messages


@pytest.mark.parametrize("name", ["part-0", "step-4/weights"])
@pytest.mark.parametrize("damage", [lambda path: path.write_text("firsT"), lambda path: os.truncate(path, 2)])
def test_damaged_work_is_done_again_and_its_cost_is_lost_for_good(
    tmp_path: Path, name: str, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    damage(cut_off(tmp_path) / name)
    with caplog.at_level(logging.WARNING):
        assert Attempts(tmp_path, 1.0).resume() == (Bill.zero(), THREE)
    assert left(tmp_path) == {}
    assert [name in message for message in caplog.messages] == [True]
    attempts = Attempts(tmp_path, 1.0)
    assert attempts.resume() == (Bill.zero(), THREE)
    attempts.write("start", Bill.zero())
    (attempts.checkpoints / "part-0").write_text("again")
    attempts.keep(ONE)
    assert Attempts(tmp_path, 1.0).resume() == (ONE, THREE)
    assert left(tmp_path) == {"part-0": "again"}


def test_a_file_written_again_counts_as_kept_last(tmp_path: Path) -> None:
    attempts = Attempts(tmp_path, 1.0)
    attempts.resume()
    attempts.write("start", Bill.zero())
    for text, bill in (("one", ONE), ("three", THREE)):
        (attempts.checkpoints / "state").write_text(text)
        attempts.keep(bill)
    assert Attempts(tmp_path, 1.0).resume() == (THREE, Bill.zero())
    assert left(tmp_path) == {"state": "three"}


def test_a_line_cut_off_does_not_swallow_the_next_attempt(tmp_path: Path) -> None:
    checkpoints = cut_off(tmp_path)
    diary = tmp_path / "attempts.jsonl"
    with diary.open("a") as file:
        file.write('{"event": "beat", "ti')
    attempts = Attempts(tmp_path, 1.0)
    attempts.resume()

    class Reading:
        bill = ONE

        def __enter__(self) -> Reading:
            return self

        def __exit__(self, *error: object) -> None:
            return None

    with attempts.running(Reading()):  # type: ignore[arg-type]
        (checkpoints / "part-1").write_text("second")
        attempts.keep(ONE)
    assert Attempts(tmp_path, 1.0).resume() == (Bill(wall_s=3.0), ONE)
    assert left(tmp_path)["part-1"] == "second"


def test_a_digit_changed_in_the_diary_is_not_believed(tmp_path: Path) -> None:
    cut_off(tmp_path)
    diary = tmp_path / "attempts.jsonl"
    text = diary.read_text()
    assert text.count('"wall_s": 3.0') == 1
    diary.write_text(text.replace('"wall_s": 3.0', '"wall_s": 9.0'))
    assert Attempts(tmp_path, 1.0).resume() == (TWO, Bill.zero())
    diary.write_bytes(b"\xff\x00" * 40)
    assert Attempts(tmp_path, 1.0).resume() == (Bill.zero(), Bill.zero())
    assert left(tmp_path) == {}
