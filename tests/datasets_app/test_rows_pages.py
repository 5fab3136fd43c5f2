"""The rows of a version in the browser: search, one row, waiting changes, and the version that they become."""

from __future__ import annotations

import html
import json

import numpy as np
import pytest

from datasets_app import tasks
from datasets_app.models import DatasetVersion
from portal.models import AuditEvent, Role
from portal.rls import all_teams, team_scope
from tests.datasets_app.test_derive import derive, fresh, rows_of
from tests.datasets_app.test_pages import text_of


@pytest.fixture
def base(ready_version) -> str:
    return f"/t/service-desk/dataset-versions/{ready_version.pk}/"


@pytest.fixture
def browser(team, alice, client_for):
    return client_for(alice)


@pytest.fixture
def viewer(team, bob, client_for):
    return client_for(bob)


def waiting(version: DatasetVersion) -> dict[int, tuple]:
    with team_scope(version.team_id):
        return {
            one.row_id: (one.texts, one.is_excluded, one.moved_to)
            for one in version.row_changes.select_related("changed_by")
        }


def test_search_and_filter(browser, base):
    page = browser.get(base)
    assert 'value="[&quot;service&quot;, &quot;VPN&quot;]"' in page.content.decode()
    found = text_of(browser.get(base, {"q": "ticket 2"}))
    assert "Ticket 2:" in found
    assert "Ticket 21:" in found  # of another split
    assert "Ticket 1:" not in found
    only = text_of(browser.get(base, {"q": "ticket 2", "split": "train"}))
    assert "Ticket 21:" not in only
    vpn = text_of(browser.get(base, {"field": json.dumps(["service", "VPN"])}))
    assert "VPN is broken" in vpn
    assert "Mail is broken" not in vpn
    assert "No row fits" in text_of(browser.get(base, {"q": "nothing like this"}))
    assert "Ticket 4:" in text_of(browser.get(base, {"ids": "5,9999"}))


def test_more_rows_than_a_page_are_reached(browser, base):
    first = browser.get(base, {"q": "ticket"}).content.decode()
    address = html.unescape(first.split('rel="next" href="')[1].split('"')[0])
    assert "after=validation%3A0" in address
    assert "Ticket 23:" in text_of(browser.get(base + address.split("#")[0]))


@pytest.mark.parametrize(
    "query", [{"after": "x"}, {"after": "test:99999"}, {"field": "["}, {"field": "[1]"}, {"ids": "x,,1e9"}, {"q": "\0"}]
)
def test_nonsense_in_the_address_shows_a_page(browser, base, query):
    assert browser.get(base, {"q": "ticket", **query}).status_code == 200


def test_a_row_is_changed_by_its_fields(browser, base, ready_version):
    page = browser.get(f"{base}rows/1/").content.decode()
    assert '<option value="VPN" selected>VPN</option>' in page
    assert "Mail" in page
    sent = {"seen": "none", "as": "fields", "system": "", "prompt": "Ticket 0: new", "split": "train"}
    answer = browser.post(f"{base}rows/1/change/", {**sent, "field-0": "Wiki", "field-1": "Low"})
    assert answer.status_code == 302
    assert waiting(ready_version) == {
        1: ({"prompt": "Ticket 0: new", "answer": '{"service": "Wiki", "urgency": "Low"}'}, False, "")
    }
    assert "1 row edited" in text_of(browser.get(base))
    page = browser.get(f"{base}rows/1/").content.decode()
    assert "<del>VPN</del><ins>Wiki</ins>" in page
    browser.post(f"{base}rows/1/change/", {"do": "undo"})
    assert waiting(ready_version) == {}


def test_a_row_is_changed_as_text(browser, base, ready_version):
    page = browser.get(f"{base}rows/2/?raw=1").content.decode()
    assert "<textarea" in page
    sent = {
        "seen": "none",
        "as": "raw",
        "prompt": "Ticket",
        "answer": '{"x": 1}',
        "system": "Be brief.",
        "split": "test",
    }
    browser.post(f"{base}rows/2/change/", sent)
    assert waiting(ready_version)[2] == (
        {"prompt": "Ticket", "answer": '{"x": 1}', "system": "Be brief."}, False, "test",
    )  # fmt: skip


def test_line_ends_that_the_browser_changed_are_no_change(browser, base, ready_version, actor):
    made = derive(ready_version, actor, {"op": "replace", "id": 2, "prompt": "One\r\ntwo\nthree"})
    page = base.replace(str(ready_version.pk), str(made.pk))
    sent = {"seen": "none", "as": "raw", "prompt": "One\r\ntwo\r\nthree", "split": "test"}
    browser.post(f"{page}rows/2/change/", sent)
    assert waiting(made) == {2: ({}, False, "test")}


