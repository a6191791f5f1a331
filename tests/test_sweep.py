"""`bench sweep`: the records that separate runs give, whatever fails, dies or is stopped on the way."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import shlex
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from counted import PLUGIN, install_counted
from crashes import PRELOAD, check_same, check_tidy, processes, records
from forked_bench import Trap, bench
from mistakes import Answer, ask
from rich.console import Console

from prunebench.benchmark import engines, sweep

HEAD = 'backbones = ["counted"]\ndatasets = ["tiny"]\nplugins = ["plug.py"]\n'
STUDY = f'{HEAD}methods = ["random", "newest", "full"]\nbudgets = [0, 5]\nseeds = [0, 1]\n'
BREAKS = f"""{HEAD}methods = ["newest"]
budgets = [5]
seeds = [0, 1]
[vary]
"newest.broken" = ["few", ""]
"""
SWEEP = ("sweep", "s.toml")


def given(folder: Path, content: str, plugin: str = PLUGIN) -> Path:
    folder.mkdir(exist_ok=True)
    install_counted(folder)
    (folder / "plug.py").write_text(plugin)
    (folder / "s.toml").write_text(content)
    return folder


def rows(answer: Answer) -> list[dict[str, Any]]:
    return json.loads(answer.out)["runs"]  # type: ignore[no-any-return]


def same(folder: Path, other: Path) -> None:
    check_same(folder / "home", other / "home")


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Answer]:
    """A study that ran to its end, undisturbed."""
    folder = given(tmp_path_factory.mktemp("swept") / "swept", STUDY)
    answer = ask(folder, (*SWEEP, "--json"))
    assert answer.code == 0, answer.err
    return folder, answer


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that have their libraries already; `bench` itself starts bare ones."""
    if not sys.platform.startswith("linux"):
        pytest.skip("needs a fork server")
    processes.set_forkserver_preload(list(PRELOAD))
    monkeypatch.setattr(engines, "PROCESSES", processes)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_a_sweep_records_what_separate_runs_do(swept: tuple[Path, Answer], tmp_path: Path) -> None:
    folder, answer = swept
    other = given(tmp_path / "other", STUDY)
    assert [row["state"] for row in rows(answer)] == ["done"] * 8
    for row in rows(answer):
        words = shlex.split(row["command"])[1:]
        assert ask(other, tuple(words)).code == 0
    same(other, folder)
    # each record says the command that repeats it alone
    ours, theirs = (records(place / "home") for place in (folder, other))
    assert {name: record["command"] for name, record in ours.items()} == {
        row["record"]: row["command"] for row in rows(answer)
    }
    assert theirs.keys() == ours.keys()


def test_a_second_sweep_does_nothing_and_says_so(swept: tuple[Path, Answer]) -> None:
    folder, first = swept
    before = {path: path.stat().st_mtime_ns for path in (folder / "home").rglob("*.json")}
    answer = ask(folder, (*SWEEP, "--json"))
    assert [row["state"] for row in rows(answer)] == ["there"] * 8
    assert [row["record"] for row in rows(answer)] == [row["record"] for row in rows(first)]
    assert {path: path.stat().st_mtime_ns for path in (folder / "home").rglob("*.json")} == before
    plain = ask(folder, SWEEP)
    assert (
        plain.out == "s: 0 of 8 runs done now, 8 left as they were, 0 failed; `bench leaderboard show` compares them\n"
    )
    assert "to do: 0 of 8 runs" in plain.err


def test_two_jobs_give_what_one_does(swept: tuple[Path, Answer], tmp_path: Path, forked: None) -> None:
    folder = given(tmp_path / "two", STUDY)
    answer = ask(folder, (*SWEEP, "--jobs", "2", "--json"))
    assert answer.code == 0, answer.err
    assert [row["state"] for row in rows(answer)] == ["done"] * 8
    assert "[8/8] job" in answer.err
    same(folder, swept[0])
    assert not multiprocessing.active_children()


def test_what_fails_is_told_logged_and_tried_again(tmp_path: Path) -> None:
    folder = given(tmp_path, BREAKS)
    answer = ask(folder, (*SWEEP, "--json"))
    assert answer.code == 2
    assert [row["state"] for row in rows(answer)] == ["failed", "failed", "done", "done"]
    assert '2 of 4 runs failed: newest × counted on tiny, 5 samples, method.broken="few", seed 0' in answer.line
    assert "The same command tries them again; $PRUNEBENCH_HOME/sweeps/s.jsonl has the command of each" in answer.line
    log = folder / "home" / "sweeps" / "s.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["run"] for line in lines] == [row["command"] for row in rows(answer)[:2]]
    assert [line["error"] for line in lines] == [row["error"] for row in rows(answer)[:2]]
    alone = ask(folder, tuple(shlex.split(lines[0]["run"])[1:]))
    assert (alone.code, alone.line) == (2, lines[0]["error"])
    log.write_text(log.read_text()[:-9])  # a kill cut the last line short
    again = ask(folder, (*SWEEP, "--json"))
    assert (again.code, [row["state"] for row in rows(again)]) == (2, ["failed", "failed", "there", "there"])
    new = ask(folder, (*SWEEP, "--json", "--on-exists", "new"))
    assert (new.code, [row["state"] for row in rows(new)]) == (0, ["left", "left", "there", "there"])


