"""Ctrl-C, SIGTERM and a full disk in every stage: one line, the right exit code, and the same command goes on."""

from __future__ import annotations

import io
import json
import os
import signal
import threading
import time
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
from crashes import check_same, the_record, with_settings
from foreign_parts import BACKBONE, METHOD, plugin, source, tiny
from forked_bench import Done, Running, Trap, bench, start
from rich.console import Console
from small_world import SMALL_WORLD
from test_main_job import SMALL

from prunebench.benchmark.interrupts import told_once
from prunebench.benchmark.progress import ConsoleReporter
from prunebench.datasets.files import verify
from prunebench.datasets.library import Library
from prunebench.datasets.synthetic import generate

INT, TERM = int(signal.SIGINT), int(signal.SIGTERM)
RUN = with_settings(("run", "--dataset", "small", "--method", "dealrec", "--budget", "24", "--json"), tuple(SMALL))
SAID = {
    130: "bench: interrupted; the same command continues where this one stopped",
    143: "bench: terminated; the same command continues where this one stopped",
}
QUIET = ("evidence", "selection", "record")
"""Stages too short to report progress."""
STAGES = ("surrogate", "influence", "title_vectors", "llm", "effort", "evidence", "selection", "fit", "predictions")
CUTS = [
    cut
    for stage in (*STAGES, "record")
    for cut in (
        Trap(stage, signal=INT),
        Trap(stage, after=0 if stage in QUIET else 1, room=100),
        *([Trap(stage, after=1, signal=TERM)] if stage in ("llm", "fit", "predictions") else []),
    )
]


def check_one_line(done: Done, code: int) -> None:
    assert (done.code, done.out) == (code, ""), done.err
    assert "Traceback" not in done.err
    assert [line for line in done.err.splitlines() if line.startswith("bench: ")] == [done.line]
    if code in SAID:
        assert done.line == SAID[code]


# -- every stage of a run ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One that is disturbed in every stage, and one that is not."""
    folder = tmp_path_factory.mktemp("interrupted")
    both = folder / "disturbed", folder / "undisturbed"
    for home in both:
        Library(home).install(replace(generate(SMALL_WORLD, 0), name="small"))
    done = bench(both[1], RUN)
    assert done.code == 0, done.err
    return both


@pytest.mark.parametrize("cut", CUTS, ids=[f"{cut.at}-{cut.signal or 'full'}" for cut in CUTS])
def test_a_stage_that_is_cut_off_leaves_what_was_done_before(homes: tuple[Path, Path], cut: Trap) -> None:
    home = homes[0]
    done = bench(home, RUN, cut)
    check_one_line(done, 1 if cut.signal is None else 128 + cut.signal)
    if cut.room is not None:
        assert "free some space" in done.line
    assert not [path for path in home.glob("runs/*") if not path.name.startswith(".")]
    stages = STAGES if cut.at == "record" else STAGES[: STAGES.index(cut.at)]
    assert {folder.parent.name for folder in home.glob("store/*/*")} == set(stages)
    for folder in home.glob("store/*/*"):
        verify(folder)


def test_the_same_command_ends_with_the_record_of_an_undisturbed_one(homes: tuple[Path, Path]) -> None:
    done = bench(homes[0], RUN)
    assert done.code == 0, done.err
    check_same(*homes)
    cut_off = {stage["stage"] for stage in the_record(homes[0])["killed"]}
    assert {"surrogate", "llm", "fit", "predictions"} <= cut_off, "what came to nothing is billed apart"


# -- import and export -------------------------------------------------------------------------------------------------

TABLES = {
    "seen.csv": "user,item,timestamp\n" + "".join(f"u{n % 9},i{n % 5},{n}\n" for n in range(90)),
    "items.csv": "item,title\n" + "".join(f"i{n},Game {n}\n" for n in range(5)),
}
IMPORT = ("datasets", "import", "--format", "table", "--interactions", "seen.csv", "--items", "items.csv")


