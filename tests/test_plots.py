"""Pictures: equal bytes from equal boards, nothing cut or covered, any text as it is, whatever the figures."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from board_world import run, runs
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread
from matplotlib.text import Text

from prunebench.leaderboard import labels, plots
from prunebench.leaderboard.board import Board, Run, make_board
from prunebench.leaderboard.pictures import BITMAP, DARK, LIGHT, Picture, Pictures, pictures_of
from prunebench.leaderboard.record import DatasetFacts, StageBill, total
from prunebench.leaderboard.score_summary import ScoreSummary, summarise
from prunebench.leaderboard.themes import THEMES, between, dark_on, folded, plain, style

EVIL = r"a$\frac{$_^&<b>--]]> " + "long " * 30
KINDS = ("cost", "stages", "overlap", "scores", "budgets")


def billed(*seconds: float) -> dict[str, Any]:
    phases: Any = ("pruning", "fine-tuning", "inference")
    entries = [
        StageBill(
            stage=f"stage_{at}", hash="h", phase=phases[at % 3], wall_s=one, cpu_s=1, peak_rss_mb=1, device="cpu A"
        )
        for at, one in enumerate(seconds)
    ]
    return {"bill": entries, "totals": total(entries)}


def scored(made: Run, scores: ScoreSummary | None) -> Run:
    ids = np.arange(made.record.seeds.selection, made.record.seeds.selection + max(1, made.record.budget))
    return Run(made.record, made.sha256, made.per_user, ids, scores)


def summary(values: list[float], **facts: Any) -> ScoreSummary | None:
    return summarise("how hard", np.array(values), np.arange(len(values)) % 3 == 0, **facts)


def full_board(dataset: str = "a", method: str = "good") -> Board:
    """Every kind of picture in it."""
    rng = np.random.default_rng(3)
    facts: dict[str, Any] = {"dataset": DatasetFacts(name=dataset, fingerprint="1")}
    spread = summary(rng.lognormal(0, 1, 300).tolist(), strata=np.array([1.0, 2.0]), dropped_from=4.0)
    return make_board(
        [
            *(scored(one, spread) for one in runs(method, (0.5, 0.6), **facts, **billed(3, 4, 5))),
            *(scored(one, None) for one in runs("random", (0.4, 0.45), **facts, **billed(0, 4, 5))),
            *(scored(one, None) for one in runs(method, (0.7,), budget=20, share=0.2, **facts, **billed(3, 5, 5))),
            run("full", 0.9, budget=100, share=1.0, **facts, **billed(0, 50, 5)),
            run("none", 0.2, backbone="popular", llm=None, budget=0, share=0.0, **facts, **billed(0.01)),
        ]
    )


def drawn(pictures: Pictures, ending: str) -> dict[str, bytes]:
    return {one.name: plots.draw(one, pictures.methods, ending) for one in pictures.every}


def of_kinds(pictures: Pictures) -> dict[str, Picture]:
    return {one.name.split("-")[-1]: one for one in pictures.every}


@pytest.mark.parametrize("ending", [LIGHT, DARK, BITMAP])
def test_equal_boards_make_equal_bytes_whatever_the_machine_is_set_to(ending: str) -> None:
    pictures = pictures_of(full_board())
    assert set(of_kinds(pictures)) == set(KINDS)
    first = drawn(pictures, ending)
    with mpl.rc_context({"font.size": 30, "svg.hashsalt": None, "axes.facecolor": "red", "savefig.dpi": 30}):
        before = dict(mpl.rcParams)
        assert drawn(pictures_of(full_board()), ending) == first
        assert dict(mpl.rcParams) == before
    for name, content in first.items():
        assert content.startswith(b"\x89PNG" if ending == BITMAP else b"<?xml"), name


def test_drawings_have_a_title_and_a_background_of_their_own() -> None:
    pictures = pictures_of(full_board())
    for ending, theme in ((LIGHT, "light"), (DARK, "dark")):
        for one in pictures.every:
            text = plots.draw(one, pictures.methods, ending).decode()
            root = ElementTree.fromstring(text)
            assert root.findtext("{http://www.w3.org/2000/svg}title") == f"{one.title}: {one.place}"
            assert one.alt[:40] in "".join(root.itertext())
            assert f"fill: {THEMES[theme].background}" in text
            assert not re.search(r"\d{4}-\d\d-\d\d|Matplotlib v", text)
    light = imread(io.BytesIO(plots.draw(pictures.every[0], pictures.methods, BITMAP)))
    assert light[0, 0, :3].tolist() == [1, 1, 1]
    assert light.shape[1] >= 1200


def texts(pictures: Pictures) -> list[tuple[str, Text, Any]]:
    """Every text that is shown, with its picture's name and figure."""
    found = []
    for one in pictures.every:
        with style(THEMES["light"]):
            places = {method: at for at, method in enumerate(pictures.methods)}
            figure = plots._drawn(one, THEMES["light"], places).figure
            figure.canvas.draw()
        every = [text for text in figure.findobj(Text) if isinstance(text, Text)]
        found += [(one.name, text, figure) for text in every if text.get_text() and text.get_visible()]
    return found


