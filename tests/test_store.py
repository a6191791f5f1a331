"""The artefact store: hits and misses, damage, kills, two processes at once, and bills that outlive their files."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prunebench.benchmark.attempts import Attempts
from prunebench.benchmark.meter import Bill
from prunebench.benchmark.store import Artefact, Store, StoreError, Workspace, created_by


class Maker:
    """A stage that counts how often it was built."""

    def __init__(self, text: str = "content") -> None:
        self.text = text
        self.built = 0

    def __call__(self, workspace: Workspace) -> dict[str, Any]:
        self.built += 1
        (workspace.folder / "part").mkdir()
        (workspace.folder / "part" / "data.txt").write_text(self.text)
        (workspace.folder / "empty").write_text("")
        return {"letters": len(self.text), "pair": (1, 2.5)}


def files(home: Path) -> list[str]:
    return sorted(
        path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file() and path.suffix != ".lock"
    )


def test_built_once_then_found(tmp_path: Path) -> None:
    make = Maker()
    first = Store(tmp_path).get_or_build("fit", 1, {"a": 1}, make, phase="pruning")
    again = Store(tmp_path).get_or_build("fit", 1, {"a": 1}, make, phase="pruning")
    assert make.built == 1
    assert (first.hit, again.hit) == (False, True)
    assert again == first
    assert again.info == {"letters": 7, "pair": [1, 2.5]}
    assert again.folder == tmp_path / "store" / "fit" / first.hash
    assert (again.folder / "part" / "data.txt").read_text() == "content"
    assert len(first.hash) == 20
    assert first.bill.wall_s > 0
    assert first.bill.peak_rss_mb > 0
    assert first.killed == Bill.zero()
    card = json.loads((first.folder / "artefact.json").read_text())
    assert card["key"] == {"a": 1}
    assert card["created_by"] == created_by()
    assert not list((tmp_path / "scratch").rglob("*.*"))


@pytest.mark.parametrize(
    ("stage", "version", "key"),
    [("fit", 1, {"a": 2}), ("fit", 2, {"a": 1}), ("fit2", 1, {"a": 1}), ("fit", 1, {"a": "1"}), ("fit", 1, {"a": 1.0})],
)
def test_everything_that_decides_the_content_is_in_the_hash(
    tmp_path: Path, stage: str, version: int, key: dict[str, Any]
) -> None:
    store, make = Store(tmp_path), Maker()
    first = store.get_or_build("fit", 1, {"a": 1}, make)
    other = store.get_or_build(stage, version, key, make)
    assert make.built == 2
    assert first.hash != other.hash


def test_upstream_artefacts_are_in_the_hash_and_key_order_is_not(tmp_path: Path) -> None:
    store = Store(tmp_path)
    one, two = (store.get_or_build("base", 1, {"n": n}, Maker()) for n in (1, 2))
    hashes = {store.address("top", 1, {}, upstream) for upstream in ([], [one], [two], [one, two], [two, one])}
    assert len(hashes) == 5
    assert store.address("top", 1, {"a": 1, "b": [1]}) == store.address("top", 1, {"b": (1,), "a": 1})


def test_the_hash_is_the_one_of_last_year(tmp_path: Path) -> None:
    # A change here throws away everyone's stores: on purpose only.
    assert Store(tmp_path).address("fit", 3, {"b": 0.1, "a": ["x", None]}) == "aecb5c68aaf5c5978b30"


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


DAMAGES: dict[str, Callable[[Path], None]] = {
    "flipped byte": lambda folder: flip(folder / "part" / "data.txt"),
    "shorter file": lambda folder: cut(folder / "part" / "data.txt"),
    "missing file": lambda folder: (folder / "empty").unlink(),
    "truncated artefact.json": lambda folder: cut(folder / "artefact.json"),
    "flipped artefact.json": lambda folder: flip(folder / "artefact.json"),
    "missing artefact.json": lambda folder: (folder / "artefact.json").unlink(),
    "truncated manifest": lambda folder: cut(folder / "manifest.json"),
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
    "nothing left": lambda folder: [shutil.rmtree(folder), folder.mkdir()],  # type: ignore[func-returns-value]
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_noticed_and_rebuilt(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    make = Maker()
    first = Store(tmp_path).get_or_build("fit", 1, {}, make)
    DAMAGES[damage](first.folder)
    with caplog.at_level(logging.WARNING):
        again = Store(tmp_path).get_or_build("fit", 1, {}, make)
    assert make.built == 2
    assert not again.hit
    assert (again.folder / "part" / "data.txt").read_text() == "content"
    assert [f"fit/{first.hash} is damaged" in message for message in caplog.messages] == [True]
    assert Store(tmp_path).get_or_build("fit", 1, {}, make).hit


def test_a_missing_file_is_noticed_by_the_process_that_built_it(tmp_path: Path) -> None:
    store, make = Store(tmp_path), Maker()
    (store.get_or_build("fit", 1, {}, make).folder / "empty").unlink()
    assert not store.get_or_build("fit", 1, {}, make).hit


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["manifest.json", "artefact.json"]),
    where=st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 7),
)
def test_no_flipped_bit_of_the_bookkeeping_is_believed(tmp_path: Path, name: str, where: float, bit: int) -> None:
    shutil.rmtree(tmp_path / "home", ignore_errors=True)
    make = Maker()
    first = Store(tmp_path / "home").get_or_build("fit", 1, {"k": 1}, make, phase="pruning")
    content = bytearray((first.folder / name).read_bytes())
    content[int(where * len(content))] ^= 1 << bit
    (first.folder / name).write_bytes(content)
    again = Store(tmp_path / "home").get_or_build("fit", 1, {"k": 1}, make, phase="pruning")
    assert again == first if again.hit else make.built == 2


def test_an_exception_leaves_nothing_visible_and_keeps_the_scratch_folder(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def fail(workspace: Workspace) -> None:
        (workspace.folder / "half.txt").write_text("half")
        (workspace.scratch / "checkpoint").write_text("step 7")
        workspace.keep()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.get_or_build("fit", 1, {}, fail)
    assert not (tmp_path / "store").exists()
    assert [Path(name).name for name in files(tmp_path)] == ["attempts.jsonl", "checkpoint"]

    def resume(workspace: Workspace) -> dict[str, str]:
        assert not list(workspace.folder.iterdir())
        return {"from": (workspace.scratch / "checkpoint").read_text()}

    artefact = store.get_or_build("fit", 1, {}, resume)
    assert artefact.info == {"from": "step 7"}
    assert artefact.killed.wall_s > 0
    assert [Path(name).name for name in files(tmp_path)] == ["artefact.json", "manifest.json"]


KILLED = """
import sys, time
from pathlib import Path
from prunebench.benchmark.store import Store

