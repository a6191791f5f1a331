"""A board from hand-made records: figures that can be worked out, what is missing, what is certain, what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from board_world import USERS, run, runs
from scipy import stats

from prunebench.leaderboard.board import FORMAT, Board, BoardRow, BoardTable, make_board, read_board
from prunebench.leaderboard.comparisons import Difference, Figure
from prunebench.leaderboard.exports import board_json
from prunebench.leaderboard.per_user import read_per_user
from prunebench.leaderboard.record import DatasetFacts, RecordError, Seeds
from prunebench.leaderboard.statistics import holm

METRIC = "R@10"


def row_of(board: Board, method: str, table: int = 0, **facts: Any) -> BoardRow:
    (found,) = [
        row
        for row in board.tables[table].rows
        if row.method == method and all(getattr(row, name) == value for name, value in facts.items())
    ]
    return found


def figure(board: Board, method: str, **facts: Any) -> Figure:
    return row_of(board, method, **facts).metrics["unmasked"][METRIC]


def to_random(board: Board, method: str, **facts: Any) -> Difference:
    found = figure(board, method, **facts).to_random
    assert found is not None
    return found


def test_figures_are_those_of_the_textbook() -> None:
    shares = {"random": (0.30, 0.34, 0.32), "good": (0.61, 0.62, 0.66), "bad": (0.29, 0.36, 0.33)}
    board = make_board([one for method, means in shares.items() for one in runs(method, means)])
    p = {}
    for method in ("good", "bad"):
        found, ours = figure(board, method), to_random(board, method)
        apart = np.subtract(shares[method], shares["random"])
        test = stats.ttest_rel(shares[method], shares["random"])
        interval = test.confidence_interval()
        p[method] = float(test.pvalue)
        assert found.mean == pytest.approx(np.mean(shares[method]))
        assert found.sd == pytest.approx(np.std(shares[method], ddof=1))
        assert (ours.difference, ours.p) == pytest.approx((apart.mean(), test.pvalue))
        assert ours.interval == pytest.approx((interval.low, interval.high))
        assert (ours.by, ours.seeds) == ("t", 3)
    assert [to_random(board, method).holm for method in p] == pytest.approx(holm(list(p.values())))
    assert to_random(board, "good").certain
    assert not to_random(board, "bad").certain
    assert board.tables[0].best[METRIC] == row_of(board, "good").id
    assert figure(board, "good").to_best is None
    assert figure(board, "random").to_random is None
    assert figure(board, "good").rank == (1, 1)


def test_users_alone_have_a_standard_error() -> None:
    board = make_board([*runs("random", (0.2, 0.2)), *runs("good", (0.7, 0.7))])
    share = 0.2
    expected = math.sqrt(share * (1 - share) / (USERS - 1))
    assert figure(board, "random").se_users == pytest.approx(expected)


def test_a_row_that_lacks_seeds_is_compared_on_those_it_has_and_says_so() -> None:
    board = make_board([*runs("random", (0.30, 0.34, 0.50)), *runs("good", (0.61, 0.62))])
    good = row_of(board, "good")
    assert good.lacks == [Seeds(signal=2, selection=2, finetune=2)]
    assert row_of(board, "random").lacks == []
    assert to_random(board, "good").difference == pytest.approx((0.31 + 0.28) / 2)
    assert to_random(board, "good").seeds == 2
    assert figure(board, "good").rank is None
    assert board.tables[0].best[METRIC] == row_of(board, "random").id, "a row that lacks a seed is not the best"


def test_one_common_seed_has_no_interval_and_none_no_difference() -> None:
    board = make_board(
        [*runs("random", (0.30, 0.34)), *runs("good", (0.61,)), run("other", 0.9, seed=7), run("other", 0.9, seed=8)]
    )
    good = to_random(board, "good")
    assert (good.difference, good.interval, good.p, good.certain) == (pytest.approx(0.31), None, None, False)
    other = to_random(board, "other")
    assert (other.seeds, other.difference, other.certain) == (0, None, False)
    assert figure(board, "good").sd is None


def test_the_best_is_neither_everything_nor_nothing_nor_a_plugins() -> None:
    everything = runs("full", (0.9, 0.91), budget=100, share=1.0)
    oracle = runs("oracle", (0.95, 0.96), config={"plugins": {"method": "ab" * 32}})
    nothing = runs("none", (0.99, 0.99), budget=0, share=0.0)
    others = [*runs("random", (0.3, 0.34)), *runs("good", (0.6, 0.62))]
    (table,) = make_board([*everything, *oracle, *nothing, *others]).tables
    assert table.best[METRIC] == next(row.id for row in table.rows if row.method == "good")
    assert {row.method: row.kind for row in table.rows} == {
        "full": "full",
        "oracle": "pruned",
        "none": "zero-shot",
        "random": "pruned",
        "good": "pruned",
    }
    oracles = next(row for row in table.rows if row.method == "oracle").metrics["unmasked"][METRIC]
    assert oracles.to_best is not None
    assert oracles.to_best.difference == pytest.approx(0.345)


def test_a_row_is_compared_with_random_in_its_own_setting() -> None:
    beams = {"config": {"backbone": {"beams": 4}}, "changes": {"backbone.beams": 4}}
    board = make_board(
        [
            *runs("random", (0.3, 0.34)),
            *runs("good", (0.6, 0.62)),
            *runs("random", (0.5, 0.52), **beams),
            *runs("good", (0.7, 0.71), **beams),
        ]
    )
    for label in ("bigrec", "bigrec (beams=4)"):
        against = row_of(board, "random", backbone_label=label)
        assert to_random(board, "good", backbone_label=label).against == against.id
        assert against.metrics["unmasked"][METRIC].to_random is None


def test_references_are_listed_and_not_compared() -> None:
    board = make_board(
        [*runs("random", (0.3, 0.34)), run("none", 0.9, backbone="popular", llm=None, budget=0, share=0.0)]
    )
    (table,) = board.tables
    popular = table.rows[-1]
    assert (popular.kind, popular.lacks) == ("reference", [])
    assert popular.metrics["unmasked"][METRIC].to_random is None
    assert popular.metrics["unmasked"][METRIC].mean == pytest.approx(0.9)


def test_budgets_of_a_data_set_are_one_family() -> None:
    def both(budget: int) -> list[Any]:
        rest: dict[str, Any] = {"budget": budget, "share": budget / 100}
        return [*runs("random", (0.30, 0.34, 0.32), **rest), *runs("good", (0.61, 0.62, 0.66), **rest)]

    def adjusted(board: Board) -> list[float | None]:
        every: list[tuple[BoardTable, BoardRow]] = [(table, row) for table in board.tables for row in table.rows]
        found = [row.metrics["unmasked"][METRIC].to_random for _, row in every]
        return [one.holm for one in found if one is not None]

    (alone,) = adjusted(make_board(both(10)))
    assert alone is not None
    assert adjusted(make_board([*both(10), *both(20)])) == pytest.approx([2 * alone] * 2)
    elsewhere = [
        run(one.record.method, share, seed, dataset=DatasetFacts(name="b", fingerprint="2"))
        for one, share, seed in zip(both(10), (0.3, 0.34, 0.32, 0.61, 0.62, 0.66), (0, 1, 2) * 2, strict=True)
    ]
    assert adjusted(make_board([*both(10), *elsewhere])) == pytest.approx([alone] * 2)


def test_masked_figures_have_no_comparison() -> None:
    good = row_of(make_board([*runs("random", (0.3, 0.34)), *runs("good", (0.6, 0.62))]), "good")
    masked = good.metrics["masked"][METRIC]
    assert masked.mean == pytest.approx(0.61)
    assert (masked.to_random, masked.to_best, masked.rank) == (None, None, None)


def test_a_board_survives_json_and_does_not_hang_on_the_order_of_records() -> None:
    made = [*runs("random", (0.3, 0.34, 0.31)), *runs("good", (0.6, 0.62, 0.7)), *runs("bad", (0.1, 0.12))]
    board = make_board(made)
    assert read_board(board_json(board), "board.json") == board
    assert board_json(make_board(reversed(made))) == board_json(board)


def test_only_what_was_asked_for_is_on_the_board() -> None:
    made = [*runs("random", (0.3,)), *runs("good", (0.4,), dataset=DatasetFacts(name="b", fingerprint="2"))]
    assert [table.dataset for table in make_board(made).tables] == ["a", "b"]
    assert [table.dataset for table in make_board(made, dataset="b").tables] == ["b"]
    assert make_board(made, split="valid").tables == []


def test_runs_that_cannot_stand_together_are_refused() -> None:
    one, other = runs("random", (0.3, 0.4))
    with pytest.raises(RecordError, match=f"two records of run {one.record.run}"):
        make_board([one, one])
    with pytest.raises(RecordError, match="on other users of a than run"):
        make_board([one, run("good", 0.5, users=np.arange(1, USERS + 1))])
    assert make_board([one, other]).rows == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no JSON"),
        ("[]", "no board"),
        ('{"format": 99}', f"format 99, newer than the {FORMAT} read here: update"),
        ('{"format": 1}', f"format 1, older than the {FORMAT} of today; write it anew: bench leaderboard build"),
        (
            json.dumps(
                {"format": FORMAT, "dataset": None, "split": "test", "resamples": 1, "pictures": True, "tables": [1]}
            ),
            "tables.0",
        ),
    ],
)
def test_what_is_no_board_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(RecordError, match=message) as caught:
        read_board(text, "board.json")
    assert "\n" not in str(caught.value)


def _spoil(arrays: dict[str, Any], how: str) -> dict[str, Any]:
    match how:
        case "a digit":
            return {**arrays, "unmasked_recall": arrays["unmasked_recall"] + 1e-6}
        case "a column missing":
            return {**arrays, "unmasked_ndcg": arrays["unmasked_ndcg"][:, :1]}
        case "an array missing":
            return {name: values for name, values in arrays.items() if name != "masked_recall"}
        case "a user twice":
            return {**arrays, "users": np.zeros(USERS, np.int64)}
        case "nobody":
            return {name: np.full(np.shape(v), np.nan) if "_" in name else v for name, v in arrays.items()}
        case _:
            return {**arrays, "users": np.array([object()] * USERS)}


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("a digit", r"has a mean R@10 \(unmasked\) of 0\.3000\d*, its record says 0\.3;"),
        ("a column missing", "one value per user and cut-off"),
        ("an array missing", r"can be read \(.*masked_recall"),
        ("a user twice", "one value per user and cut-off"),
        ("nobody", "no user with a target"),
        ("an object", r"can be read \(.*allow_pickle"),
    ],
)
def test_spoilt_metrics_of_users_are_refused(tmp_path: Path, how: str, message: str) -> None:
    record = run("random", 0.3).record
    arrays: dict[str, Any] = {"users": np.arange(USERS), "cutoffs": np.array([10, 20])}
    hits = (np.arange(USERS) < 0.3 * USERS).astype(float)
    arrays |= {f"{p}_{m}": np.stack([hits, hits], 1) for p in ("unmasked", "masked") for m in ("recall", "ndcg")}
    path = tmp_path / "per_user.npz"
    np.savez(path, **arrays)
    assert read_per_user(path, record).values["unmasked"][METRIC].mean() == pytest.approx(0.3)
    np.savez(path, **_spoil(arrays, how))
    with pytest.raises(RecordError, match=message) as caught:
        read_per_user(path, record)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RecordError, match="can be read"):
        read_per_user(path, record)


def test_users_without_a_target_do_not_count(tmp_path: Path) -> None:
    record = run("random", 0.3).record
    hits = np.stack([(np.arange(USERS) < 0.3 * USERS).astype(float)] * 2, axis=1)
    hits = np.concatenate([hits, np.full((5, 2), np.nan)])
    arrays: dict[str, Any] = {f"{p}_{m}": hits for p in ("unmasked", "masked") for m in ("recall", "ndcg")}
    np.savez(tmp_path / "per_user.npz", users=np.arange(USERS + 5), cutoffs=np.array([10, 20]), **arrays)
    found = read_per_user(tmp_path / "per_user.npz", record)
    assert found.users.tolist() == list(range(USERS))
    assert {len(values) for metrics in found.values.values() for values in metrics.values()} == {USERS}


def test_from_six_seeds_on_users_are_redrawn_as_well() -> None:
    low, high = (0.30, 0.34, 0.32, 0.33, 0.29, 0.31), (0.61, 0.62, 0.66, 0.64, 0.60, 0.63)
    board = make_board([*runs("random", low), *runs("good", high)], resamples=200)
    good = to_random(board, "good")
    assert (good.by, good.seeds, good.certain) == ("bootstrap", 6, True)
    assert good.interval is not None
    t = stats.ttest_rel(high, low).confidence_interval()
    assert good.interval[1] - good.interval[0] > t.high - t.low, "a third of the users decide, and they could be others"


def test_fine_tuning_seeds_are_averaged_within_selections_that_are_whole() -> None:
    def crossed(method: str, cells: dict[tuple[int, int], float]) -> list[Any]:
        return [
            run(method, mean, seeds=Seeds(signal=selection, selection=selection, finetune=finetune))
            for (selection, finetune), mean in cells.items()
        ]

    whole = {(0, 0): 0.2, (0, 1): 0.4, (1, 0): 0.5, (1, 1): 0.7}
    random = figure(make_board(crossed("random", whole)), "random")
    assert (random.seeds, random.mean) == (2, pytest.approx(0.45))
    assert random.sd == pytest.approx(np.std([0.3, 0.6], ddof=1))
    assert random.sd_finetune == pytest.approx(np.std([0.2, 0.4], ddof=1))
    holed = {key: whole[key] + 0.2 for key in list(whole)[:3]}
    board = make_board([*crossed("random", whole), *crossed("good", holed)])
    assert row_of(board, "good").lacks == [Seeds(signal=1, selection=1, finetune=1)]
    good = to_random(board, "good")
    assert (good.seeds, good.difference, good.interval) == (1, pytest.approx(0.2), None)


def test_certain_is_what_holds_after_holm_whichever_way_it_goes() -> None:
    shares = {"random": (0.30, 0.34, 0.32), "worse": (0.01, 0.05, 0.04)}
    shares |= {"hardly": (0.50, 0.62, 0.46), "as hardly": (0.52, 0.64, 0.48)}
    board = make_board([one for method, means in shares.items() for one in runs(method, means)])
    worse, hardly = to_random(board, "worse"), to_random(board, "hardly")
    assert worse.difference is not None
    assert worse.difference < 0
    assert worse.certain
    assert hardly.interval is not None
    assert hardly.interval[0] > 0
    assert not hardly.certain
    assert hardly.p is not None
    assert hardly.p < 0.05
