"""Rows, comparisons and the picture of a dataset in a real browser: with scripts, and in both widths and themes."""

from __future__ import annotations

import pytest

from datasets_app import row_changes
from portal.rls import team_scope
from tests.browser import OVERFLOWING
from tests.datasets_app.test_derive import derive

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


def test_rows_are_found_and_changed(open_page, team, ready_version):
    page = open_page(f"/t/{team.slug}/dataset-versions/{ready_version.pk}/")
    page.fill("#rows-q", "vpn")
    page.get_by_role("button", name="Search").click()
    page.wait_for_url("**q=vpn**")
    assert page.locator("#rows tbody tr").count() == 6
    page.locator("#rows input[type=checkbox]").first.check()
    page.get_by_role("button", name="Exclude").click()
    page.wait_for_selector(".changes-bar")
    assert "q=vpn" in page.url
    assert "1 excluded" in page.inner_text(".changes-bar")
    page.locator("#rows .row-name a").nth(1).click()
    page.wait_for_selector("#prompt")
    page.fill("#prompt", "The VPN is slow")
    page.get_by_role("button", name="Note this change").click()
    page.wait_for_selector(".pieces ins")
    page.get_by_role("link", name="Review all changes").click()
    page.wait_for_selector(".change-list")
    assert page.locator(".change-item").count() == 2
    assert page.complaints == []


def test_pages_fit_everywhere(open_page, team, world, ready_version, actor):
    made = derive(ready_version, actor, {"op": "replace", "id": 1, "prompt": "x" * 300}, note="A word without an end")
    with team_scope(team.pk):
        row_changes.change_rows(version=made, actor=actor, changes={1: {"prompt": "y" * 300}, 2: {"is_excluded": True}})
    dataset, version = f"/t/{team.slug}/datasets/{made.dataset_id}/", f"/t/{team.slug}/dataset-versions/{made.pk}/"
    for path in (dataset, f"{dataset}diff/", version, f"{version}rows/1/", f"{version}changes/"):
        for width in (1280, 390):
            page = open_page(path, width=width)
            assert page.evaluate(OVERFLOWING) <= 0, (path, width)
            assert page.complaints == []
            page.context.close()