def make(workspace):
    (workspace.folder / "half").write_text("x")
    time.sleep(0.5)
    (workspace.scratch / "checkpoint").write_text("half way")
    workspace.keep()
    print("kept", flush=True)
    time.sleep(60)

Store(Path(sys.argv[1]), heartbeat_s=0.05).get_or_build("fit", 1, {}, make, phase="pruning")
"""


def test_a_killed_build_is_continued_and_its_bill_split(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "kept\n"
        time.sleep(0.4)
        process.send_signal(signal.SIGKILL)
    diary = next(tmp_path.rglob("attempts.jsonl"))
    diary.write_text(diary.read_text() + '{"event": "beat", "ti')  # cut off within a line
    entries = [json.loads(line) for line in diary.read_text().splitlines()[:-1]]
    kept = next(Bill.from_json(entry["bill"]) for entry in entries if entry["event"] == "keep")
    last = Bill.from_json(entries[-1]["bill"])
    assert kept.wall_s >= 0.5
    assert last.wall_s >= kept.wall_s + 0.3
    assert not (tmp_path / "store").exists()

    def resume(workspace: Workspace) -> None:
        assert (workspace.scratch / "checkpoint").read_text() == "half way"
        assert not list(workspace.folder.iterdir())
        time.sleep(0.1)

    artefact = Store(tmp_path).get_or_build("fit", 1, {}, resume, phase="pruning")
    assert artefact.killed.wall_s == pytest.approx(last.wall_s - kept.wall_s)
    assert artefact.bill.wall_s >= kept.wall_s + 0.1
    assert artefact.bill.peak_rss_mb >= kept.peak_rss_mb
    assert artefact == Store(tmp_path).get_or_build("fit", 1, {}, resume)
    assert not list(tmp_path.rglob("checkpoint"))


def test_several_attempts_add_up_as_a_diary_says(tmp_path: Path) -> None:
    attempts = Attempts(tmp_path, 1.0)
    for event, wall in [
        ("start", 0),
        ("keep", 5),
        ("beat", 7),
        ("start", 0),
        ("beat", 3),
        ("start", 0),
        ("keep", 2),
        ("end", 2),
    ]:
        attempts.write(event, Bill(wall_s=wall, cpu_s=2 * wall))  # type: ignore[arg-type]
    kept, killed = attempts.resume()
    assert (kept.wall_s, kept.cpu_s) == (7, 14)
    assert (killed.wall_s, killed.cpu_s) == (5, 10)


def test_what_a_finished_build_left_in_scratch_is_cleared_not_billed(tmp_path: Path) -> None:
    store, make = Store(tmp_path), Maker()
    first = store.get_or_build("fit", 1, {}, make)
    left = tmp_path / "scratch" / "fit" / first.hash  # killed between the rename and the cleaning
    left.mkdir()
    (left / "attempts.jsonl").write_text("")
    assert store.get_or_build("fit", 1, {}, make).hit
    assert not left.exists()


RIVAL = """
import os, sys, time
from pathlib import Path
from prunebench.benchmark.store import Store

home = Path(sys.argv[1])

def make(workspace):
    with (home / "builds").open("a") as log:
        log.write("built\\n")
    time.sleep(0.5)
    (workspace.folder / "data").write_text("x")

(home / f"ready-{os.getpid()}").touch()
while len(list(home.glob("ready-*"))) < 2:
    time.sleep(0.01)