def test_of_many_rows_only_those_are_drawn_and_named_that_can_be_read() -> None:
    """The front, random, full and the references keep their names; overlaps and scores are the page's."""
    many = [
        scored(run(f"m{at:02}", 0.1 + at / 1000, **billed(5, 5, 5)), summary([1.0, 2.0, 3.0, float(at)]))
        for at in range(45)
    ]
    best = [scored(run(name, mean, **billed(1, 1, 1)), None) for name, mean in (("m99", 0.5), ("random", 0.05))]
    pictures = pictures_of(make_board([*many, *best, run("full", 0.4, budget=100, share=1.0, **billed(0, 50, 5))]))
    assert set(of_kinds(pictures)) == {"cost", "stages"}
    cost = Pictures(methods=pictures.methods, tables=[[of_kinds(pictures)["cost"]]])
    names = {text.get_text() for _, text, _ in texts(cost)}
    assert {"m99", "random", "full"} <= names
    assert not {f"m{at:02}" for at in range(45)} & names


def test_any_name_is_plain_text_and_nothing_is_cut() -> None:
    board = full_board(EVIL, "m" * 80)
    pictures = pictures_of(board)
    assert len({name for one in pictures.every for name in one.files}) == 3 * len(pictures.every)
    for one in pictures.every:
        assert re.fullmatch(r"[a-z0-9_.-]{1,110}", one.name)
    drawn(pictures, LIGHT)
    shown = texts(pictures)
    assert any(r"$\frac{$_^&<b>" in text.get_text() for _, text, _ in shown)
    for name, text, figure in shown:
        assert not text.get_parse_math()
        box, paper = text.get_window_extent(), figure.bbox
        if box.width and text.get_text() in {tick.get_text() for tick in _hidden(figure)}:
            continue
        inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= paper.x1 + 1 and box.y1 <= paper.y1 + 1
        assert inside, (name, text.get_text(), box)


def _hidden(figure: Any) -> list[Text]:
    """Labels of ticks outside of an axis, which matplotlib makes and does not draw."""
    hidden = []
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            hidden += [tick.label1 for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high]
    return hidden


def test_names_beside_marks_do_not_cover_each_other() -> None:
    rng = np.random.default_rng(1)
    many = [
        one
        for at in range(16)
        for one in runs(f"method_{at}", rng.uniform(0.2, 0.8, 2).tolist(), **billed(1, float(rng.lognormal(3, 1)), 1))
    ]
    board = make_board([*many, run("none", 0.2, backbone="popular", llm=None, budget=0, share=0.0, **billed(0.001))])
    pictures = pictures_of(board)
    boxes = {
        text.get_text(): text.get_window_extent()
        for name, text, _ in texts(pictures)
        if name.endswith("cost") and text.get_text().startswith(("method_", "popular"))
    }
    assert len(boxes) == 17
    covered = [(one, other) for one in boxes for other in boxes if one < other and boxes[one].overlaps(boxes[other])]
    assert covered == []