def test_records_are_written_again_where_that_is_asked_for(tmp_path: Path) -> None:
    folder = given(tmp_path, f'{HEAD}methods = ["random"]\nbudgets = [5]\nseeds = [0, 1]\n')
    first = rows(ask(folder, (*SWEEP, "--json")))
    stores, written = (
        {path: path.stat().st_mtime_ns for path in (folder / "home" / part).rglob("*.json")}
        for part in ("store", "runs")
    )
    answer = ask(folder, (*SWEEP, "--json", "--on-exists", "always"))
    assert [(row["state"], row["record"]) for row in rows(answer)] == [("done", row["record"]) for row in first]
    assert all(path.stat().st_mtime_ns == when for path, when in stores.items())
    assert all(path.stat().st_mtime_ns > when for path, when in written.items())
    check_tidy(folder / "home")
    assert ask(folder, (*SWEEP, "--on-exists", "never")).code == 2


def test_a_process_that_dies_takes_one_run_with_it(tmp_path: Path, forked: None) -> None:
    dies = PLUGIN.replace(
        'print("fitting', 'import os\n        self.config.smoothing == 9 and os._exit(7)\n        print("fitting'
    )
    study = f'{HEAD}methods = ["random"]\nbudgets = [5]\nseeds = [0, 1]\n[vary]\n"counted.smoothing" = [9, 1]\n'
    folder = given(tmp_path, study, dies)
    answer = ask(folder, (*SWEEP, "--json", "--jobs", "2"))
    assert answer.code == 1
    assert [row["state"] for row in rows(answer)] == ["failed", "failed", "done", "done"]
    assert "its process ended with exit code 7" in answer.line


def test_ctrl_c_stops_every_job_in_order(tmp_path: Path, forked: None, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = PLUGIN.replace('print("fitting', 'import time\n        time.sleep(60)\n        print("fitting')
    folder = given(tmp_path, STUDY, slow)
    said = sweep.Progressing.stage

    def interrupted(self: sweep.Progressing, job: int, text: str) -> None:
        said(self, job, text)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(sweep.Progressing, "stage", interrupted)
    answer = ask(folder, (*SWEEP, "--json", "--jobs", "2"))
    assert (answer.code, answer.out) == (130, "")
    assert answer.line == "interrupted; the same command continues where this one stopped"
    assert not multiprocessing.active_children()
    assert not list((folder / "home").glob("runs/*/record.json"))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a fork server")
def test_ctrl_c_and_the_same_command_goes_on(swept: tuple[Path, Answer], tmp_path: Path) -> None:
    folder = given(tmp_path / "cut", STUDY)
    done = bench(folder / "home", SWEEP, Trap("fit", 2, signal.SIGINT))
    assert (done.code, done.out) == (130, ""), done.err
    assert done.line == "bench: interrupted; the same command continues where this one stopped"
    assert len(records(folder / "home")) == 2
    done = bench(folder / "home", SWEEP)
    assert (done.code, "6 of 8 runs done now, 2 left as they were, 0 failed" in done.out) == (0, True)
    same(folder, swept[0])


def test_the_plan_tells_runs_apart_by_settings_they_use(tmp_path: Path) -> None:
    study = HEAD.replace('["counted"]', '["counted", "popular"]') + 'methods = ["newest", "random"]\nbudgets = [0, 5]\n'
    study += '[settings]\n"counted.smoothing" = 1\n[vary]\n"newest.broken" = ["", "few"]\n'
    study += '[[include]]\nmethod = "random"\nbackbone = "counted"\nbudget = 5\n"counted.smoothing" = 2\n'
    answer = ask(given(tmp_path, study), (*SWEEP, "--plan"), {"COLUMNS": "80"})
    cells = [[cell for cell in line.split("  ") if cell] for line in answer.out.splitlines() if " of 1" in line]
    assert [[cell.strip() for cell in row] for row in cells] == [
        ["–", "counted", "0", "0", "0 of 1"],
        ["newest", "counted", "5", 'method.broken=""', "0", "0 of 1"],
        ["newest", "counted", "5", 'method.broken="few"', "0", "0 of 1"],
        ["random", "counted", "5", "backbone.smoothing=1", "0", "0 of 1"],
        ["–", "popular", "0", "0", "0 of 1"],
        ["random", "counted", "5", "backbone.smoothing=2", "0", "0 of 1"],
    ], answer.out
    facts = json.loads(ask(tmp_path, (*SWEEP, "--plan", "--json")).out)
    assert [run["settings"] for run in facts["runs"] if run["method"] == "none"] == [{"backbone.smoothing": 1}, {}]


def test_progress_keeps_to_its_lines_however_narrow_the_terminal() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=50)
    todo: Any = [SimpleNamespace(number=number, words=f"run {number}") for number in (1, 2, 3)]
    progress = sweep.Progressing(console, todo, 2, alone=False)
    for job in (0, 1):
        progress.started(job, todo[job])
    progress.stage(0, "fine-tuning: steps that have a [/b] name and go on, 1,000 of 4,000")
    progress.ended(todo[1], sweep.Ended(2, "abc"))
    shown = [
        "".join(part.text for part in line).rstrip() for line in console.render_lines(progress._live.get_renderable())
    ]
    assert [line[:11] for line in shown] == ["runs ━━━━━━", "job 1 fine-", "job 2 waits", ""]
    assert all(len(line) <= 50 for line in shown)
    assert "[/b]" in shown[1]
    assert "…" in shown[1]


def test_what_processes_print_comes_line_by_line(swept: tuple[Path, Answer], tmp_path: Path, forked: None) -> None:
    prints = PLUGIN.replace(
        'print("fitting', 'import os\n        os.write(2, b"half a ")\n        print("line\\n\\nfitting'
    )
    folder = given(tmp_path, f'{HEAD}methods = ["random"]\nbudgets = [5]\nseeds = [0, 1]\n', prints)
    answer = ask(folder, (*SWEEP, "--jobs", "2"))
    assert sorted(line for line in answer.err.splitlines() if "half a" in line) == [
        "  job 1: half a line",
        "  job 2: half a line",
    ]
    assert answer.err.count("fitting, on standard output") == 2