artefact = Store(home).get_or_build("fit", 1, {}, make)
print(artefact.hit, artefact.bill.wall_s)
"""


def test_two_processes_build_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RIVAL, str(tmp_path)]
    rivals = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = sorted(rival.communicate(timeout=60)[0].split() for rival in rivals)
    assert [rival.returncode for rival in rivals] == [0, 0]
    assert (tmp_path / "builds").read_text() == "built\n"
    assert [hit for hit, _ in outputs] == ["False", "True"]
    assert outputs[0][1] == outputs[1][1]


def chain(store: Store) -> list[Artefact]:
    """base → left, right → top."""
    make = Maker()
    base = store.get_or_build("base", 1, {}, make, phase="pretraining")
    left = store.get_or_build("left", 1, {}, make, [base], phase="pruning")
    right = store.get_or_build("right", 1, {}, make, [base], phase="pruning")
    return [base, left, right, store.get_or_build("top", 1, {}, make, [left, right], phase="fine-tuning")]


def test_lineage_holds_every_ancestor_once_inputs_first(tmp_path: Path) -> None:
    parts = chain(Store(tmp_path))
    top = Store(tmp_path).get_or_build("top", 1, {}, Maker(), parts[1:3], phase="fine-tuning")
    lineage = Store(tmp_path).lineage([top, parts[2]])
    assert [part.stage for part in lineage] == ["base", "left", "right", "top"]
    assert [part.bill for part in lineage] == [part.bill for part in parts]
    assert [part.phase for part in lineage] == ["pretraining", "pruning", "pruning", "fine-tuning"]
    assert [part.folder for part in lineage] == [part.folder for part in parts]
    assert top.upstream == (parts[1].hash, parts[2].hash)


def test_bills_do_not_depend_on_what_is_still_on_disk(tmp_path: Path) -> None:
    parts = chain(Store(tmp_path))
    bills = [part.bill for part in parts]
    for part in parts[:3]:
        shutil.rmtree(part.folder)
    again = chain(Store(tmp_path))
    assert [part.hit for part in again] == [False, False, False, True]
    assert [part.bill for part in Store(tmp_path).lineage(again[3:])] == bills
    assert [part.bill for part in Store(tmp_path).lineage(again)] == bills


def test_an_artefact_made_inside_another_is_billed_to_itself_and_is_its_ancestor(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def inner(workspace: Workspace) -> None:
        time.sleep(0.4)

    def outer(workspace: Workspace) -> None:
        started = time.perf_counter()
        artefact = store.get_or_build("inner", 1, {}, inner)
        took.append(time.perf_counter() - started - artefact.bill.wall_s)

    took: list[float] = []
    begin = time.perf_counter()
    artefact = store.get_or_build("outer", 1, {}, outer)
    whole = time.perf_counter() - begin
    assert [part.stage for part in artefact.ancestors] == ["inner"]
    assert artefact.upstream == ()
    assert artefact.ancestors[0].bill.wall_s >= 0.4
    assert artefact.bill.wall_s + 0.4 <= whole
    assert Store(tmp_path).get_or_build("outer", 1, {}, outer) == artefact


def test_a_stage_that_needs_itself_is_refused_not_waited_for(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def make(workspace: Workspace) -> None:
        store.get_or_build("fit", 1, {}, make)

    with pytest.raises(StoreError, match="needs itself"):
        store.get_or_build("fit", 1, {}, make)


def test_bad_keys_names_and_facts_are_one_line(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for stage, key in [("fit", {"x": float("nan")}), ("fit", {"x": object()}), ("../fit", {}), ("Fit", {})]:
        with pytest.raises(StoreError) as error:
            store.get_or_build(stage, 1, key, Maker())
        assert "\n" not in str(error.value)
    with pytest.raises(StoreError, match="info of stage fit is not JSON"):
        store.get_or_build("fit", 1, {}, lambda workspace: {"x": {1, 2}})
    with pytest.raises(StoreError, match=r"wrote artefact\.json"):
        store.get_or_build("fit", 1, {}, lambda workspace: (workspace.folder / "artefact.json").touch())
    assert not (tmp_path / "store").exists()


def test_a_store_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="PRUNEBENCH_HOME") as error:
        Store(tmp_path / "file" / "home").get_or_build("fit", 1, {}, Maker())
    assert "\n" not in str(error.value)


def test_a_full_disk_is_told_apart_from_a_mistake_of_the_stage(tmp_path: Path) -> None:
    def full(workspace: Workspace) -> None:
        raise OSError(28, os.strerror(28), str(workspace.folder / "weights"))

    def mistake(workspace: Workspace) -> None:
        (workspace.folder / "absent").read_text()

    with pytest.raises(StoreError, match=r"weights.*free some space"):
        Store(tmp_path).get_or_build("fit", 1, {}, full)
    with pytest.raises(FileNotFoundError):
        Store(tmp_path).get_or_build("fit", 1, {}, mistake)


def test_equality_ignores_who_built_it(tmp_path: Path) -> None:
    artefact = Store(tmp_path).get_or_build("fit", 1, {}, Maker())
    assert artefact == replace(artefact, hit=True)
    assert artefact != replace(artefact, phase="other")