@pytest.mark.parametrize(
    "scores",
    [[1.0] * 5, [0.0, float("nan"), 0.0], [-1e9, 1e9, 3.0], [1e-12, 2e-12, 5e-12], [5.0]],
)
def test_degenerate_figures_are_drawn(scores: list[float]) -> None:
    facts = {"dropped_from": 2.0, "strata": np.array([-1e12, 0.0, 1e12])}
    board = make_board(
        [
            *(scored(one, summary(scores, **facts)) for one in runs("good", (0.0, 0.0), **billed(0))),
            *(scored(one, summary(scores)) for one in runs("bad", (0.0,), **billed(0, 0))),
            scored(run("alone", 0.0, 5, **billed(0)), None),
            *runs("good", (0.0,), budget=20, share=0.2, **billed(0)),
        ]
    )
    pictures = pictures_of(board)
    assert set(of_kinds(pictures)) == set(KINDS)
    assert all(drawn(pictures, LIGHT).values())


def test_a_board_of_one_run_has_a_picture_and_one_without_any_none() -> None:
    alone = pictures_of(make_board([run("good", 0.5)]))
    assert set(of_kinds(alone)) == {"cost", "stages"}
    assert all(drawn(alone, BITMAP).values())
    assert pictures_of(make_board([run("good", 0.5)], pictures=False)).every == []
    assert pictures_of(make_board([])).every == []


def test_names_of_files_tell_equal_titles_apart() -> None:
    both = [
        DatasetFacts(name=name, fingerprint=print_) for name, print_ in (("A", "1"), ("a", "1"), ("a", "2"), ("é", "1"))
    ]
    made = [run("good", 0.5, dataset=dataset, run=str(at)) for at, dataset in enumerate(both)]
    names = [one.name for one in pictures_of(make_board(made)).every]
    assert len(set(names)) == len(names) == 8
    assert "a-bigrec-catalogue-10-cost" in names


# --- places -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-5, 15), max_size=12), st.floats(0.01, 3))
def test_spread_keeps_the_order_the_distance_and_the_bounds(wanted: list[float], gap: float) -> None:
    found = labels.spread(wanted, gap, 0.0, 10.0)
    apart = min(gap, 10.0 / max(1, len(wanted) - 1))
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    assert all(-1e-9 <= one <= 10 + 1e-9 for one in found)
    assert all(found[b] - found[a] >= apart - 1e-9 for a, b in pairwise(order))
    inside = sorted(wanted)
    if inside and inside[0] >= 0 and inside[-1] <= 10 and all(np.diff(inside) >= gap):
        assert found == pytest.approx(wanted)


def test_places_are_free_where_there_is_room() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        points = rng.uniform((50, 50), (650, 400), (14, 2))
        sizes = np.full((14, 2), (80.0, 14.0))
        marks = np.concatenate([points - 6, points + 6], axis=1)
        boxes = labels.place(points, sizes, marks, (0, 0, 700, 450))
        assert boxes[:, 2:] - boxes[:, :2] == pytest.approx(sizes)
        assert (boxes >= 0).all()
        assert (boxes[:, 2] <= 700).all()
        assert (boxes[:, 3] <= 450).all()
        for at in range(14):
            rest = np.concatenate([np.delete(boxes, at, axis=0), np.delete(marks, at, axis=0)])
            apart = (rest[:, :2] >= boxes[at, 2:]) | (rest[:, 2:] <= boxes[at, :2])
            assert apart.any(axis=1).all()
    assert len(labels.place(np.empty((0, 2)), np.empty((0, 2)), np.empty((0, 4)), (0, 0, 1, 1))) == 0


def test_texts_and_colours() -> None:
    assert plain("a\n b\x00c\u202e") == "a b c"
    assert plain("x" * 70) == "x" * 59 + "…"
    assert folded("dealrec (surrogate.name=gru4rec)", 26) == "dealrec\n(surrogate.name=gru4rec)"
    assert between(("#000000", "#ff0000", "#ffffff"), 0.5) == "#ff0000"
    assert between(("#000000", "#ffffff"), 0.2) == "#333333"
    assert (dark_on("#ffffff"), dark_on("#000000"), dark_on("#0072b2")) == (True, False, False)