def test_what_is_refused_is_shown_with_what_was_typed(browser, base, ready_version):
    refused = browser.post(
        f"{base}rows/2/change/", {"seen": "none", "as": "raw", "prompt": " ", "answer": "Kept words"}
    )
    assert refused.status_code == 400
    assert "must not be empty" in text_of(refused)
    assert "Kept words" in refused.content.decode()
    assert waiting(ready_version) == {}
    late = browser.post(f"{base}rows/2/change/", {"seen": "2026-01-01", "as": "raw", "prompt": "Mine", "answer": "x"})
    assert late.status_code == 409
    assert "Somebody else changed this row" in text_of(late)


def test_rows_are_changed_together_and_saved(browser, base, ready_version):
    answer = browser.post(f"{base}rows/", {"row": ["2", "3"], "do": "exclude", "back": "split=train&next=//evil"})
    assert answer.headers["Location"] == f"{base}?split=train#rows"
    browser.post(f"{base}rows/", {"row": ["4"], "do": "test"})
    browser.post(f"{base}rows/", {"row": ["3"], "do": "keep"})
    assert waiting(ready_version) == {2: ({}, True, ""), 4: ({}, False, "test")}
    review = text_of(browser.get(f"{base}changes/"))
    assert "Row 2" in review
    assert "Row 4" in review
    saved = browser.post(f"{base}changes/save/", {"note": "Cleaned"})
    with all_teams("test"):
        made = DatasetVersion.unscoped.get(number=2)
    assert saved.headers["Location"] == f"/t/service-desk/dataset-versions/{made.pk}/"
    assert "The rows of v1 are copied" in text_of(browser.get(saved.headers["Location"]))
    tasks.import_version(str(made.pk))
    assert 2 not in rows_of(fresh(made))
    assert "Cleaned" in text_of(browser.get(saved.headers["Location"]))
    assert "No changes wait" in text_of(browser.get(f"{base}changes/"))
    assert "No changes wait to be saved" in text_of(browser.post(f"{base}changes/save/", follow=True))


def test_discarding_asks_first(browser, base, ready_version):
    browser.post(f"{base}rows/", {"row": ["2"], "do": "exclude"})
    assert "Discard all changes?" in text_of(browser.get(f"{base}changes/discard/"))
    assert waiting(ready_version)
    assert "1 change is discarded" in text_of(browser.post(f"{base}changes/discard/", follow=True))
    assert waiting(ready_version) == {}


@pytest.mark.parametrize("form", [{}, {"row": "x"}, {"row": "99", "do": "exclude"}, {"row": "1", "do": "burn"}])
def test_nonsense_changes_nothing(browser, base, ready_version, form):
    answer = browser.post(f"{base}rows/", form, follow=True)
    assert answer.status_code == 200
    assert waiting(ready_version) == {}


def test_viewers_look_and_change_nothing(browser, viewer, base, ready_version):
    browser.post(f"{base}rows/", {"row": ["2"], "do": "exclude"})
    for path in ("", "rows/1/", "changes/"):
        page = viewer.get(base + path).content.decode()
        assert "/change/" not in page or "disabled" in page
        assert "Save as new version" not in page
    for path in ("rows/1/change/", "rows/", "changes/save/", "changes/discard/"):
        assert viewer.post(base + path).status_code == 403
    with all_teams("test"):
        assert AuditEvent.objects.filter(action="dataset.rows_read", actor="bob@example.org").count() == 3
        assert ready_version.team.memberships.filter(role=Role.VIEWER).exists()


def test_rows_that_are_not_there(browser, base):
    assert browser.get(f"{base}rows/99/").status_code == 404
    assert browser.post(f"{base}rows/99/change/", {"do": "exclude"}).status_code == 404
    assert browser.get(f"{base}rows/99999999999999999999999/").status_code == 404


def test_rows_of_a_finding(browser, base, ready_version):
    from datasets_app.doctor.report import Report, write_ids
    from datasets_app.models import DoctorReport

    with all_teams("test"):
        report = DoctorReport.unscoped.filter(version=ready_version).first() or ready_version.doctor_reports.create(
            team=ready_version.team
        )
        DoctorReport.unscoped.filter(pk=report.pk).update(
            status=DoctorReport.Status.READY, report=Report(rows={"train": 20}).to_dict()
        )
    report.folder.mkdir(parents=True, exist_ok=True)
    write_ids(report.folder, "conflicts", np.array([3, 22]))
    found = text_of(browser.get(base, {"finding": "conflicts"}))
    assert "Ticket 2:" in found
    assert "Ticket 21:" in found
    assert "Ticket 1:" not in found
    for nonsense in ("nothing", "../conflicts", ""):
        assert "Ticket 1:" in text_of(browser.get(base, {"finding": nonsense}))
