"""`bench leaderboard submit` and `validate`: whole runs pass from home to board unchanged, and nothing else does."""

from __future__ import annotations

import json
import shutil
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from board_world import run, write_runs
from counted import COUNTED, install_counted
from tampered import RECORDS, TAMPERED, Run

from prunebench.benchmark import cli, truths
from prunebench.datasets.library import Library
from prunebench.datasets.schema import RecDataset, Sequences
from prunebench.leaderboard.archive import MANIFEST, PER_USER, RECORD, Files, manifest
from prunebench.leaderboard.record import Record, load_record
from prunebench.leaderboard.score_summary import summarise
from prunebench.leaderboard.truth import Truth

Bench = Callable[..., tuple[int, str, str]]


def _published(**facts: object) -> list[Path]:
    """Folders of published runs whose records have these facts, by name."""
    records = {path.parent: load_record(path) for path in sorted(RECORDS.glob(f"*/{RECORD}"))}
    return [
        folder
        for folder, record in records.items()
        if all({**dict(record), "data": record.dataset.name}[name] == value for name, value in facts.items())
    ]


MINI = _published(method="ccs", backbone="bigrec", data="mini")
GAMES = _published(data="games")


def put(folder: Path, files: Files) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Bench:
    """Calls the command in this process: ``(exit code, stdout, stderr)``, in a folder and home of its own."""
    monkeypatch.setenv("PRUNEBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["bench", "leaderboard", *map(str, words)])
        capfd.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capfd.readouterr()
        return code, out, err

    return call


@pytest.mark.parametrize("name", TAMPERED)
def test_a_run_that_was_tampered_with_is_refused_by_name(bench: Bench, tmp_path: Path, name: str) -> None:
    tamper, words = TAMPERED[name]
    taken = Run(MINI[0])
    folder = put(tmp_path / "given" / taken.name, taken.changed(tamper))
    code, out, err = bench("validate", folder, "--add", "board")
    assert (code, out) == (2, ""), err
    said = err.splitlines()
    reasons = said if len(said) == 1 else said[:-1]
    assert any(words in line for line in reasons), err
    assert all(line.startswith(f"bench: {folder}, run '{taken.name}': ") for line in reasons), err
    assert all(line.isprintable() and len(line) < 500 for line in said)
    assert said[-1].endswith("; nothing was added")
    assert not (tmp_path / "board").exists()


def test_putting_a_run_together_again_breaks_nothing(bench: Bench, tmp_path: Path) -> None:
    taken = Run(MINI[0])
    folder = put(tmp_path / "given" / taken.name, taken.changed(lambda run: None))
    code, out, err = bench("validate", folder)
    assert (code, err) == (0, "")
    assert out == "1 run holds\n  1 on mini: users, targets and samples are those of data set mini\n"


def test_every_published_run_holds(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(RECORDS.parents[2])
    code, out, err = bench("validate", "--json")
    assert code == 0, err
    runs = json.loads(out)["runs"]
    assert len(runs) == len(list(RECORDS.iterdir()))
    assert all(one["holds"] and one["against"] for one in runs)
    assert {one["by_data"] for one in runs} == {True, False}, "mini is made here, games is not installed"


def test_submitted_runs_arrive_as_they_were(bench: Bench, tmp_path: Path) -> None:
    chosen = [MINI[0], GAMES[0], MINI[1]]
    words = ("submit", *(folder.name[:7] for folder in chosen), "--records", RECORDS)
    code, out, err = bench(*words, "--out", "out/two.zip")
    assert (code, err) == (0, "")
    assert all(folder.name in out for folder in chosen)
    assert "No titles, interactions" in out
    first = (tmp_path / "out" / "two.zip").read_bytes()
    assert bench(*words, "--out", "out/two.zip")[0] == 0, "the same again is no other file"
    code, out, err = bench(
        "submit", *(folder.name for folder in chosen[::-1]), "--records", RECORDS, "--out", "dir", "--json"
    )
    assert Path(json.loads(out)["out"]).read_bytes() == first, "the order they are named in does not matter"
    with zipfile.ZipFile(tmp_path / "out" / "two.zip") as archive:
        assert archive.namelist()[0] == "README.txt"
        note = archive.read("README.txt").decode()
    assert all(line in note for line in ("no titles", *(folder.name for folder in chosen)))

    code, out, err = bench("validate", "out/two.zip", "--add", "board")
    assert (code, err) == (0, "")
    assert out.endswith("Added 3 to board\n")
    for folder in chosen:
        there = {path.name: path.read_bytes() for path in (tmp_path / "board" / folder.name).iterdir()}
        assert there == {path.name: path.read_bytes() for path in folder.iterdir()}
    code, out, err = bench("validate", "out/two.zip", "--add", "board")
    assert (code, out.splitlines()[-1]) == (0, "Added 0 to board, 3 were there")
    rows = json.loads(bench("show", "--records", "board", "--json")[1])["rows"]
    assert sorted(run for row in rows for run in row["runs"]) == sorted(folder.name for folder in chosen)


def test_nothing_on_a_board_is_replaced(bench: Bench, tmp_path: Path) -> None:
    shutil.copytree(MINI[0], tmp_path / "board" / MINI[0].name)
    taken = Run(MINI[0])
    files = taken.changed(lambda run: run.values.update(command="bench run --method ccs"))
    given = put(tmp_path / "given" / taken.name, files)
    code, out, err = bench("validate", given, MINI[1], "--add", "board")
    assert (code, out) == (2, "")
    assert "board has another record of this run; nothing there is replaced" in err
    assert [path.name for path in (tmp_path / "board").iterdir()] == [MINI[0].name], "neither is the other one added"
    assert (tmp_path / "board" / taken.name / RECORD).read_bytes() == (MINI[0] / RECORD).read_bytes()

    def renamed(run: Run) -> None:
        """The same configuration and seeds, recorded anew by a later version."""
        run.values["run"] = "00c0ffee0000"
        del run.values["config"]["surrogate"]

    twin = Run(MINI[0])
    twin_files = twin.changed(renamed)
    shutil.rmtree(tmp_path / "board")
    original = Run(MINI[0])
    put(
        tmp_path / "board" / "00c0ffee0001",
        original.changed(lambda run: (renamed(run), run.values.update(run="00c0ffee0001"))[0]),
    )
    code, out, err = bench("validate", put(tmp_path / "twin" / "00c0ffee0000", twin_files), "--add", "board")
    assert code == 2
    assert "board has run 00c0ffee0001 with this configuration and these seeds" in err


def test_runs_on_data_that_is_not_here_must_have_the_users_of_the_others(bench: Bench, tmp_path: Path) -> None:
    def shifted(run: Run) -> None:
        run.arrays["users"] = run.arrays["users"] - 1

    taken = Run(GAMES[0])
    alone = put(tmp_path / "given" / taken.name, taken.changed(shifted))
    code, out, err = bench("validate", alone)
    assert (code, err) == (0, "")
    assert "not installed here, and no other run on it" in out
    code, _, err = bench("validate", alone, *GAMES[1:4])
    assert code == 2
    assert "does not cover the 8696 test users of most of the runs given" in err
    assert err.count("does not cover") == 1, "the three that agree are right"
    shutil.copytree(GAMES[1], tmp_path / "board" / GAMES[1].name)
    code, _, err = bench("validate", alone, "--add", "board")
    assert code == 2
    assert "does not cover the 8696 test users of the runs in board" in err


def test_a_named_data_set_is_what_runs_are_held_to(bench: Bench, tmp_path: Path) -> None:
    rows = Sequences.from_rows([[0, 1], [1, 0]])
    Library(tmp_path / "home").install(RecDataset("shop", ("a", "b"), rows, rows, rows))
    code, _, err = bench("validate", MINI[0], "--dataset-from", "shop")
    assert code == 2
    assert "data set 'mini' has fingerprint" in err
    code, _, err = bench("validate", MINI[0], "--dataset-from", "shpo")
    assert (code, err.count("\n")) == (2, 1)
    assert "did you mean shop" in err
    assert bench("validate", MINI[0], "--dataset-from", "mini")[0] == 0


def test_nothing_of_the_machine_leaves_but_what_the_record_declares(bench: Bench, tmp_path: Path) -> None:
    def named(run: Run) -> None:
        run.values["command"] = (
            "bench run --plugin /home/zaphod/secret/new.py --config=../zaphod/x.toml --set backbone.start_adapter=/mnt/zaphod/a "
            "--llm meta/llama --out 'C:\\Users\\zaphod\\o' ~zaphod/y"
        )

    taken = Run(MINI[0])
    put(tmp_path / "home" / "runs" / taken.name, taken.changed(named))
    code, _, err = bench("submit", taken.name[:4], "--out", "out.zip")
    assert (code, err) == (0, "")
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        text = archive.read(f"{taken.name}/{RECORD}").decode()
        assert not any(b"zaphod" in archive.read(name) for name in archive.namelist())
    assert Record.model_validate_json(text).command == (
        "bench run --plugin new.py --config=x.toml --set backbone.start_adapter=a --llm meta/llama --out o y"
    )
    assert bench("validate", "out.zip")[0] == 0


@pytest.mark.parametrize("with_paths", [False, True])
def test_a_folder_in_the_configuration_leaves_only_when_asked(bench: Bench, tmp_path: Path, with_paths: bool) -> None:
    def named(run: Run) -> None:
        run.values["llm"] = run.values["config"]["backbone"]["llm"] = "/home/ada/llama"
        del run.values["config"]["surrogate"]  # as its hash, the run's name, holds the path, too

    taken = Run(MINI[0])
    put(tmp_path / "home" / "runs" / taken.name, taken.changed(named))
    code, _, err = bench("submit", taken.name, "--out", "out.zip", *(["--with-paths"] if with_paths else []))
    assert code == (0 if with_paths else 2)
    assert (tmp_path / "out.zip").exists() == with_paths
    if not with_paths:
        assert err.count("\n") == 1
        assert "names a path of this machine in llm: '/home/ada/llama' (and 1 more)" in err


def test_only_whole_runs_on_test_are_submitted(bench: Bench, tmp_path: Path) -> None:
    write_runs(tmp_path / "home" / "runs", [made := run("good", 0.6)])
    code, _, err = bench("submit", made.record.run, "--out", "out.zip")
    assert (code, err.count("\n")) == (2, 1)
    assert "cannot be submitted: " in err
    taken = Run(MINI[0])
    folder = put(tmp_path / "home" / "runs" / taken.name, taken.changed(lambda run: None))
    assert bench("submit", taken.name, "--out", "out.zip")[0] == 0
    with (folder / PER_USER).open("ab") as file:
        file.write(b"x")
    (tmp_path / "out.zip").unlink()
    code, _, err = bench("submit", taken.name, "--out", "out.zip")
    assert code == 2
    assert "per_user.npz does not match its checksum" in err
    code, _, err = bench("submit", "no-such", "--out", "out.zip")
    assert code == 2
    assert "no run is called 'no-such'" in err
    assert not (tmp_path / "out.zip").exists()


def test_a_run_just_made_holds_with_a_plugin_and_without_its_data(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_counted(tmp_path)
    for method in ("random", "newest"):
        monkeypatch.setattr(sys, "argv", ["bench", "run", *COUNTED[:-1], method, "--budget", "20"])
        cli.main()
    names = sorted(path.name for path in (tmp_path / "home" / "runs").iterdir())
    assert len(names) == 2
    code, _, err = bench("submit", *names, "--out", "mine.zip")
    assert (code, err) == (0, "")
    code, out, err = bench("validate", "mine.zip")
    assert (code, err) == (0, "")
    assert "2 on tiny: users, targets and samples are those of data set tiny" in out
    assert "2 with a backbone from a plugin file" in out
    shutil.move(tmp_path / "home", tmp_path / "elsewhere")
    code, out, err = bench("validate", "mine.zip")
    assert (code, err) == (0, "")
    assert "2 on tiny: not installed here: users are those of most of the runs given" in out


def test_a_user_without_a_sample_cannot_have_been_chosen(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    taken, truth_of = Run(MINI[0]), truths.truth_of
    lacking = np.array(taken.ids[5:7])

    def without(data: RecDataset) -> Truth:
        found = truth_of(data)
        assert found.samples is not None
        return replace(found, samples=np.setdiff1d(found.samples, lacking))

    monkeypatch.setattr(truths, "truth_of", without)
    code, _, err = bench("validate", MINI[0])
    assert code == 2
    assert f"user {min(lacking)} has no sample in data set mini (and 1 more)" in err


def test_scores_must_be_of_these_samples(bench: Bench, tmp_path: Path) -> None:
    """Every sample once, and as many kept as the budget, but for those without a score."""
    taken = Run(MINI[0])
    chosen, every = np.array(taken.ids), np.arange(3000)
    others, unscored = np.setdiff1d(every, chosen), np.where(every == chosen[0], np.nan, every)
    for number, (scores, ids, said) in enumerate(
        (
            (every * 1.0, chosen, ""),
            (unscored, chosen, ""),
            (every[:-1] * 1.0, chosen, "of 2999 samples, which are not the run's"),
            (every * 1.0, chosen[1:], "counts 255 kept of 3000 samples"),
            (every * 1.0, np.append(chosen, others[0]), "counts 257 kept of 3000 samples"),
        )
    ):
        summary = summarise("el2n", scores, np.isin(every, ids)[: len(scores)])
        assert summary is not None
        files = taken.files | {"scores.json": summary.model_dump_json().encode()}
        folder = put(tmp_path / str(number) / taken.name, files | {MANIFEST: manifest(files)})
        code, _, err = bench("validate", folder)
        assert code == (2 if said else 0), err
        assert said in err


@pytest.mark.parametrize(
    ("otherwise", "said"),
    [
        ({"name": "half a \ud800 character"}, "the score's name has control characters"),
        ({"name": "el2n\n# Heading"}, "the score's name has control characters"),
        ({"name": "e" * 201}, "or more than 200"),
        ({"strata": [0.0] * 2001}, "more than 2,000 bins or strata"),
        ({"edges": [*range(2002)], "samples": [3000] + [0] * 2000, "kept": [0] * 2001}, "more than 2,000 bins"),
    ],
)
def test_scores_that_no_board_could_show_are_refused(
    bench: Bench, tmp_path: Path, otherwise: dict[str, Any], said: str
) -> None:
    taken = Run(MINI[0])
    sound = {"name": "el2n", "edges": [0, 1], "samples": [3000], "kept": [0]}
    files = taken.files | {"scores.json": json.dumps(sound | otherwise).encode()}
    folder = put(tmp_path / taken.name, files | {MANIFEST: manifest(files)})
    code, out, err = bench("validate", folder)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err


def test_a_run_is_named_by_its_folder_wherever_one_stands(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = Run(MINI[0])
    folder = put(tmp_path / taken.name, taken.files)
    monkeypatch.chdir(folder)
    assert bench("validate", Path())[0] == 0
    code, _, err = bench("validate", folder, "--add", folder)
    assert code == 2
    assert "is a run, not a folder of records" in err


def test_another_file_is_replaced_only_when_asked(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "out.zip").write_bytes(b"mine")
    words = ("submit", MINI[0].name, "--records", RECORDS, "--out", "out.zip")
    code, _, err = bench(*words)
    assert code == 2
    assert "out.zip exists already" in err
    assert (tmp_path / "out.zip").read_bytes() == b"mine"
    assert bench(*words, "--overwrite")[0] == 0
    assert bench("validate", "out.zip")[0] == 0


def test_all_reasons_of_all_runs_are_told(bench: Bench, tmp_path: Path) -> None:
    def two(run: Run) -> None:
        run.values["share"] = 0.5
        run.values["finished"] = "late"

    files = Run(MINI[0]).changed(two)
    one = put(tmp_path / "given" / MINI[0].name, files)
    other = put(tmp_path / "given" / MINI[1].name, {MANIFEST: manifest({})})
    code, out, err = bench("validate", tmp_path / "given", MINI[2], "--json")
    assert code == 2
    said = {run["run"]: run["faults"] for run in json.loads(out)["runs"]}
    assert [len(said[folder.name]) for folder in (one, other, MINI[2])] == [2, 2, 0], said
    assert err.splitlines()[-1] == "bench: 2 of 3 submissions do not hold, as said above"


def test_random_damage_to_any_file_is_seen(bench: Bench, tmp_path: Path, rng: np.random.Generator) -> None:
    taken = Run(MINI[0])
    for number in range(12):
        files = dict(taken.files)
        name = sorted(files)[number % len(files)]
        content = bytearray(files[name])
        at = int(rng.integers(len(content)))
        content[at] ^= int(rng.integers(1, 128))
        files[name] = bytes(content)
        try:  # a manifest may say the same in other words: spaces, for instance
            unharmed = json.loads(files[MANIFEST])["files"] == json.loads(taken.files[MANIFEST])["files"]
        except (ValueError, KeyError, TypeError):
            unharmed = False
        code, _, err = bench("validate", put(tmp_path / str(number) / taken.name, files))
        assert code == (0 if name == MANIFEST and unharmed else 2), (name, at, err)
