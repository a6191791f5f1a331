"""The page's charts, and the page without a mouse, without sight, without storage, on a phone, on paper, under attack."""

from __future__ import annotations

import re
from typing import Any

import pytest
from browser import Show, fixture_chromium, fixture_show, until  # noqa: F401
from page_world import HOSTILE, board, hostile_board

from prunebench.leaderboard.charts import charts_of
from prunebench.leaderboard.tables import duration, figure

CHARTS = ("Accuracy and cost", "Accuracy and budget", "Scores", "Overlap", "Where the time goes")

# Every control and mark that can be reached has a name; ids are unique; what is referred to is there.
UNNAMED = """() => {
  const text = (node) => (node.getAttribute("aria-label") ?? node.textContent).trim();
  const labelled = (node) => [...(node.labels ?? [])].map(text).join("") || node.getAttribute("aria-label");
  const visible = (node) => node.checkVisibility();
  const wrong = [];
  for (const node of document.querySelectorAll("button, summary, a, [role=button], [role=tab], [role=region], [role=img], svg[role=group]"))
    if (visible(node) && !text(node) && !node.getAttribute("aria-labelledby")) wrong.push(node.outerHTML);
  for (const node of document.querySelectorAll("input, select")) if (!labelled(node)) wrong.push(node.outerHTML);
  const ids = [...document.querySelectorAll("[id]")].map((node) => node.id);
  wrong.push(...ids.filter((id, at) => ids.indexOf(id) !== at));
  for (const name of ["aria-labelledby", "for"])
    for (const node of document.querySelectorAll(`[${name}]`)) if (!document.getElementById(node.getAttribute(name))) wrong.push(node.outerHTML);
  for (const node of document.querySelectorAll("[aria-expanded=true], [aria-selected=true]"))
    if (!document.getElementById(node.getAttribute("aria-controls"))) wrong.push(node.outerHTML);
  for (const node of document.querySelectorAll("svg:not([role])"))
    if (!node.closest("[aria-hidden=true]") && node.getAttribute("aria-hidden") !== "true") wrong.push(node.outerHTML);
  const levels = [...document.querySelectorAll("h1, h2, h3")].map((node) => Number(node.tagName[1]));
  levels.forEach((level, at) => { if (level > (levels[at - 1] ?? 0) + 1) wrong.push(`heading ${at} is h${level}`); });
  return wrong;
}"""

# Text that has less than WCAG's contrast with what is painted behind it.
FAINT = """() => {
  const known = new Map();
  const parse = (text) => known.get(text) ?? known.set(text, painted(text)).get(text);
  const painted = (text) => {
    const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    canvas.fillStyle = text;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = (rgb) => { const [r, g, b] = rgb.map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4)); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = (node) => { for (let at = node; at; at = at.parentElement) { const paint = parse(getComputedStyle(at).backgroundColor); if (paint[3] === 255) return paint; } return [255, 255, 255, 255]; };
  const faint = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !node.checkVisibility() || node.closest("script, style, .sr, .value, noscript")) continue;
    const style = getComputedStyle(node);
    const [a, b] = [light(parse(node instanceof SVGElement ? style.fill : style.color).slice(0, 3)), light(behind(node).slice(0, 3))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) faint.add(`${node.tagName}.${node.className?.baseVal ?? node.className} ${ratio.toFixed(2)}: ${walker.currentNode.data.trim().slice(0, 20)}`);
  }
  return [...faint];
}"""


def tab(page: Any, name: str) -> Any:
    """The first table's charts, with one chosen."""
    section = page.locator("section.board:visible .charts").first
    section.get_by_role("tab", name=name, exact=True).click()
    return section


def focused(page: Any) -> str:
    return str(page.evaluate("document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent"))


