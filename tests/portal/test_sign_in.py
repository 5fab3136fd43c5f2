"""Signing in and out, and who sees which page."""

from __future__ import annotations

from django.core.cache import cache
from django.test import Client

from tests.cast import PASSWORD


def sign_in(email: str, password: str) -> Client:
    client = Client()
    client.answer = client.post("/login/", {"login": email, "password": password})
    return client


def test_right_and_wrong_passwords(alice, team):
    cache.clear()
    assert sign_in("Alice@Example.org", PASSWORD).answer.status_code == 302
    wrong, nobody = sign_in("alice@example.org", "no"), sign_in("nobody@example.org", "no")
    for refused in (wrong, nobody):
        assert "do not match" in refused.answer.content.decode()
    assert wrong.get("/").status_code == 302


def test_home_leads_to_the_only_team_and_lets_choose_among_several(client_for, alice, charlie, team, other_team):
    assert client_for(alice).get("/")["Location"] == f"/t/{team.slug}/"
    from portal.models import Role
    from portal.rls import team_scope

    with team_scope(team.pk):
        team.memberships.create(user=charlie, role=Role.VIEWER)
    page = client_for(charlie).get("/").content.decode()
    assert "Finance" in page
    assert "Service Desk" in page


def test_a_person_without_a_team_is_told_so(client_for, bob):
    assert client_for(bob).get("/").status_code == 200


def test_sign_out_needs_a_post(client_for, alice, team):
    browser = client_for(alice)
    assert "Sign out?" in browser.get("/logout/").content.decode()
    assert browser.post("/logout/").status_code == 302
    assert browser.get(f"/t/{team.slug}/")["Location"].startswith("/login/")


def test_pages_are_hardened(client_for, alice, team):
    page = client_for(alice).get(f"/t/{team.slug}/")
    policy = page["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert page["Cache-Control"] == "no-store"
    assert page["X-Content-Type-Options"] == "nosniff"
    assert page["x-request-id"].startswith("req_")


def test_members_lists_the_team_only(client_for, alice, charlie, team, other_team):
    page = client_for(alice).get(f"/t/{team.slug}/members/").content.decode()
    assert "bob@example.org" in page
    assert "charlie@example.org" not in page
    assert client_for(charlie).get(f"/t/{team.slug}/members/").status_code == 404
    assert client_for(alice).get("/t/no-such-team/members/").status_code == 404


def test_errors_speak_json_to_programs_and_html_to_people(client, api):
    page = client.get("/no-such-page/")
    assert page.status_code == 404
    assert "text/html" in page["Content-Type"]
    for path in ("/api/nothing/", "/v1/nothing"):
        answer = client.get(path)
        assert (answer.status_code, set(answer.json()["error"])) == (404, {"message", "type", "param", "code"})
    assert api.post("/api/base-models/").json()["error"]["code"] == "method_not_allowed"
    assert api.post("/api/runs/", "{", content_type="application/json").json()["error"]["code"] == "invalid_json"


def test_a_body_over_the_limit_is_refused_before_it_is_read(client, settings):
    settings.MAX_UPLOAD_BYTES = 1000
    answer = client.post("/api/datasets/", b"x" * 2_000_000, content_type="application/octet-stream")
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")


def test_a_form_of_unknown_length_is_asked_for_its_length(client, db):
    chunked = {"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True, "CONTENT_LENGTH": ""}
    answer = client.generic("POST", "/accounts/login/", "login=x", "application/x-www-form-urlencoded", **chunked)
    assert (answer.status_code, b"Content-Length" in answer.content) == (411, True)


def test_health(client, db):
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ok"}


def test_the_api_document_needs_a_person_or_a_token(client, client_for, alice, team, api):
    assert client.get("/api/schema/").status_code == 401
    assert api.get("/api/schema/").status_code == 200
    assert client_for(alice).get("/api/schema/").status_code == 200
    assert client.get("/api/docs/").status_code == 302
    assert client_for(alice).get("/api/docs/").status_code == 200


def test_the_page_about_a_broken_server_asks_nothing_of_the_database(rf):
    from portal.views.errors import server_error

    page = server_error(rf.get("/"))  # without the db fixture, any query would raise
    assert page.status_code == 500
    assert "went wrong" in page.content.decode()
