"""The files of a board: nothing in them but what the model says, any label as plain text, bold only what is certain."""

from __future__ import annotations

import csv
import html
import io
import re
from typing import Any

import pytest
from board_world import run, runs
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from prunebench.leaderboard.board import Board, Run, make_board
from prunebench.leaderboard.exports import FILES, board_csv, board_latex, first_difference, flat, latex
from prunebench.leaderboard.markdown import board_markdown
from prunebench.leaderboard.record import DatasetFacts

EVIL = r'a|b<script>alert(1)</script>`*x*_y_$z$~[l](javascript:1)\%#&{}^"'


def three() -> list[Run]:
    """`good` is certainly better than random, `bad` is lower and not certainly so, `short` lacks two seeds."""
    means = {"random": (0.30, 0.34, 0.32), "good": (0.71, 0.75, 0.74), "bad": (0.26, 0.39, 0.12), "short": (0.9,)}
    return [one for method, shares in means.items() for one in runs(method, shares)]


@pytest.fixture(scope="module")
def board() -> Board:
    return make_board(three())


def evil() -> Board:
    named: dict[str, Any] = {"dataset": DatasetFacts(name=EVIL, fingerprint="1"), "command": f"bench run {EVIL}\n\n# x"}
    return make_board([*runs("random", (0.3, 0.4), **named), run(EVIL, 0.5, llm="catalogue", **named)])


def grid(markdown: str) -> list[dict[str, str]]:
    """Rows of the first table as header → cell."""
    lines = next(part for part in markdown.split("\n\n") if part.startswith("| method")).splitlines()
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_markdown_says_who_is_better_and_how_surely(board: Board) -> None:
    rows = {row["method"]: row for row in grid(board_markdown(board))}
    assert rows["good"]["R@10 − random"] == "**+.4133 [+.3990, +.4277]**"
    assert re.fullmatch(r"−\.0633 \[−\.\d{4}, \+\.\d{4}\]", rows["bad"]["R@10 − random"])
    assert rows["short"]["R@10 − random"] == "+.6000"
    assert rows["random"]["R@10 − random"] == "–"
    assert {name: row["seeds"] for name, row in rows.items()} == {
        "bad": "3",
        "good": "3",
        "random": "3",
        "short": "1 of 3",
    }
    assert rows["good"]["R@10"] == ".7333 ± .0208"
    assert rows["short"]["R@10"] == ".9000"
    assert (rows["good"]["rank by R@10"], rows["short"]["rank by R@10"]) == ("1", "–")


def test_bold_is_what_is_certain_and_nothing_else(board: Board) -> None:
    certain = sum(
        one is not None and one.certain
        for table in board.tables
        for row in table.rows
        for metric, figure in row.metrics["unmasked"].items()
        for one in (figure.to_random, figure.to_random if metric == "R@10" else None, figure.to_best)
    )
    markdown = board_markdown(board)
    assert len(re.findall(r"\*\*[^*|]+\*\*", markdown)) == certain > 0
    assert markdown.count("*") == 4 * certain
    assert board_latex(board).count(r"\textbf{") == 1


def test_every_run_stands_there_with_its_command_and_record(board: Board) -> None:
    lines = [line for line in board_markdown(board).splitlines() if line.startswith("- run ")]
    for table in board.tables:
        for row in table.rows:
            for one in row.runs:
                (line,) = [line for line in lines if f"run {one.run} " in line]
                assert f"record {one.record_sha256[:12]}" in line
                assert f"<code>{one.command}</code>" in line
                assert f"seed {one.seeds.selection} " in line
                assert "cpu A, 2 cores" in line
    assert len(lines) == 10


def test_another_figure_changes_the_lines_of_its_row_only() -> None:
    def lines(mean: float) -> list[str]:
        return board_markdown(make_board([*three()[:-1], run("short", mean)])).splitlines()

    before, after = lines(0.9), lines(0.8)
    changed = [line for line, other in zip(before, after, strict=True) if line != other]
    assert changed
    assert all(re.match(r"\| short|- run \w+ · short|<picture>", line) for line in changed)