def test_cost_chart_shows_the_models_marks_and_front(show: Show) -> None:
    page = show(board())
    chart = next(one for one in charts_of(board()).tables[0].cost if one.metric == "R@10")
    section = tab(page, "Accuracy and cost")
    labels = section.locator("svg g.answers").evaluate_all(
        "marks => marks.map((mark) => mark.getAttribute('aria-label'))"
    )
    ordered = sorted(chart.marks, key=lambda mark: (mark.x, -mark.y))
    assert len(labels) == len(ordered) == len(board().tables[0].rows) - chart.left_out
    for said, mark in zip(labels, ordered, strict=True):
        assert said.startswith(f"{mark.label}, R@10 {figure(mark.y)}")
        assert f"{duration(mark.x)} per run" in said
        assert ("Pareto" in said) == (mark.id in chart.front)
    names = "; ".join(mark.label for row in chart.front for mark in chart.marks if mark.id == row)
    assert f"cheapest first: {names}." in section.locator("figcaption").inner_text()
    # where marks stand: to the right what costs more, higher what is better
    places = section.locator("svg g.answers .target").evaluate_all(
        "all => all.map((one) => [+one.getAttribute('cx'), +one.getAttribute('cy')])"
    )
    assert [x for x, _ in places] == sorted(x for x, _ in places)
    for (_, above), high in zip(places, ordered, strict=True):
        for (_, below), low in zip(places, ordered, strict=True):
            assert (above < below) == (high.y > low.y)


def test_charts_follow_filters_metric_and_legend(show: Show) -> None:
    page = show(board())
    section = tab(page, "Accuracy and cost")
    marks = section.locator("svg g.answers")
    every = marks.count()
    section.locator(".legend").get_by_role("button", name="dealrec").click()
    assert marks.count() == every - 1
    assert focused(page) == "dealrec"
    page.get_by_role("checkbox", name="plugins").uncheck(force=True)
    page.get_by_role("checkbox", name="references").uncheck(force=True)
    assert marks.count() == every - 4
    page.get_by_label("Metric").select_option("N@20")
    assert "N@20 " in marks.first.get_attribute("aria-label")
    section.locator("summary").click()
    section.locator("details tbody tr").first.wait_for()
    assert section.locator("details table tbody tr").count() == every - 4
    section.locator(".legend").get_by_role("button", name="dealrec").click()
    assert section.locator("details table tbody tr").count() == every - 3


def test_every_chart_is_drawn_with_a_summary_and_a_table(show: Show) -> None:
    page = show(board())
    charts = charts_of(board())
    table = charts.tables[0]
    assert table.scores
    assert table.overlap
    assert table.stages
    lines = {
        "Accuracy and budget": sum(len(one.points) for one in charts.budgets[0].series) + len(charts.budgets[0].levels),
        "Scores": sum(sum(count > 0 for count in row.summary.samples) for row in table.scores.rows),
        "Overlap": len(table.overlap.ids) * (len(table.overlap.ids) - 1) // 2,
        "Where the time goes": sum(stage.seconds > 0 for row in table.stages.rows for stage in row.stages),
    }
    for name, count in lines.items():
        section = tab(page, name)
        assert section.locator("figcaption").inner_text()
        assert section.locator("svg[role=group]").first.get_attribute("aria-label")
        if not section.locator("details").get_attribute("open") is not None:
            section.locator("summary").click()
            section.locator("details tbody tr").first.wait_for()
        assert section.locator("details tbody tr").count() == count, name
    section = tab(page, "Overlap")
    assert "mini" not in section.inner_text()
    shared = [one for line in table.overlap.shared for one in line if one not in (None, 1.0)]
    assert section.locator("text.value").all_text_contents() == [f"{100 * one:.0f}" for one in shared]
    last = page.locator("section.board").last
    assert last.get_by_role("tab").count() == 0, "drawn when it comes near the screen"
    last.locator(".charts").scroll_into_view_if_needed()
    last.get_by_role("tab", name="Overlap").click()
    assert last.get_by_role("tab", name="Accuracy and budget").count() == 0  # one budget
    assert last.locator("figcaption").is_visible()