@pytest.mark.parametrize("cut", [Trap("import", signal=INT), Trap("import", room=100)], ids=["interrupt", "full"])
def test_an_import_that_is_cut_off_leaves_nothing(tmp_path: Path, cut: Trap) -> None:
    for name, text in TABLES.items():
        (tmp_path / name).write_text(text)
    words = (*IMPORT, "--name", "own")
    check_one_line(bench(tmp_path / "home", words, cut), 130 if cut.signal else 1)
    assert not Library(tmp_path / "home").installed()
    done = bench(tmp_path / "home", words)
    assert done.code == 0, done.err
    assert [entry["name"] for entry in Library(tmp_path / "home").installed()] == ["own"]
    assert not list((tmp_path / "home").rglob("*.tmp"))


@pytest.mark.parametrize("cut", [Trap("export", signal=INT), Trap("export", room=10)], ids=["interrupt", "full"])
def test_an_export_that_is_cut_off_leaves_what_was_there(tmp_path: Path, cut: Trap) -> None:
    Library(tmp_path / "home").install(tiny())
    (tmp_path / "kept.txt").write_text("mine\n")
    words = ("prune", "--dataset", "tiny", "--method", "random", "--budget", "9", "--out", "kept.txt", "--overwrite")
    check_one_line(bench(tmp_path / "home", words, cut), 130 if cut.signal else 1)
    assert (tmp_path / "kept.txt").read_text() == "mine\n"
    assert not list(tmp_path.glob(".kept*"))
    assert bench(tmp_path / "home", words).code == 0
    assert len((tmp_path / "kept.txt").read_text().split()) == 9


# -- plugins that hang -------------------------------------------------------------------------------------------------

HANGS = {
    "python": "while True: len(member)",
    "c": "__import__('ctypes').CDLL(None).sleep(600)",
    "swallows": "swallow()",
    "deaf": "__import__('hashlib').pbkdf2_hmac('sha256', b'', b'', 1 << 30)",
}
HELPERS = """
def hang(member):
    if os.path.exists("hang.json"):
        asked = json.load(open("hang.json"))
        if member == asked["member"]:
            open("hanging", "w").close()
            exec(asked["how"])

def swallow():
    for _ in range(2):
        try:
            __import__("time").sleep(600)
        except BaseException: pass

hang("import")
"""
WORDS = ("run", "--dataset", "tiny", "--method", "kept", "--backbone", "counts", "--budget", "9", "--plugin", "plug.py")


def _hangs(part: dict[str, str]) -> str:
    """The part with a call of ``hang`` in each of its longer steps."""
    steps = [step for step in ("prepare", "select", "fit", "recommend") if step in part]
    return source(part, **{step: part[step].replace("):", f"):\n        hang({step!r});", 1) for step in steps})


