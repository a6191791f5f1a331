"""What pictures show, against slow definitions: the front, overlaps, stages, and series over budgets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from board_world import run, runs
from hypothesis import given
from hypothesis import strategies as st

from prunebench.leaderboard.board import Board, BoardRow, Run, make_board
from prunebench.leaderboard.charts import METHODS, Charts, charts_of, front_of, in_colour_order
from prunebench.leaderboard.overlaps import overlaps
from prunebench.leaderboard.record import DatasetFacts, Phase, Seeds, StageBill, total
from prunebench.leaderboard.score_summary import summarise

OTHER = "cpu B, 4 cores"
FOREIGN = {"config": {"plugins": {"method": "ab" * 32}}}


def bill(*stages: tuple[str, Phase, float], device: str = "cpu A, 2 cores") -> dict[str, Any]:
    entries = [
        StageBill(stage=name, hash=name, phase=phase, wall_s=seconds, cpu_s=1, peak_rss_mb=1, device=device)
        for name, phase, seconds in stages
    ]
    return {"bill": entries, "totals": total(entries)}


def costing(seconds: float) -> dict[str, Any]:
    return bill(("fit", "fine-tuning", seconds))


def names(board: Board) -> dict[str, str]:
    return {row.id: row.method for table in board.tables for row in table.rows}


def row_of(board: Board, method: str) -> BoardRow:
    (found,) = [row for row in board.tables[0].rows if row.method == method]
    return found


# --- front ------------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 6).map(float), st.integers(0, 6).map(float)), max_size=25))
def test_the_front_is_what_nothing_beats(points: list[tuple[float, float]]) -> None:
    def beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
        return one[0] <= other[0] and one[1] >= other[1] and one != other

    expected = [at for at, point in enumerate(points) if not any(beats(other, point) for other in points)]
    found = front_of(points)
    assert sorted(found) == expected
    assert [points[at][0] for at in found] == sorted(points[at][0] for at in found)


def test_rows_of_the_backbone_make_the_front_and_all_others_stand_beside() -> None:
    board = make_board(
        [
            *runs("cheap", (0.3, 0.34), **costing(5)),
            *runs("good", (0.6, 0.64), **costing(9)),
            *runs("dear", (0.5, 0.5), **costing(20)),
            *runs("elsewhere", (0.9, 0.9), **bill(("fit", "fine-tuning", 1.0), device=OTHER)),
            *runs("oracle", (0.95, 0.96), **costing(1), **FOREIGN),
            run("none", 0.99, backbone="popular", llm=None, budget=0, share=0.0, **costing(0.1)),
            run("mixed", 0.9, **bill(("a", "pruning", 1.0)), seeds=Seeds(signal=0, selection=0, finetune=0)),
            run("mixed", 0.9, 1, **bill(("a", "pruning", 1.0), device=OTHER)),
        ]
    )
    chart = charts_of(board).tables[0].cost[0]
    assert chart.metric == "R@10"
    assert [names(board)[row] for row in chart.front] == ["cheap", "good"]
    assert chart.left_out == 1
    marks = {mark.method: mark for mark in chart.marks}
    assert {method: mark.rival for method, mark in marks.items()} == {
        "cheap": True,
        "good": True,
        "dear": True,
        "elsewhere": False,
        "oracle": False,
        "none": False,
    }
    good, popular = marks["good"], marks["none"]
    sd = np.std([0.6, 0.64], ddof=1)
    assert (good.x, good.y, good.low, good.high) == pytest.approx((9, 0.62, 0.62 - sd, 0.62 + sd))
    assert (popular.label, popular.kind, popular.low, popular.high) == ("popular", "reference", None, None)


def test_a_metric_that_no_row_has_is_no_chart() -> None:
    assert charts_of(make_board([])) == Charts(methods=list(METHODS), tables=[], budgets=[])


def test_labels_say_what_differs_and_are_never_equal() -> None:
    def with_beams(beams: int) -> dict[str, Any]:
        return {"config": {"backbone": {"beams": beams}}, "changes": {"backbone.beams": beams}}

    same = {"config": {"backbone": {"hidden": 1}}}
    board = make_board(
        [
            *runs("good", (0.5,)),
            *runs("good", (0.6,), **with_beams(4)),
            *runs("good", (0.7,), **same),
            run("full", 0.8, backbone="sasrec", llm=None, budget=100, share=1.0),
        ]
    )
    labels = [mark.label for mark in charts_of(board).tables[0].cost[0].marks]
    assert len(set(labels)) == 4
    assert {"good, beams=4", "full on sasrec"} < set(labels)


# --- overlaps ---------------------------------------------------------------------------------------------------------

KEPT = st.dictionaries(
    st.tuples(st.integers(0, 1), st.integers(0, 2)),
    st.sets(st.integers(0, 12), min_size=1).map(lambda ids: np.array(sorted(ids), np.int64)),
    max_size=4,
)


@given(st.dictionaries(st.sampled_from("abcd"), KEPT, max_size=4))
def test_overlaps_are_means_over_the_seeds_both_have(rows: dict[str, dict[tuple[int, int], Any]]) -> None:
    found = overlaps(rows)
    if len(rows) < 2:
        assert found is None
        return
    assert found is not None
    assert found.ids == list(rows)
    for at, one in enumerate(rows):
        for by, other in enumerate(rows):
            shares = []
            for seeds, ids in rows[one].items():
                if seeds in rows[other]:
                    ours, theirs = set(ids.tolist()), set(rows[other][seeds].tolist())
                    shares.append(len(ours & theirs) / min(len(ours), len(theirs)))
            expected = 1.0 if at == by else sum(shares) / len(shares) if shares else None
            assert found.shared[at][by] == (None if expected is None else pytest.approx(expected, rel=1e-7))


def kept(method: str, ids: list[int], seed: int = 0, **facts: Any) -> Run:
    made = run(method, 0.5, seed, **facts)
    return Run(made.record, made.sha256, made.per_user, np.array(ids, np.int64))


def test_rows_that_kept_as_much_as_the_table_is_about_are_held_against_each_other() -> None:
    def fine_tuned(seed: int) -> dict[str, Any]:
        return {"seeds": Seeds(signal=0, selection=0, finetune=seed)}

    board = make_board(
        [
            kept("random", [1, 2, 3, 4]),
            kept("random", [5, 6, 7, 8], 1),
            kept("good", [1, 2, 9, 10]),
            kept("good", [5, 6, 7, 11], 1),
            *(kept("many", [4, 5, 6, 7], **fine_tuned(seed)) for seed in (0, 1)),
            kept("alone", [1, 2, 3, 4], 7),
            kept("many", [1, 2, 3, 4], seeds=Seeds(signal=3, selection=0, finetune=0)),
            kept("none", [], budget=0, share=0.0),
            kept("full", list(range(100)), budget=100, share=1.0),
            run("unknown", 0.5),
        ]
    )
    chart = charts_of(board).tables[0].overlap
    assert chart is not None
    assert chart.labels == ["alone", "good", "many", "random"]
    assert chart.shared == [
        [1.0, None, None, None],
        [None, 1.0, 0.0, 0.625],
        [None, 0.0, 1.0, 0.25],
        [None, 0.625, 0.25, 1.0],
    ]


# --- stages and scores ------------------------------------------------------------------------------------------------


def test_stages_are_means_per_run_by_phase_and_add_up() -> None:
    first = bill(
        ("fit", "fine-tuning", 4), ("surrogate", "pruning", 3), ("llm", "pretraining", 50), ("rank", "inference", 1)
    )
    second = bill(
        ("surrogate", "pruning", 5), ("effort", "pruning", 2), ("fit", "fine-tuning", 6), ("rank", "inference", 1)
    )
    board = make_board([run("good", 0.5, **first), run("good", 0.6, 1, **second), *runs("random", (0.4,))])
    good = row_of(board, "good")
    assert [(one.phase, one.stage, one.seconds) for one in good.stages] == [
        ("pruning", "surrogate", 4.0),
        ("pruning", "effort", 1.0),
        ("fine-tuning", "fit", 5.0),
        ("inference", "rank", 1.0),
    ]
    assert sum(one.seconds for one in good.stages) == pytest.approx(good.costs.total_s)


def test_seconds_of_different_hardware_are_no_stages() -> None:
    first, second = bill(("fit", "fine-tuning", 4)), bill(("fit", "fine-tuning", 4), device=OTHER)
    board = make_board([run("good", 0.5, **first), run("good", 0.6, 1, **second), *runs("random", (0.4,))])
    assert row_of(board, "good").stages == []
    chart = charts_of(board).tables[0].stages
    assert chart is not None
    assert ([row.label for row in chart.rows], chart.left_out) == (["random"], 1)


def test_scores_are_those_of_the_first_seed_that_has_any() -> None:
    def scored(seed: int, score: float | None) -> Run:
        made = run("good", 0.5, seed)
        known = None if score is None else summarise("score", np.array([0.0, score]), np.array([True, False]))
        return Run(made.record, made.sha256, made.per_user, None, known)

    every = replace(run("full", 0.9, budget=100, share=1.0), scores=scored(0, 3.0).scores)
    board = make_board([scored(2, 9.0), scored(0, None), scored(1, 3.0), *runs("random", (0.4,)), every])
    chart = charts_of(board).tables[0].scores
    assert chart is not None
    assert [(row.label, row.summary.edges[-1]) for row in chart.rows] == [("good", 3.0)]
    assert charts_of(make_board(runs("random", (0.4,)))).tables[0].scores is None


# --- budgets ----------------------------------------------------------------------------------------------------------


def test_a_method_at_several_budgets_is_one_line() -> None:
    def at(budget: int, **facts: Any) -> dict[str, Any]:
        return {"budget": budget, "share": budget / 100, **facts}

    board = make_board(
        [
            *runs("random", (0.2, 0.3), **at(10)),
            *runs("good", (0.4, 0.5), **at(10)),
            *runs("good", (0.7,), **at(40)),
            *runs("good", (0.5, 0.6), **at(20)),
            *runs("good", (0.55,), **at(20, config={"backbone": {"hidden": 1}})),
            *runs("full", (0.9,), **at(100)),
            *runs("none", (0.1,), **at(0)),
            run("none", 0.15, backbone="popular", llm=None, budget=0, share=0.0),
            run("good", 0.4, **at(20, run="changed", dataset=DatasetFacts(name="a", fingerprint="0"))),
            run("good", 0.4, **at(30, run="another", llm="other")),
        ]
    )
    charts = charts_of(board)
    assert [(chart.dataset, chart.metric) for chart in charts.budgets] == [
        ("a", metric) for metric in board.tables[0].metrics
    ]
    chart = charts.budgets[0]
    good, again, random = chart.series
    assert (good.label, again.label, random.label) == ("good", "good [2]", "random")
    assert [(one.budget, one.seeds) for one in random.points] == [(10, 2)]
    (twice,) = again.points
    assert [one.budget for one in good.points] == [10, 20, 40]
    assert {twice.mean, good.points[1].mean} == {0.55}
    assert [one.sd is None for one in good.points][2]
    assert len({*good.ids, *again.ids, *random.ids}) == 5
    assert {(level.label, level.kind, level.value) for level in chart.levels} == {
        ("full", "full", 0.9),
        ("zero-shot", "zero-shot", 0.1),
        ("popular", "reference", 0.15),
    }


def test_colours_do_not_depend_on_what_else_is_on_the_board() -> None:
    assert in_colour_order(["zeta", "ccs", "alpha"]) == [*METHODS, "alpha", "zeta"]
    assert in_colour_order(["ccs"]) == list(METHODS)


def test_charts_survive_json_and_equal_records_make_equal_ones() -> None:
    made = [kept("random", [1, 2]), kept("good", [2, 3]), kept("good", [2, 4], 1)]
    charts = charts_of(make_board(made))
    assert Charts.model_validate_json(charts.model_dump_json()) == charts
    assert charts_of(make_board(reversed(made))).model_dump_json() == charts.model_dump_json()