def test_a_mark_leads_to_its_row(show: Show) -> None:
    page = show(board(), "#dataset=games&budget=10")
    assert page.locator("section.board:visible").count() == 1
    section = tab(page, "Accuracy and budget")
    marks = section.locator("svg g.answers")
    there = [one.get_attribute("aria-label") for one in marks.all()]
    marks.nth(next(at for at, said in enumerate(there) if said.startswith("dealrec, 20 samples"))).click(force=True)
    assert "20" in page.locator("tr.opened td").nth(1).inner_text()
    assert page.locator("tr.opened button.open").inner_text() == "dealrec"
    assert page.evaluate("document.activeElement === document.querySelector('tr.opened button.open')")
    assert page.get_by_label("Budget", exact=True).input_value() == ""
    assert not page.locator("#tip").is_visible()


def test_pointing_at_a_mark_says_what_it_is(show: Show) -> None:
    page = show(board())
    mark = tab(page, "Accuracy and cost").locator("svg g.answers").first
    mark.hover(force=True)
    assert page.get_by_role("tooltip").inner_text().replace("\n", ", ") == mark.get_attribute("aria-label")
    page.mouse.move(0, 0)
    assert not page.locator("#tip").is_visible()


def test_the_skip_link_changes_nothing_but_the_place(show: Show) -> None:
    """Its address is no view: taken for one, it would reset the filters and draw the heads anew, focus and all."""
    page = show(board())
    every = page.locator("tbody tr:visible").count()
    page.get_by_label("Search").fill("random")
    page.wait_for_url(re.compile("random"))
    page.evaluate("document.querySelector('th button').heard = true")
    shown = page.locator("tbody tr:visible").count()
    assert 0 < shown < every
    page.evaluate(
        "new Promise((done) => { addEventListener('hashchange', done, { once: true }); location.hash = 'tables'; })"
    )
    assert page.locator("tbody tr:visible").count() == shown
    assert page.evaluate("document.querySelector('th button').heard"), "the head is the same one"


def test_the_keyboard_alone_will_do(show: Show) -> None:
    page = show(board())
    page.keyboard.press("Tab")
    assert focused(page) == "Skip to the tables"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")  # the first table, which scrolls
    for wanted in ("Method", "Backbone", "Budget"):
        page.keyboard.press("Tab")
        assert focused(page) == wanted
    page.keyboard.press("Enter")
    assert page.locator("th[aria-sort=ascending]").first.inner_text().startswith("Budget")
    assert focused(page) == "Budget"
    page.keyboard.press("Space")
    assert page.locator("th[aria-sort=descending]").first.inner_text().startswith("Budget")
    while not page.evaluate("document.activeElement.matches('button.open')"):
        page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert page.locator("tr.behind").count() == 1
    page.keyboard.press("Enter")
    assert page.locator("tr.behind").count() == 0
    until(page, "document.querySelector('[role=tab]') !== null")  # charts are drawn when they come near
    while not page.evaluate("document.activeElement.matches('[role=tab]')"):
        page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    assert focused(page) == "Accuracy and budget"
    page.keyboard.press("ArrowLeft")
    while not page.evaluate("document.activeElement.matches('g.answers')"):
        page.keyboard.press("Tab")
    first = focused(page)
    page.keyboard.press("ArrowRight")
    second = focused(page)
    assert second != first
    assert page.get_by_role("tooltip").inner_text().replace("\n", ", ") == second
    page.keyboard.press("Escape")
    assert not page.locator("#tip").is_visible()
    page.keyboard.press("Enter")
    assert page.locator("tr.opened").count() == 1
    assert page.evaluate("document.activeElement.matches('tr.opened button.open')")


REDRAWN = ("button.sort", "button.open", "[role=tab]", ".legend button", "summary", "g.answers", "details .scroll")


