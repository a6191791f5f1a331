"""Pictures of a published board: written, checked for being there, and removed, but never anybody else's files."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from board_world import runs, write_runs

from prunebench.benchmark import board_files
from prunebench.benchmark.boards import build, check
from prunebench.datasets.files import write_manifest
from prunebench.leaderboard.exports import FILES
from prunebench.leaderboard.record import RecordError

ENDINGS = {".svg", "-dark.svg", ".png"}
TWO = ("a-bigrec-catalogue-10-cost", "a-bigrec-catalogue-10-stages")


def files(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def plots(out: Path) -> set[str]:
    return {name.removeprefix("plots/") for name in files(out) if name.startswith("plots/")}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two rows, and pictures that are their own names."""
    write_runs(tmp_path / "runs", [*runs("random", (0.3, 0.34)), *runs("good", (0.6, 0.62))])
    monkeypatch.setattr(board_files, "draw", lambda picture, methods, ending: (picture.name + ending).encode())
    return tmp_path


def built(home: Path, **facts: Any) -> Path:
    out = home / "board"
    build(home / "runs", out, None, "test", as_json=False, **facts)
    return out


def more_budgets(home: Path) -> None:
    budget: dict[str, Any] = {"budget": 20, "share": 0.2}
    write_runs(home / "runs", [*runs("good", (0.7,), **budget), *runs("random", (0.4,), **budget)])


def test_a_budget_with_few_rows_is_in_the_picture_over_budgets_alone(home: Path) -> None:
    write_runs(home / "runs", runs("good", (0.7,), budget=20, share=0.2))
    assert {name.removesuffix(".png") for name in plots(built(home)) if name.endswith(".png")} == {
        *TWO,
        "a-bigrec-catalogue-budgets",
    }


def test_real_pictures_are_written_and_shown_below_their_table(tmp_path: Path) -> None:
    write_runs(tmp_path / "runs", [*runs("random", (0.3, 0.34)), *runs("good", (0.6, 0.62))])
    out = built(tmp_path)
    assert plots(out) == {name + ending for name in TWO for ending in ENDINGS} | {board_files.LIST}
    markdown = (out / "leaderboard.md").read_text(encoding="utf-8")
    shown = re.findall(
        r'<picture><source media="[^"]+" srcset="([^"]+)"><img src="([^"]+)" alt="([^"]+)"></picture>', markdown
    )
    assert [src for _, src, _ in shown] == [f"plots/{name}.svg" for name in TWO]
    for dark, light, alt in shown:
        assert (out / dark).is_file()
        assert (out / light).is_file()
        assert "good" in alt
    before = files(out)
    check(tmp_path / "runs", out)
    assert files(built(tmp_path)) == before, "byte for byte"


def test_without_pictures_none_are_drawn_shown_or_asked_for(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = built(home, pictures=False)
    assert set(files(out)) == set(FILES)
    assert "plots/" not in (out / "leaderboard.md").read_text(encoding="utf-8")
    check(home / "runs", out)
    (out / "leaderboard.csv").write_text("")
    with pytest.raises(RecordError, match="--no-plots"):
        check(home / "runs", out)


def test_pictures_of_an_earlier_board_go_and_nothing_else_does(home: Path) -> None:
    out = built(home)
    more_budgets(home)
    out = built(home)
    assert len(plots(out)) == 1 + 3 * 5
    (out / "plots" / "mine.svg").write_text("mine")
    (out / "plots" / "a-bigrec-catalogue-20-cost.svg").write_text("drawn over by hand")
    for folder in list((home / "runs").iterdir()):
        if json.loads((folder / "record.json").read_text())["budget"] == 20:
            folder.rename(home / folder.name)
    built(home)
    kept = {"mine.svg", "a-bigrec-catalogue-20-cost.svg", board_files.LIST}
    assert plots(out) == {name + ending for name in TWO for ending in ENDINGS} | kept
    check(home / "runs", out)
    built(home, pictures=False)
    assert plots(out) == kept - {board_files.LIST}


def test_a_folder_that_had_only_pictures_goes_with_them(home: Path) -> None:
    assert plots(built(home))
    assert not (built(home, pictures=False) / "plots").exists()


@pytest.mark.parametrize("listed", ["[]", "{", '{"../mine.svg": "%s", "/etc/x.svg": 1, "leaderboard.md": "x"}'])
def test_a_list_that_is_not_ours_removes_nothing(home: Path, listed: str) -> None:
    out = home / "board"
    (out / "plots").mkdir(parents=True)
    (out / "mine.svg").write_text("mine")
    listed = listed.replace("%s", hashlib.sha256(b"mine").hexdigest())
    (out / "plots" / board_files.LIST).write_text(listed)
    built(home)
    assert (out / "mine.svg").read_text() == "mine"
    check(home / "runs", out)


def test_a_picture_that_cannot_be_drawn_leaves_all_as_it_was(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files(built(home))
    more_budgets(home)

    def full(picture: Any, methods: Any, ending: str) -> bytes:
        if picture.name.endswith("stages"):
            raise OSError(28, "No space left on device")
        return b"new"

    monkeypatch.setattr(board_files, "draw", full)
    with pytest.raises(OSError, match="No space"):
        built(home)
    assert files(home / "board") == before


def test_check_names_the_picture_that_is_missing_or_stale(home: Path) -> None:
    out = built(home)
    (out / "plots" / f"{TWO[1]}-dark.svg").unlink()
    with pytest.raises(
        RecordError, match=rf"{TWO[1]}-dark.svg is missing; build it anew: bench leaderboard build"
    ) as caught:
        check(home / "runs", out)
    assert "\n" not in str(caught.value)
    sums = json.loads((out / "plots" / board_files.LIST).read_text())
    (out / "plots" / board_files.LIST).write_text(json.dumps(sums | {"old-cost.svg": "0"}))
    with pytest.raises(RecordError, match=r"old-cost.svg is a picture of another board; build it anew"):
        check(home / "runs", out)
    del sums[f"{TWO[0]}.png"]
    (out / "plots" / board_files.LIST).write_text(json.dumps(sums))
    with pytest.raises(RecordError, match=rf"{TWO[0]}.png is not among the pictures there"):
        check(home / "runs", out)


def test_samples_that_are_not_those_of_the_record_are_refused(home: Path) -> None:
    out = built(home)
    folder = next((home / "runs").iterdir())
    record = json.loads((folder / "record.json").read_text())
    record["selection"] |= {"ids_file": "selection.txt", "sha256": "0" * 64}
    (folder / "record.json").write_text(json.dumps(record))
    for text, message in (
        ("1\n2\n", "does not hold the 10 samples its record says"),
        ("x\n", "does not hold sample ids"),
    ):
        (folder / "selection.txt").write_text(text)
        write_manifest(folder)
        with pytest.raises(RecordError, match=message) as caught:
            check(home / "runs", out)
        assert "selection.txt" in str(caught.value)
