"""Uploads in parts in a real browser: a broken connection, a pause, a reload, and what a page shows of it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from portal.rls import team_scope
from tests.browser import OVERFLOWING
from tests.datasets_app.files import csv_bytes

sync_api = pytest.importorskip("playwright.sync_api")
pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

PART_BYTES = 8 << 20


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("tables") / "tickets.csv"
    path.write_bytes(csv_bytes([(f"Ticket {number} " + "is broken " * 30, "VPN") for number in range(60_000)]))
    assert 2 * PART_BYTES < path.stat().st_size < 3 * PART_BYTES
    return path


class Network:
    """Notes the parts that a page sends, and breaks the connection when asked to."""

    def __init__(self, page) -> None:
        self.offsets: list[int] = []
        self.breaks = lambda offset: False
        page.route("**/uploads/*/", self._pass)

    def _pass(self, route) -> None:
        request = route.request
        if request.method == "PATCH":
            offset = int(request.headers["upload-offset"])
            self.offsets.append(offset)
            if self.breaks(offset):
                route.abort("connectionreset")
                return
        route.continue_()


def choose(page, table) -> None:
    page.fill("[name=name]", "Tickets")
    page.set_input_files("[name=train_file]", str(table))


def state(page):
    return page.locator("[data-upload-state]").first


def test_a_broken_connection_is_survived(open_page, team, table):
    page = open_page(f"/t/{team.slug}/datasets/import/")
    network = Network(page)
    tries = iter([True, True])
    network.breaks = lambda offset: offset == PART_BYTES and next(tries, False)
    choose(page, table)
    sync_api.expect(state(page)).to_have_text("Uploaded and checked.", timeout=30_000)
    assert network.offsets == [0, PART_BYTES, PART_BYTES, PART_BYTES, 2 * PART_BYTES]
    digest = hashlib.sha256(table.read_bytes()).hexdigest()
    detail = page.locator("[data-upload-detail]").first
    assert detail.inner_text() == f"SHA-256 {digest[:16]}…"
    page.get_by_role("button", name="Upload").click()
    page.wait_for_url("**/mapping/")
    with team_scope(team.pk):
        source = team.sourcefiles.get()
        assert (source.sha256, source.size_bytes) == (digest, table.stat().st_size)
        assert not team.resumableuploads.exists()
    assert page.complaints == []


def test_after_a_reload_the_same_file_goes_on(open_page, team, table):
    page = open_page(f"/t/{team.slug}/datasets/import/")
    network = Network(page)
    network.breaks = lambda offset: offset == PART_BYTES
    choose(page, table)
    sync_api.expect(state(page)).to_contain_text("The connection is lost.", timeout=20_000)
    page.reload()
    assert "stopped at" in page.inner_text("main")
    network.breaks = lambda offset: False
    network.offsets.clear()
    choose(page, table)
    sync_api.expect(state(page)).to_have_text("Uploaded and checked.", timeout=30_000)
    assert network.offsets == [PART_BYTES, 2 * PART_BYTES]  # the first part was not sent again
    page.get_by_role("button", name="Upload").click()
    page.wait_for_url("**/mapping/")
    assert page.complaints == []


def test_pause_and_go_on_and_cancel(open_page, team, table):
    page = open_page(f"/t/{team.slug}/datasets/import/")
    network = Network(page)
    network.breaks = lambda offset: offset == PART_BYTES
    choose(page, table)
    sync_api.expect(state(page)).to_contain_text("The connection is lost.", timeout=20_000)
    page.get_by_role("button", name="Pause").click()
    sync_api.expect(state(page)).to_have_text("Paused.")
    network.breaks = lambda offset: False
    page.get_by_role("button", name="Go on").click()
    sync_api.expect(state(page)).to_have_text("Uploaded and checked.", timeout=30_000)
    page.set_input_files("[name=train_file]", [])
    network.breaks = lambda offset: True
    choose(page, table)
    page.get_by_role("button", name="Cancel", exact=True).first.click()
    sync_api.expect(page.locator("[data-upload-progress]").first).to_be_hidden()


def test_a_form_that_comes_back_keeps_the_file(open_page, team, table):
    page = open_page(f"/t/{team.slug}/datasets/import/")
    choose(page, table)
    sync_api.expect(state(page)).to_have_text("Uploaded and checked.", timeout=30_000)
    page.eval_on_selector("[name=name]", "field => { field.required = false; field.value = ' '; }")
    page.get_by_role("button", name="Upload").click()
    sync_api.expect(page.locator("[data-upload-arrived]")).to_contain_text("“tickets.csv”")
    page.fill("[name=name]", "Tickets")
    page.get_by_role("button", name="Upload").click()
    page.wait_for_url("**/mapping/")


def test_what_does_not_fit_is_said(open_page, team, table, settings):
    settings.MAX_DATASET_BYTES = 1_000_000
    page = open_page(f"/t/{team.slug}/datasets/import/")
    choose(page, table)
    sync_api.expect(page.locator("#toasts")).to_contain_text("larger than 1 MB", timeout=10_000)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_while_a_file_is_on_its_way(open_page, team, table, theme, width):
    page = open_page(f"/t/{team.slug}/datasets/import/", width=width, theme=theme)
    network = Network(page)
    network.breaks = lambda offset: offset == PART_BYTES
    choose(page, table)
    sync_api.expect(state(page)).to_contain_text("The connection is lost.", timeout=20_000)
    page.locator("summary", has_text="Validation and test files").click()
    assert page.evaluate(OVERFLOWING) <= 0
    assert page.complaints == []
