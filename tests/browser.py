"""Chromium for tests of pages: one browser, pages opened as a person, and what a page may not do."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-sync"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-quic"]
OVERFLOWING = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
# Tables whose rows are stacked on phones and that stick out of their card all the same.
CUT_OFF = """() => [...document.querySelectorAll(".table-responsive:has(> .table-stacked)")]
    .filter(box => innerWidth < 760 && box.scrollWidth > box.clientWidth + 1).map(box => box.ariaLabel)"""
# Two frames: what a script changes when the window changes is drawn.
DRAWN = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
# Ends as wide and as light as pages are opened.
LOOKS = [(390, "light"), (390, "dark"), (1280, "dark"), (1280, "light")]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """One Chromium for the module; skips, or fails where REQUIRE_BROWSER is set, if there is none."""
    names = ("chromium", "chromium-browser", "google-chrome")
    path = os.environ.get("CHROMIUM") or next((found for name in names if (found := shutil.which(name))), None)
    if path is None:
        (pytest.fail if os.environ.get("REQUIRE_BROWSER") else pytest.skip)("no Chromium: apt-get install chromium")
    # The synchronous client keeps an event loop in this thread, which Django's ORM would refuse.
    before = os.environ.get("DJANGO_ALLOW_ASYNC_UNSAFE")
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()
    if before is None:
        del os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"]


def complaints_of(page: Any) -> list[str]:
    """Return a list that fills with what the page's console complains about, failed addresses aside."""
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))

    def note(message: Any) -> None:
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            complaints.append(message.text)

    page.on("console", note)
    return complaints


def fits(page: Any, name: str) -> None:
    """Look at a loaded page wide and narrow, light and dark: nothing may stick out, nothing be complained about.

    Pictures go to the folder that SCREENSHOTS names.
    """
    folder = os.environ.get("SCREENSHOTS")
    for width, theme in LOOKS:
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=theme)
        page.evaluate(DRAWN)
        assert page.evaluate(OVERFLOWING) <= 0, (name, width)
        assert page.evaluate(CUT_OFF) == [], (name, width)
        if folder:
            page.screenshot(path=Path(folder) / f"{name}-{width}-{theme}.png", full_page=True)
    assert page.complaints == [], name


@pytest.fixture
def open_page(chromium, live_server, client_for, alice):
    """Return a function that opens a page as Alice: `open_page(path, width=…, theme=…)`."""
    contexts = []

    def show(path: str, *, width: int = 1280, theme: str = "light", scripts: bool = True) -> Any:
        context = chromium.new_context(
            viewport={"width": width, "height": 900}, color_scheme=theme, java_script_enabled=scripts
        )
        contexts.append(context)
        session = client_for(alice).cookies["sessionid"].value
        context.add_cookies([{"name": "sessionid", "value": session, "url": live_server.url}])
        page = context.new_page()
        page.complaints = complaints_of(page)
        page.goto(live_server.url + path, wait_until="networkidle")
        return page

    yield show
    for context in contexts:
        context.close()