TEXT = plugin(_hangs(METHOD), _hangs(BACKBONE), HELPERS).replace(";\n       ", "\n       ")


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home where the plugin never hung."""
    folder = tmp_path_factory.mktemp("fresh")
    Library(folder / "home").install(tiny())
    (folder / "plug.py").write_text(TEXT)
    done = bench(folder / "home", WORDS)
    assert done.code == 0, done.err
    return folder / "home"


def hanging(folder: Path, member: str, how: str) -> Running:
    """A run with a plugin that hangs in ``member``; it does."""
    Library(folder / "home").install(tiny())
    (folder / "plug.py").write_text(TEXT)
    (folder / "hang.json").write_text(json.dumps({"member": member, "how": HANGS[how]}))
    running = start(folder / "home", WORDS)
    deadline = time.monotonic() + 60
    while not (folder / "hanging").exists():
        assert time.monotonic() < deadline
        assert running.process.is_alive()
        time.sleep(0.01)
    time.sleep(0.1)
    return running


def check_goes_on(folder: Path, fresh: Path) -> None:
    """Once the plugin no longer hangs, the same command ends with the record of a home where it never did."""
    (folder / "hang.json").unlink()
    done = bench(folder / "home", WORDS)
    assert done.code == 0, done.err
    check_same(folder / "home", fresh)


@pytest.mark.parametrize(
    ("member", "how"),
    [("import", "python"), ("prepare", "c"), ("select", "python"), ("fit", "c"), ("recommend", "python")],
)
def test_a_part_that_hangs_ends_with_ctrl_c(tmp_path: Path, fresh: Path, member: str, how: str) -> None:
    running = hanging(tmp_path, member, how)
    running.send(INT)
    check_one_line(running.wait(), 130)
    assert not list(tmp_path.glob("home/runs/*"))
    check_goes_on(tmp_path, fresh)


@pytest.mark.parametrize(("how", "number"), [("swallows", INT), ("deaf", INT), ("deaf", TERM)])
def test_a_second_signal_ends_what_does_not_hear_the_first(tmp_path: Path, fresh: Path, how: str, number: int) -> None:
    running = hanging(tmp_path, "prepare", how)
    running.send(number)
    time.sleep(0.3)
    assert running.process.is_alive(), "the first one is not heard"
    running.send(number)
    check_one_line(running.wait(), 128 + number)
    check_goes_on(tmp_path, fresh)


# -- the rest ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ("prune", "--dataset", "tiny", "--method", "random", "--budget", "9"),
        ("prune", "--dataset", "tiny", "--method", "random", "--budget", "9", "--json"),
        ("ls", "--json"),
        ("datasets", "inspect", "tiny"),
        ("leaderboard", "show", "--json"),
    ],
)
def test_a_reader_that_leaves_is_no_matter(tmp_path: Path, words: tuple[str, ...]) -> None:
    Library(tmp_path / "home").install(tiny())
    os.mkfifo(tmp_path / "pipe")
    running = start(tmp_path / "home", words, out=tmp_path / "pipe")
    os.close(os.open(tmp_path / "pipe", os.O_RDONLY))  # as soon as the command has opened its end
    done = running.wait()
    assert done.code == 1, done.err
    assert "Traceback" not in done.err
    assert "Errno" not in done.err
    assert "bench: " not in done.err


def test_signals_are_as_before_afterwards() -> None:
    before = [signal.getsignal(number) for number in (INT, TERM)]
    threads = threading.active_count()
    with told_once() as interrupted, pytest.raises(KeyboardInterrupt):
        signal.raise_signal(TERM)
    assert interrupted.code == 143
    assert [signal.getsignal(number) for number in (INT, TERM)] == before
    assert signal.set_wakeup_fd(-1) == -1
    assert threading.active_count() <= threads + 1


def test_a_forked_child_is_killed_by_its_own_signals_alone() -> None:
    with told_once() as interrupted:
        for number, ends in ((TERM, -TERM), (INT, 7)) * 2:
            ready, begun = os.pipe()
            child = os.fork()
            if not child:
                try:
                    os.write(begun, b"x")
                    time.sleep(60)
                finally:
                    os._exit(7)
            os.read(ready, 1)
            time.sleep(0.05)
            os.kill(child, number)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == ends
            os.close(ready)
            os.close(begun)
        time.sleep(0.1)
    assert interrupted.number is None


def test_what_the_parent_ignores_stays_ignored() -> None:
    before = signal.signal(INT, signal.SIG_IGN)
    try:
        with told_once():
            os.kill(os.getpid(), INT)
            assert signal.getsignal(INT) is signal.SIG_IGN
    finally:
        signal.signal(INT, before)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_python_swallows_stops_the_next_step_of_the_work() -> None:
    """As when the signal comes while an object is collected: what its callback raises goes nowhere."""

    class Thing: ...

    def collected(reference: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with told_once() as interrupted, ConsoleReporter(Console(file=io.StringIO())).stage("work") as report:
        report(1, 3, "steps")
        thing = Thing()
        kept = weakref.ref(thing, collected)
        del thing
        assert kept() is None
        assert interrupted.number == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            report(2, 3, "steps")
