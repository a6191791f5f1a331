"""The page in headless Chromium: sorting, filters, details, links to a view, hostile names, keyboard."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from board_world import run, runs
from browser import Show, fixture_chromium, fixture_show, until  # noqa: F401
from page_world import HOSTILE, board, hostile_board

from prunebench.leaderboard import page as page_module
from prunebench.leaderboard.board import Board, BoardRow, BoardTable, figure_of, make_board
from prunebench.leaderboard.markdown import difference_words, seeds_words
from prunebench.leaderboard.page import SCRIPTS, board_page, records_digest
from prunebench.leaderboard.record import DatasetFacts
from prunebench.leaderboard.tables import MISSING, duration, figure, memory, percent

FOLDER = Path(page_module.__file__).parent / "page_files"
LEAD = "R@10"


def embedded(text: str) -> Any:
    """The data a page carries, as an HTML reader finds it."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script', text, re.DOTALL)
    assert found
    return json.loads(found[1])


def names(page: Any, section: int = 0) -> list[str]:
    """Row ids from top to bottom of one of the visible tables."""
    return (
        page.locator("section.board:visible")
        .nth(section)
        .locator("button.open")
        .evaluate_all("buttons => buttons.map((button) => button.dataset.key.slice(4))")
    )


def total_rows(page: Any) -> int:
    return page.locator("button.open:visible").count()


def expected(table: BoardTable, value: Callable[[BoardRow], Any], descending: bool) -> list[str]:
    """Ids in the order a reader expects: missing ones last, equals as on the board."""
    there = [row for row in table.rows if value(row) is not None]
    there.sort(key=value, reverse=False)
    if descending:
        levels = sorted({value(row) for row in there}, reverse=True)
        there = [row for level in levels for row in there if value(row) == level]
    return [row.id for row in [*there, *(row for row in table.rows if value(row) is None)]]


def lead(row: BoardRow, name: str) -> Any:
    one = figure_of(row, LEAD)
    return None if one is None else getattr(one, name)


def difference(row: BoardRow) -> float | None:
    one = lead(row, "to_random")
    return None if one is None else one.difference


COLUMNS: dict[str, tuple[Callable[[BoardRow], Any], bool]] = {
    LEAD: (lambda row: lead(row, "mean"), True),
    "Method": (lambda row: (row.backbone_label if row.label == MISSING else row.label).lower(), False),
    "Budget": (lambda row: None if row.label == MISSING else row.budget, False),
    "Seeds": (lambda row: len(row.runs), False),
    "− random": (difference, True),
    "Rank": (lambda row: sum(lead(row, "rank")) if lead(row, "rank") else None, False),
    "N@20": (lambda row: row.metrics["unmasked"]["N@20"].mean, True),
    "Total": (lambda row: row.costs.total_s, False),
    "Of full": (lambda row: row.costs.of_full, False),
    "Pruning": (lambda row: row.costs.pruning_s, False),
    "Memory": (lambda row: row.costs.peak_rss_mb, False),
}


def test_equal_boards_make_equal_pages_that_carry_their_records() -> None:
    text = board_page(board())
    assert text == board_page(Board.model_validate_json(board().model_dump_json()))
    data = embedded(text)
    assert data["records"] == records_digest(board())
    assert [len(table["rows"]) for table in data["tables"]] == [len(table.rows) for table in board().tables]
    assert len({table["key"] for table in data["tables"]}) == len(board().tables)
    assert not re.search(r"(src|href)=[\"']?https?:", text)


def test_a_setting_of_none_is_shown_and_tables_of_two_llms_have_two_names() -> None:
    none = {"changes": {"method.lam": None}, "run": "none"}
    data = embedded(board_page(make_board([run("random", 0.3, **none), run("random", 0.4, llm="other")])))
    assert [table["rows"][0]["changes"] for table in data["tables"]] == [{"method.lam": None}, {}]
    assert len({table["key"] for table in data["tables"]}) == 2