def test_csv_read_back_is_the_model(board: Board) -> None:
    for one in (board, evil()):
        read = list(csv.DictReader(io.StringIO(board_csv(one), newline="")))
        model = flat(one)
        assert len(read) == len(model) > 0
        for cells, values in zip(read, model, strict=True):
            for name, value in values.items():
                kind: Any = type(value)
                assert (None if cells[name] == "" else kind(cells[name])) == (None if value == "" else value)
    figures = {
        (row.method, metric): figure
        for row in board.tables[0].rows
        for metric, figure in row.metrics["unmasked"].items()
    }
    ranks = set()
    for line in (line for line in flat(board) if line["protocol"] == "unmasked"):
        figure = figures[str(line["method"]), str(line["metric"])]
        ranks.add(figure.rank)
        assert (line["rank_low"], line["rank_high"]) == (figure.rank or (None, None))
        assert (line["mean"], line["sd"]) == (figure.mean, figure.sd)
        if figure.to_random is not None:
            ours = figure.to_random
            assert (line["random_low"], line["random_high"]) == (ours.interval or (None, None))
            assert (line["random_holm"], line["random_certain"]) == (ours.holm, str(ours.certain).lower())
    assert (2, 3) in ranks


def test_labels_are_plain_text_in_markdown() -> None:
    markdown = board_markdown(evil()).split("## How to read it")[0]
    page = MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown)
    ours = {"h1", "h2", "p", "table", "thead", "tbody", "tr", "th", "td", "ul", "li", "code", "details", "summary"}
    ours |= {"picture", "source", "img"}
    assert set(re.findall(r"<(\w+)", page)) == ours
    assert page.count(html.escape(EVIL)) == 1 + 1 + 4 + 1 + 3, "title, row, its differences, its run, all commands"
    assert "# x</code>" in page
    assert not set(markdown) & set("`\\$~"), "GitHub reads more than CommonMark"


SPECIAL = re.compile(r"(?<!\\)[#%&_]|(?<!\\)\^")


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=20))
def test_latex_has_no_special_character_left(text: str) -> None:
    written = latex(text)
    assert written.isascii()
    assert not SPECIAL.search(written)
    plain = re.sub(r"\\[{}]", "", written)
    assert plain.count("{") == plain.count("}")
    assert "\n" not in written


def test_latex_tables_are_whole() -> None:
    written = board_latex(evil())
    for line in written.splitlines():
        if line.endswith(r"\\"):
            assert len(re.findall(r"(?<!\\)&", line)) == 7
    begun, ended = (re.findall(rf"\\{word}{{(\w+)}}", written) for word in ("begin", "end"))
    assert sorted(begun) == sorted(ended) == ["table", "tabular"]
    assert written.isascii()
    assert latex("a_b & 50% – x") == r"a\_b \& 50\% -- x"


@pytest.mark.parametrize("name", FILES)
def test_a_difference_is_named_by_line_and_row(board: Board, name: str) -> None:
    text = FILES[name](board)
    assert first_difference(name, text, text) is None
    lines = text.splitlines(keepends=True)
    at = next(number for number, line in enumerate(lines) if "good" in line and ".73" in line)
    spoilt = "".join([*lines[:at], lines[at].replace(".73", ".74", 1), *lines[at + 1 :]])
    found = first_difference(name, text, spoilt)
    assert found is not None
    assert found[0] == at + 1
    assert found[1].startswith("good" if name.endswith(".tex") else "good on bigrec")
    cut = first_difference(name, text, "".join(lines[:at]))
    assert cut is not None
    longer = first_difference(name, text, text + "more\n")
    assert longer is not None
    assert longer[0] == len(lines) + 1


@pytest.mark.parametrize("name", FILES)
def test_no_records_make_an_empty_file(name: str) -> None:
    assert FILES[name](make_board([])).endswith("\n")
