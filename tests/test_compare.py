"""`bench compare`: what differs between two runs, against slow and plain counts of the same."""

from __future__ import annotations

import itertools
import json
import math
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from board_world import USERS, run, runs, write_runs
from scipy import stats

from prunebench.benchmark import cli
from prunebench.benchmark.boards import run_in
from prunebench.leaderboard.board import Run
from prunebench.leaderboard.compared import Compared, compare_runs, over_users
from prunebench.leaderboard.per_user import PerUser
from prunebench.leaderboard.record import DatasetFacts, Environment, StageBill, load_record, total
from prunebench.leaderboard.score_summary import summarise

RECORDS = Path(__file__).resolve().parents[1] / "leaderboard" / "published" / "records"
Bench = Callable[..., tuple[int, str, str]]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Bench:
    monkeypatch.setenv("PRUNEBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["bench", "compare", *map(str, words)])
        capfd.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capfd.readouterr()
        return code, out, err

    return call


def published(method: str, seed: int) -> Run:
    """The published run on mini with bigrec and 256 samples, no setting changed."""
    asked = method, seed, "bigrec", "mini", 256, {}
    for path in sorted(RECORDS.glob("*/record.json")):
        one = load_record(path)
        if asked == (one.method, one.seeds.selection, one.backbone, one.dataset.name, one.budget, one.changes):
            return run_in(path, one)
    raise AssertionError(f"no such run is published: {asked}")


def seeded(method: str, *seeds: int) -> list[Run]:
    first = published(method, seeds[0])
    return [
        first,
        *(one for seed in seeds[1:] if (one := published(method, seed)).record.digest == first.record.digest),
    ]


# --- metrics --------------------------------------------------------------------------------------------------------------


def test_the_interval_over_users_is_the_paired_t() -> None:
    rng = np.random.default_rng(0)
    differences = rng.normal(0.02, 0.3, 57)
    error, interval = over_users(differences)
    expected = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    assert interval == pytest.approx((expected.low, expected.high), rel=1e-12)
    assert error == pytest.approx(stats.sem(differences), rel=1e-12)
    assert over_users(np.zeros(9)) == (0.0, (0.0, 0.0))
    assert over_users(np.full(9, 0.1)) == (0.0, pytest.approx((0.1, 0.1)))
    assert over_users(np.ones(1)) == (None, None)


def test_the_interval_over_users_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    hits = rng.random((400, 300)) < 0.3
    covered = 0
    for row in hits:
        _, interval = over_users(row.astype(float) - 0.3)
        assert interval is not None
        covered += interval[0] <= 0 <= interval[1]
    assert 0.92 <= covered / 400 <= 0.98


def test_users_are_paired_by_id_whatever_their_order() -> None:
    a, b = published("random", 0), published("dealrec", 0)
    order = np.random.default_rng(0).permutation(len(b.per_user.users))
    values = {protocol: {name: one[order] for name, one in own.items()} for protocol, own in b.per_user.values.items()}
    shuffled = replace(b, per_user=PerUser(b.per_user.users[order], values))
    assert compare_runs(a, shuffled) == compare_runs(a, b)
    found = {(one.protocol, one.metric): one for one in compare_runs(a, b).metrics}
    theirs = dict(zip(b.per_user.users.tolist(), b.per_user.values["masked"]["N@20"].tolist(), strict=True))
    ours = zip(a.per_user.users.tolist(), a.per_user.values["masked"]["N@20"].tolist(), strict=True)
    differences = [theirs[user] - value for user, value in ours]
    assert found["masked", "N@20"].difference == pytest.approx(math.fsum(differences) / len(differences), abs=1e-12)
    low, high = found["masked", "N@20"].interval or (0, 0)
    assert (low + high) / 2 == pytest.approx(found["masked", "N@20"].difference, abs=1e-12)
    assert low < high
    assert len(found) == 16


def test_seeds_of_both_configurations_are_compared_as_pairs() -> None:
    ours, theirs = seeded("random", 0, 1, 2), seeded("k_center", 0, 1, 2)
    assert (len(ours), len(theirs)) == (3, 3)
    found = compare_runs(ours[0], theirs[0], [*theirs[1:], *ours[1:], *ours[1:], published("moderate", 1)])
    for one in found.metrics:
        differences = [
            b.per_user.values[one.protocol][one.metric].mean() - a.per_user.values[one.protocol][one.metric].mean()
            for a, b in zip(ours, theirs, strict=True)
        ]
        over = one.over_seeds
        assert over is not None
        assert (over.seeds, over.by) == (3, "t")
        assert over.difference == pytest.approx(np.mean(differences), abs=1e-12)
        if np.ptp(differences) > 1e-9:
            expected = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
            assert over.interval == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_one_seed_or_one_configuration_says_nothing_over_seeds() -> None:
    ours, theirs = seeded("random", 0, 1, 2), seeded("k_center", 0, 1)
    for others in ([], ours[1:], [theirs[1]]):
        assert all(one.over_seeds is None for one in compare_runs(ours[0], theirs[0], others).metrics)
    same = compare_runs(ours[0], ours[1], ours[2:])
    assert all(one.over_seeds is None for one in same.metrics)
    assert {change.kind for change in same.changes} <= {"seed", "version"}


# --- selections and scores ------------------------------------------------------------------------------------------------


def kept(ids: list[int], samples: int = 8, **facts: Any) -> Run:
    made = run("good", 0.5, dataset=DatasetFacts(name="a", fingerprint="1", counts={"samples": samples}), **facts)
    return Run(made.record, made.sha256, made.per_user, np.array(ids, np.int64))


def test_overlap_and_what_chance_gives() -> None:
    shared = compare_runs(kept([0, 1, 2, 3]), kept([3, 2, 7])).selection
    assert shared is not None
    assert (shared.a, shared.b, shared.common, shared.share) == (4, 3, 2, 2 / 3)
    assert shared.jaccard == 2 / 5
    every = [len({0, 1, 2, 3} & set(other)) for other in itertools.combinations(range(8), 3)]
    assert shared.by_chance == pytest.approx(np.mean(every))
    assert shared.by_chance_sd == pytest.approx(np.std(every))


def test_where_the_kept_lie_among_all() -> None:
    scores = np.arange(600, dtype=float)
    top, none = np.zeros((2, 600), bool)
    top[-10:] = True
    made = [
        Run(one.record, one.sha256, one.per_user, one.selection, summarise("influence", scores, chosen))
        for one, chosen in ((kept([1]), top), (kept([2]), none))
    ]
    shared = compare_runs(*made).selection
    assert shared is not None
    assert shared.scores[0] is not None
    assert (shared.scores[0].score, shared.scores[0].place) == ("influence", pytest.approx(595 / 600))
    assert shared.scores[1] is None


def test_runs_without_samples_have_none_to_compare() -> None:
    found = compare_runs(kept([1, 2]), kept([], budget=0))
    assert found.selection is None
    assert found.cannot == ["B kept no samples: there are no selections to compare"]
    assert found.metrics


# --- what differs ---------------------------------------------------------------------------------------------------------


def test_every_kind_of_difference_is_named() -> None:
    first = run("good", 0.5, config={"method": {"lam": 0.3, "same": 1}, "backbone": {"lora": {"r": 8}}})
    second = run(
        "better",
        0.6,
        seed=1,
        config={"method": {"lam": 1.0, "same": 1}, "backbone": {"lora": {"r": 4}}, "plugins": {"method": "ab" * 32}},
        environment=Environment(python="3.12", platform="darwin", packages={"torch": "2"}, git_commit="c0ffee"),
    )
    found = {(one.kind, one.key): (one.a, one.b) for one in compare_runs(first, second).changes}
    assert found == {
        ("run", "method"): ("good", "better"),
        ("setting", "backbone.lora.r"): (8, 4),
        ("setting", "method.lam"): (0.3, 1.0),
        **{("seed", f"seeds.{name}"): (0, 1) for name in ("signal", "selection", "finetune")},
        ("plugin", "plugins.method"): (None, "ab" * 32),
        ("version", "python"): ("3.11", "3.12"),
        ("version", "torch"): (None, "2"),
        ("version", "commit"): (None, "c0ffee"),
        ("environment", "platform"): ("linux", "darwin"),
    }
    assert compare_runs(first, first).changes == []


def test_other_data_and_other_users_are_said_and_the_rest_is_shown() -> None:
    first = kept([1, 2])
    other_data = run("good", 0.5, dataset=DatasetFacts(name="b", fingerprint="2"))
    found = compare_runs(first, other_data)
    assert found.cannot == ["A is on a (1) and B on b (2): neither selections nor metrics can be compared"]
    assert (found.selection, found.metrics) == (None, [])
    assert found.bills.stages
    other_users = run("good", 0.5, users=np.arange(1, USERS + 1), dataset=first.record.dataset)
    found = compare_runs(first, Run(other_users.record, "", other_users.per_user, np.array([1])))
    assert found.cannot == [
        "A and B were evaluated on different users, though of the same data: metrics cannot be compared"
    ]
    assert found.selection is not None
    assert found.metrics == []


# --- bills ----------------------------------------------------------------------------------------------------------------


def billed(*stages: tuple[str, str, str, float], device: str = "cpu A") -> Run:
    bill = [
        StageBill(stage=stage, hash=hash_, phase=phase, wall_s=seconds, cpu_s=1, peak_rss_mb=9, device=device)  # type: ignore[arg-type]
        for stage, hash_, phase, seconds in stages
    ]
    return run("good", 0.5, bill=bill, totals=total(bill))


def test_bills_share_what_has_one_hash() -> None:
    a = billed(
        ("surrogate", "s1", "pruning", 2.0),
        ("surrogate", "s2", "pruning", 3.0),
        ("fit", "f1", "fine-tuning", 4.0),
        ("title_vectors", "t", "inference", 1.0),
    )
    b = billed(
        ("surrogate", "s1", "pruning", 2.0),
        ("title_vectors", "t", "pruning", 1.0),
        ("fit", "f2", "fine-tuning", 6.0),
    )
    found = compare_runs(a, b).bills
    told = {(one.phase, one.stage): (one.a, one.b, one.artefacts, one.shared, one.ratio) for one in found.stages}
    assert told == {
        ("pruning", "surrogate"): (5.0, 2.0, 2, 1, None),
        ("pruning", "title_vectors"): (None, 1.0, 1, 1, None),
        ("fine-tuning", "fit"): (4.0, 6.0, 2, 0, 1.5),
        ("inference", "title_vectors"): (1.0, None, 1, 1, None),
    }
    assert [one.phase for one in found.stages] == ["pruning", "pruning", "fine-tuning", "inference"]
    assert found.totals["total_s"] == (10.0, 9.0)
    assert found.ratio == 0.9


def test_seconds_of_different_hardware_make_no_ratio() -> None:
    stage = ("fit", "f1", "fine-tuning", 4.0), ("fit", "f2", "fine-tuning", 8.0)
    found = compare_runs(billed(stage[0]), billed(stage[1], device="cpu B")).bills
    assert found.ratio is None
    assert found.stages[0].ratio is None
    assert found.hardware == (["cpu A"], ["cpu B"])
    mixed = billed(stage[0], device="cpu A | cpu B")
    assert compare_runs(mixed, mixed).bills.ratio is None


# --- the command ----------------------------------------------------------------------------------------------------------


def test_runs_by_path_and_by_name_tell_the_same(bench: Bench) -> None:
    a, b = published("random", 0).record.run, published("k_center", 1).record.run
    code, out, err = bench(RECORDS / a, RECORDS / b / "record.json", "--json")
    assert (code, err) == (0, "")
    found = Compared.model_validate_json(out)
    assert (found.a.run, found.b.run) == (a, b)
    assert {one.over_seeds.seeds for one in found.metrics if one.over_seeds} == {3}
    assert bench(a[:8], b[:8], "--records", RECORDS, "--json")[1] == out


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_every_line_fits_the_screen_and_no_figure_is_cut(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    pair = published("random", 0), published("k_center", 1)
    code, out, err = bench(*(RECORDS / one.record.run for one in pair))
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert max(map(len, lines)) <= columns
    assert lines == [line.rstrip() for line in lines]
    words = out.split()
    for head in ("What differs", "Selections", "Metrics of 400 users, B − A", "Cost"):
        assert head in lines
    for metric in compare_runs(*pair).metrics:
        assert f"{abs(metric.difference):.4f}".lstrip("0") in out
        assert metric.metric in words
    assert "shared" in words
    assert "3 seeds" in out
    assert len(re.findall(r"\.\d{4} … .\.\d{4}", out)) == 32, "no interval is broken over two lines"


def test_foreign_words_cannot_draw_on_the_screen(bench: Bench, tmp_path: Path) -> None:
    evil = "[red]\x1b[2J\u202e"
    made = [run("good", 0.6), run(evil, 0.3, config={"method": {evil: evil}})]
    write_runs(tmp_path / "home" / "runs", made)
    code, out, err = bench(*(one.record.run for one in made))
    assert (code, err) == (0, "")
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert "[red]" in out


def test_wrong_words_and_damaged_runs_get_one_line(bench: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "home" / "runs"
    made = [*runs("good", (0.6, 0.62)), *runs("random", (0.3, 0.34))]
    write_runs(folder, made)
    names = [one.record.run for one in made]
    code, _, err = bench(names[0], "nothing")
    assert (code, err.count("\n")) == (2, 1)
    assert "no run is called 'nothing'" in err
    (folder / names[3] / "per_user.npz").unlink()
    code, out, err = bench(names[0], names[2], "--json")
    assert code == 0
    assert err.startswith("bench: left out: ")
    assert all(one["over_seeds"] is None for one in json.loads(out)["metrics"])
    code, out, err = bench(names[0], names[3])
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "per_user.npz is missing" in err
    shutil.rmtree(folder)
    code, _, err = bench(names[0], names[1])
    assert (code, err.count("\n")) == (2, 1)
