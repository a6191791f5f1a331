"""Headless Chromium for tests of the page; where there is none, they are skipped and say so."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from prunebench.leaderboard.board import Board
from prunebench.leaderboard.page import board_page

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
Show = Callable[..., Any]


def until(page: Any, condition: str) -> None:
    """Wait for a condition, in JavaScript; by asking, since the page's own policy keeps a browser from waiting for it."""
    end = time.monotonic() + 60
    while not page.evaluate(condition):
        assert time.monotonic() < end, f"never came true: {condition}"
        page.wait_for_timeout(20)


@pytest.fixture(name="chromium", scope="module")
def fixture_chromium() -> Iterator[Any]:
    """One browser for a module."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no browser tests: playwright is not installed")
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"no browser tests: none of {', '.join(NAMES)} is installed")
    with playwright.sync_playwright() as driver:
        try:
            browser = driver.chromium.launch(executable_path=found, args=list(ARGUMENTS))
        except playwright.Error as error:
            pytest.skip(f"no browser tests: {found} does not start: {str(error).splitlines()[0]}")
        yield browser
        browser.close()


@pytest.fixture(name="show")
def fixture_show(chromium: Any, tmp_path: Path) -> Iterator[Show]:
    """``show(board, "#hash", script="", allow=(), **context)`` opens a board's page from a file, without network.

    At the end of the test nothing may have been requested but files, and nothing said on the console but what holds a word
    of ``allow``. ``script`` runs before the page's own.
    """
    said: list[str] = []
    contexts = []

    def opened(board: Board, address: str = "", script: str = "", allow: tuple[str, ...] = (), **options: Any) -> Any:
        path = tmp_path / f"{len(contexts)}.html"
        path.write_text(board_page(board), encoding="utf-8")
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, "offline": True} | options)
        contexts.append(context)
        context.set_default_timeout(60_000)  # a busy machine is no failure
        if script:
            context.add_init_script(script)
        page = context.new_page()

        def heard(text: str) -> None:
            if not any(word in text for word in allow):
                said.append(text)

        page.on("console", lambda message: heard(f"console {message.type}: {message.text}"))
        page.on("pageerror", lambda error: heard(f"error: {error}"))
        page.on("dialog", lambda dialog: (heard(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on(
            "request", lambda request: None if request.url.startswith("file:") else heard(f"request: {request.url}")
        )
        page.goto(path.as_uri() + address)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not said, said