@pytest.mark.parametrize("kind", REDRAWN)
def test_what_is_drawn_anew_keeps_the_focus(show: Show, kind: str) -> None:
    page = show(board())
    until(page, "document.querySelector('[role=tab]') !== null")
    if kind.startswith("details"):
        page.locator("section.board summary").last.click()
    mark = "document.activeElement.dataset.key"
    page.locator(f"section.board {kind}").last.focus()
    name = page.evaluate(mark)
    assert name
    page.evaluate("document.activeElement.old = true")
    page.evaluate("location.hash = '#q=e&sort=method&order=descending'")
    until(page, "document.querySelector('[type=search]').value === 'e'")
    assert page.evaluate(mark) == name
    page.set_viewport_size({"width": 500, "height": 900})
    until(page, "document.activeElement.old === undefined")
    page.wait_for_timeout(100)  # what is inserted open says so a moment later
    assert page.evaluate(mark) == name


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_has_a_name_and_can_be_read(show: Show, scheme: str) -> None:
    page = show(board(), "#dataset=games&budget=10", color_scheme=scheme)
    page.locator("button.open").nth(3).click()
    page.get_by_role("checkbox", name="full").uncheck(force=True)
    ground = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert (int(re.findall(r"\d+", ground)[0]) > 128) == (scheme == "light")
    for name in CHARTS:
        tab(page, name)
        assert page.evaluate(UNNAMED) == []
        assert page.evaluate(FAINT) == []


def test_the_theme_is_chosen_and_kept(show: Show) -> None:
    page = show(board(), color_scheme="light")
    button = page.get_by_role("button", name="Theme")
    for name in ("light", "dark"):
        button.click()
        assert button.inner_text() == f"Theme: {name}"
    dark = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    until(page, "localStorage.length > 0")
    page.reload()
    if button.inner_text() != "Theme: dark":  # a browser writes what it keeps a while later
        page.wait_for_timeout(2000)
        page.reload()
    assert button.inner_text() == "Theme: dark"
    assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") == dark


def test_without_storage_all_works_but_memory(show: Show) -> None:
    page = show(board(), script="Object.defineProperty(window, 'localStorage', { get() { throw new Error('no'); } })")
    page.get_by_role("button", name="Theme").click()
    assert page.get_by_role("button", name="Theme").inner_text() == "Theme: light"
    assert page.locator("button.open").count() > 10


def test_a_phone_scrolls_tables_and_not_the_page(show: Show) -> None:
    for shown in (board(), hostile_board()):
        page = show(shown, viewport={"width": 360, "height": 700})
        page.locator("button.open").first.click()
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        for name in ("Accuracy and cost", "Where the time goes"):
            tab(page, name)
            assert page.evaluate("document.documentElement.scrollWidth") == 360
        lead = page.locator("section.board").first.locator("td.lead").first.bounding_box()
        assert lead["x"] + lead["width"] < 360


def test_paper_gets_no_controls(show: Show) -> None:
    page = show(board())
    page.get_by_role("button", name="Theme").click(click_count=2)
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "light"
    assert not page.locator("#filters").is_visible()
    assert page.locator("section.board table").first.is_visible()


def test_the_policy_holds(show: Show) -> None:
    page = show(hostile_board(), allow=("Content Security Policy", "Trusted"))
    tried = page.evaluate(
        """async () => {
          const tried = {};
          const script = document.createElement("script");
          try { script.textContent = "window.broken = true"; document.body.append(script); } catch { tried.inline = "refused"; }
          try { document.body.innerHTML += "<i>x</i>"; } catch { tried.markup = "refused"; }
          try { await fetch("https://example.invalid/x"); } catch { tried.fetch = "refused"; }
          const image = new Image();
          tried.image = await new Promise((done) => { image.onerror = () => done("refused"); image.onload = () => done("loaded"); image.src = "data:image/gif;base64,R0lGODlhAQABAAAAACw="; });
          tried.broken = window.broken ?? "no";
          return tried;
        }"""
    )
    assert tried == {"inline": "refused", "markup": "refused", "fetch": "refused", "image": "refused", "broken": "no"}
    until(page, f"document.querySelectorAll('h2 bdi').length >= {len(HOSTILE)}")
