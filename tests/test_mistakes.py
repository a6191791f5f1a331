"""Every mistake of TROUBLESHOOTING.md: one clear line, the right exit code, nothing half-written, no traceback."""

from __future__ import annotations

from pathlib import Path

import mistakes
import pytest
from mistakes import Mistake

PAGE = (Path(__file__).parents[1] / "TROUBLESHOOTING.md").read_text()


@pytest.mark.parametrize("mistake", [pytest.param(mistake, id=mistake.case) for _, mistake in mistakes.cases()])
def test_a_mistake_gets_its_one_line(mistake: Mistake, tmp_path: Path) -> None:
    mistake.given(tmp_path)
    before = _installed_and_recorded(tmp_path)
    answer = mistake.make(tmp_path)
    assert answer.code == mistake.code, answer.err
    for words in mistake.said:
        assert words in answer.line, answer.err
    assert "Traceback" not in answer.err
    if mistake.code:
        assert answer.out == ""
        assert _installed_and_recorded(tmp_path) == before
    mistake.after(tmp_path)
    if mistakes.PRINTED_BY in PAGE:  # other Pythons word some of it otherwise
        assert f"\n{mistakes.row(mistake, answer)}" in PAGE, "run `make troubleshooting`"


def _installed_and_recorded(folder: Path) -> set[Path]:
    """Data sets and runs, whole or half-written; a lock is neither."""
    home = folder / "home"
    found = (path for part in ("datasets", "runs") for path in (home / part).glob("*"))
    return {path for path in found if path.suffix != ".lock"}


def test_the_page_has_every_mistake_and_no_other() -> None:
    rows = [line.split(" | ")[0].removeprefix("| ") for line in PAGE.splitlines() if line.startswith("| ")]
    assert [row for row in rows if row != "what happened"] == [mistake.case for _, mistake in mistakes.cases()]