def test_the_policy_allows_this_style_and_this_script_alone() -> None:
    text = board_page(hostile_board())
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy
    rules = dict(rule.split(" ", 1) for rule in policy[1].split("; "))
    assert rules["default-src"] == "'none'"
    for name, tag in (("style-src", "style"), ("script-src", "script")):
        (inside,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert rules[name] == f"'sha256-{digest}'"


def test_no_name_ends_the_element_it_stands_in() -> None:
    text = board_page(hostile_board())
    data = embedded(text)
    assert {table["dataset"] for table in data["tables"]} == set(HOSTILE)
    assert len(re.findall("<script", text, re.IGNORECASE)) == len(re.findall("</script", text, re.IGNORECASE)) == 2


def test_all_parts_are_used() -> None:
    assert sorted(SCRIPTS) == sorted(path.name for path in FOLDER.glob("*.js"))
    assert not re.search(r"{{\w+}}", board_page(board()))


def test_cells_say_what_the_markdown_says(show: Show) -> None:
    page = show(board())
    table = board().tables[0]
    section = page.locator("section.board").first
    heads = section.locator("thead tr:last-child > *").all_inner_texts()
    for row in table.rows:
        cells = section.locator(f'tr.row:has([data-key="row {row.id}"]) > *').all_inner_texts()
        found = dict(
            zip(
                [head.split()[0] if head != "− random" and head != "Of full" else head for head in heads],
                cells,
                strict=True,
            )
        )
        found = {name: " ".join(text.split()) for name, text in found.items()}
        one = figure_of(row, LEAD)
        assert one is not None
        assert one.mean is not None
        assert found[LEAD] == figure(one.mean) + ("" if one.sd is None else f" ± {figure(one.sd)}")
        assert found["Seeds"] == seeds_words(row)
        assert found["Total"] == duration(row.costs.total_s)
        assert found["Of full"] == percent(row.costs.of_full)
        assert found["Memory"] == memory(row.costs.peak_rss_mb, row.costs.peak_gpu_mb)
        certain = one.to_random is not None and one.to_random.certain
        words = difference_words(one.to_random)
        assert (
            words
            in found["− random"]
            .replace("▲", "")
            .replace("▼", "")
            .replace(" certainly above random", "")
            .replace(" certainly below random", "")
            or row.method == "random"
        )
        assert ("certainly" in found["− random"]) == certain


def test_a_half_is_rounded_as_in_the_markdown(show: Show) -> None:
    values = json.loads(board().model_dump_json())
    rows = values["tables"][0]["rows"]
    halves = (0.03125, 0.09375, 0.15625, 0.71875, 0.84375)
    for row, half in zip(rows, halves, strict=False):
        row["metrics"]["unmasked"][LEAD] |= {"mean": half, "sd": None}
        row["costs"] |= {"total_s": 4.25 + half * 32, "of_full": 0.1225}
    made = Board.model_validate(values)
    page = show(made)
    for row, half in zip(made.tables[0].rows, halves, strict=False):
        cells = page.locator(f'section.board:first-of-type tr.row:has([data-key="row {row.id}"]) > *').all_inner_texts()
        assert {figure(half), duration(row.costs.total_s), percent(0.1225)} <= {" ".join(one.split()) for one in cells}


def test_a_click_on_a_header_sorts(show: Show) -> None:
    page = show(board())
    first = page.locator("section.board").first
    for column, (value, first_down) in COLUMNS.items():
        if column != LEAD:  # by which it is sorted from the start
            first.get_by_role("button", name=column, exact=True).click()
        for descending in (first_down, not first_down):
            head = first.locator("th[aria-sort]")
            assert head.count() == 1
            assert head.inner_text().split()[-1] in column
            assert head.get_attribute("aria-sort") == ("descending" if descending else "ascending")
            for at, table in enumerate(board().tables):
                assert names(page, at) == expected(table, value, descending), column
            first.get_by_role("button", name=column, exact=True).click()


def test_filters_leave_the_rows_asked_for_and_say_how_many(show: Show) -> None:
    page = show(board())
    every = sum(len(table.rows) for table in board().tables)
    status = page.get_by_role("status").first
    assert (total_rows(page), status.inner_text()) == (every, f"{every} of {every} rows in 3 tables")
    page.get_by_label("Search").fill("MINI dealr")
    until(page, "document.querySelectorAll('section.board:not([hidden])').length === 1")
    assert status.inner_text() == f"1 of {every} rows in 1 table"
    page.get_by_label("Search").fill("nothing has this name")
    until(page, "document.getElementById('status').textContent.startsWith('No row')")
    page.get_by_role("button", name="Reset").click()
    page.get_by_label("Data set").select_option("games")
    page.get_by_label("Budget", exact=True).select_option("20")
    (table,) = (table for table in board().tables if table.dataset == "games" and table.budget == 20)
    assert sorted(names(page)) == sorted(row.id for row in table.rows)
    page.get_by_label("Data set").select_option("")
    page.get_by_label("Budget", exact=True).select_option("")
    for label, left in {
        "plugins": lambda row: not row.plugins,
        "references": lambda row: not row.plugins and row.kind != "reference",
        "full": lambda row: not row.plugins and row.kind in ("pruned", "zero-shot"),
    }.items():
        page.get_by_role("checkbox", name=label, exact=True).uncheck(force=True)
        assert total_rows(page) == sum(left(row) for table in board().tables for row in table.rows)
    page.get_by_role("button", name="Reset").click()
    assert total_rows(page) == every
    page.get_by_role("checkbox", name="certain only").check(force=True)
    certain = [
        row
        for table in board().tables
        for row in table.rows
        if lead(row, "to_random") and lead(row, "to_random").certain
    ]
    assert 0 < total_rows(page) == len(certain) < every


def test_metric_and_protocol_are_chosen_for_all_tables(show: Show) -> None:
    page = show(board())
    page.get_by_label("Metric").select_option("N@20")
    assert page.locator("section.board").first.locator("th.lead").inner_text().startswith("N@20")
    page.get_by_label("History items").select_option("masked")
    head = page.locator("section.board").first.locator("thead")
    assert "Accuracy, masked" in head.inner_text()
    assert "random" not in head.inner_text()
    assert page.locator("section.board .note").first.is_visible()
    assert names(page) == expected(board().tables[0], lambda row: row.metrics["masked"]["N@20"].mean, True)


def test_a_row_opens_to_all_that_is_known_of_it(show: Show) -> None:
    page = show(board())
    (row,) = (row for row in board().tables[0].rows if row.method == "dealrec")
    button = page.locator(f'[data-key="row {row.id}"]').first
    button.click()
    assert button.get_attribute("aria-expanded") == "true"
    text = page.locator(f"#{button.get_attribute('aria-controls')}").inner_text()
    for one in row.runs:
        assert all(word in text for word in (one.run, one.record_sha256, one.command, *one.hardware))
    for protocol, figures in row.metrics.items():
        for metric, one in figures.items():
            assert (metric if protocol == "unmasked" else f"{metric}, {protocol}") in text
            assert figure(one.mean or 0) in text
    assert all(stage.stage in text for stage in row.stages)
    page.locator(".behind button").first.click()
    until(page, "/Copied|Selected/.test(document.querySelector('.behind .said').textContent)")
    button.click()
    assert page.locator("tr.behind").count() == 0
    (row,) = (row for row in board().tables[0].rows if row.method == "ccs")
    page.locator(f'[data-key="row {row.id}"]').first.click()
    assert "Lacks seed 2" in page.locator("tr.behind").inner_text()
    (row,) = (row for row in board().tables[0].rows if row.method == "oracle")
    page.locator(f'[data-key="row {row.id}"]').first.click()
    assert page.locator("tr.behind").count() == 1
    assert "method.lam" in page.locator("tr.behind").inner_text()


def test_a_link_leads_to_the_same_view(show: Show) -> None:
    page = show(board())
    page.get_by_label("Search").fill("e")
    until(page, "location.hash.includes('q=e')")
    page.get_by_role("checkbox", name="references").uncheck(force=True)
    page.get_by_label("Metric").select_option("N@10")
    page.locator("thead").first.get_by_role("button", name="Total", exact=True).click()
    page.locator("button.open").first.click()
    page.get_by_role("tab", name="Where the time goes").first.click()
    address = "#" + page.url.partition("#")[2]
    seen = [names(page, at) for at in range(page.locator("section.board:visible").count())]
    again = show(board(), address)
    assert [names(again, at) for at in range(again.locator("section.board:visible").count())] == seen
    assert again.locator("tr.behind").get_attribute("id") == page.locator("tr.behind").get_attribute("id")
    for name in ("Search", "Metric"):
        assert again.get_by_label(name).input_value() == page.get_by_label(name).input_value()
    assert again.get_by_role("tab", selected=True).first.inner_text() == "Where the time goes"
    assert not again.get_by_role("checkbox", name="references").is_checked()
    again.evaluate("location.hash = '#sort=seeds&order=descending'")
    until(again, "document.querySelector('th[aria-sort]').textContent.startsWith('Seeds')")
    assert names(again) == expected(board().tables[0], lambda row: len(row.runs), True)


def test_an_address_nobody_wrote_is_read_as_far_as_it_goes(show: Show) -> None:
    strange = "metric=X@1&sort=nothing&budget=-1&dataset=<img>&kinds=a%20b%20full&open=..&chart=x&order=up"
    page = show(board(), f"#{strange}")
    for address in ("", "%ff%00", "open=__proto__.x&sort=__proto__", "protocol=none&certain=2"):
        assert page.get_by_label("Metric").input_value() == LEAD
        assert (
            page.get_by_label("Data set").input_value() == page.get_by_label("Budget", exact=True).input_value() == ""
        )
        assert total_rows(page) == sum(row.kind == "full" for table in board().tables for row in table.rows)
        page.evaluate(f"location.hash = {json.dumps('#kinds=full&' + address)}")


def test_names_that_try_to_be_markup_are_words(show: Show) -> None:
    page = show(hostile_board())
    assert page.evaluate("document.querySelectorAll('img, main script, form script').length") == 0
    assert page.evaluate("document.scripts.length") == 2
    titles = page.locator("h2 bdi").all_text_contents()
    assert set(HOSTILE) <= set(titles)
    for at in range(page.locator("button.open").count()):
        page.locator("button.open").nth(at).click()
        assert page.locator("tr.behind").count() == 1
    for name in HOSTILE:
        page.get_by_label("Data set").select_option(name)
        until(page, "document.querySelectorAll('section.board:not([hidden])').length === 1")
        assert name in page.locator("h2 bdi:visible").first.text_content()


def test_boards_of_no_rows_and_of_one(show: Show) -> None:
    page = show(make_board([], resamples=100))
    assert page.get_by_role("status").first.inner_text() == "No runs yet."
    one = make_board(runs("random", (0.4,)), resamples=100)
    page = show(one)
    assert total_rows(page) == 1
    for kind in page.get_by_role("tab").all():
        kind.click()
    page.locator("button.open").click()
    assert page.locator("tr.behind").is_visible()


def test_a_table_without_the_metric_shows_its_nearest(show: Show) -> None:
    book = DatasetFacts(name="book", fingerprint="1")
    page = show(make_board([*runs("random", (0.4,)), *runs("random", (0.4,), dataset=book)], resamples=100))
    leads = page.locator("th.lead")
    assert [text.split()[0] for text in leads.all_inner_texts()] == ["R@10", "R@20"]
    page.get_by_label("Metric").select_option("N@50")
    assert [text.split()[0] for text in leads.all_inner_texts()] == ["N@10", "N@50"]
    assert page.locator("td.lead").all_inner_texts() == [".4000", MISSING]
    assert page.get_by_text("No row has this metric.").count() == 1
