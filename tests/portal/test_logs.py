"""Logs hold ids and numbers: no credentials, no tickets, no forged lines (T-LG1, T-LG2)."""

from __future__ import annotations

import io
import json
import logging
import logging.config
import time

import pytest
from django.conf import settings
from django.http import Http404
from django.test import Client
from django.urls import reverse
from django_q.conf import logger as queue_logger

from datasets_app import services as dataset_services
from datasets_app import tasks
from portal import logs, secrets
from portal.errors import InvalidInput
from portal.models import AuditEvent
from portal.rls import team_scope
from tests.ready import write_csv

TICKET = "CANARY-TICKET printer on floor 7 burns"
SECRET = "canary-secret-hunter2"


@pytest.fixture(params=["line", "json"])
def written(request):
    """What the console shows of everything that is logged at any level, in either format."""
    formatter = {"line": logs.LineFormatter, "json": logs.JsonFormatter}[request.param]()
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    loggers = [logging.getLogger(), queue_logger, logs.access]
    before = [logger.level for logger in loggers]
    for logger in loggers[:2]:
        logger.addHandler(handler)
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
    stream.format = request.param
    yield stream
    for logger, level in zip(loggers, before, strict=True):
        logger.removeHandler(handler)
        logger.setLevel(level)


def lines(stream) -> list[str]:
    return [line for line in stream.getvalue().splitlines() if not line.startswith("    ")]


def test_each_request_leaves_one_line_with_its_facts_and_no_address(written, team, alice, client_for):
    answer = client_for(alice).get(f"/t/{team.slug}/members/?q={SECRET}", headers={"X-Request-ID": "req_12345678"})
    assert answer.status_code == 200
    (line,) = [line for line in lines(written) if "portal.access_log" in line]
    for fact in ("req_12345678", "portal:members", str(team.pk), str(alice.pk), "200"):
        assert fact in line
    assert SECRET not in written.getvalue()
    assert team.slug not in line
    if written.format == "json":
        entry = json.loads(line)
        assert (entry["status"], entry["method"], entry["route"]) == (200, "GET", "portal:members")
        assert isinstance(entry["duration_ms"], int)


def test_programs_are_known_by_their_token(written, team, api, world):
    api.get(reverse("datasets-api:list"))
    (line,) = [line for line in lines(written) if "portal.access_log" in line]
    assert str(world.token.pk) in line
    assert str(team.pk) in line


@pytest.fixture
def broken(monkeypatch):
    """A page and an API view that fail with the ticket and a credential in their words."""

    def fail(*_args, **_more):
        raise RuntimeError(f"cannot learn {TICKET} with password={SECRET}")

    monkeypatch.setattr("portal.views.people.render", fail, raising=False)
    monkeypatch.setattr("portal.views.secrets.render", fail)
    monkeypatch.setattr("datasets_app.api._datasets", fail)


def test_canaries_on_every_path_reach_neither_logs_nor_the_trail(
    written, team, alice, actor, client_for, api, token, broken, tmp_path, settings
):
    settings.DEBUG_PROPAGATE_EXCEPTIONS = False
    browser = client_for(alice)
    browser.raise_request_exception = api.raise_request_exception = False
    # success, with the ticket in the body and the secret in a form
    with team_scope(team.pk):
        secrets.store(team=team, kind="hub_token", name="hub", text=SECRET, actor=actor)
        path = write_csv(tmp_path / "train.csv", [(f"{TICKET} {n}", f'{{"a": "{n}"}}') for n in range(30)])
        version = dataset_services.import_files(team=team, actor=actor, name="Tickets", files={"train": path})
    tasks.import_version(str(version.pk))
    browser.get(reverse("datasets:version", args=[team.slug, version.pk]))
    # 4xx: a wrong form, a stranger's address, a refused sign-in, a bad body, a dead token
    browser.post(reverse("portal:secrets", args=[team.slug]), {"kind": "x", "name": "?", "text": SECRET})
    browser.get(f"/t/{TICKET}/?token={token}")
    browser.get(f"/nowhere/{SECRET}/")
    Client().post("/login/", {"login": "alice@example.org", "password": SECRET})
    api.post(reverse("openai:chat"), {"model": "none", "messages": [{"role": "user", "content": TICKET}]})
    api.post(reverse("openai:chat"), data=f'{{"messages": "{TICKET}', content_type="application/json")
    Client(headers={"Authorization": f"Bearer tnp_{'0' * 16}_{SECRET}"}).get(reverse("datasets-api:list"))
    # 5xx on a page and in the API
    assert browser.get(reverse("portal:secrets", args=[team.slug])).status_code == 500
    assert api.get(reverse("datasets-api:list")).status_code == 500
    # a task that fails, as the queue reports it
    queue_logger.error(
        f"Failed 'one-two' (datasets_app.tasks.import_version) - {TICKET} : Traceback (most recent call last):\n"
        f'  File "/app/x.py", line 3, in run\n    raise ValueError("{SECRET}")\nValueError: {TICKET} {SECRET}\n'
    )
    # a worker's exception that quotes the row
    try:
        raise ValueError(f"row {TICKET} has {SECRET}")
    except ValueError:
        logging.getLogger("gpu_worker.supervisor").exception("run %s: the supervisor failed", "17")
    text = written.getvalue()
    for canary in (TICKET, "CANARY-TICKET", SECRET, "hunter2", token):
        assert canary not in text
        assert canary not in str(list(AuditEvent.objects.values()))
    # … and yet one can see what failed, and where
    assert "RuntimeError" in text
    assert "run 17: the supervisor failed" in text
    assert "ValueError" in text
    assert "/app/x.py:3 in run" in text
    assert "test_logs.py" in text


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer abcdefghijkl",
        "{'Authorization': 'Token hunter2-hunter2'}",
        "Cookie: sessionid=hunter2hunter2; csrftoken=hunter2",
        "password=hunter2hunter2&next=/",
        '{"password": "hunter2hunter2"}',
        "TUNEPORT_SECRET_KEY=hunter2hunter2",
        "postgresql://portal:hunter2hunter2@db/tuneport",
        "hf_hunter2hunter2",
        f"tnp_{'0' * 16}_hunter2hunter2",
        "GET /login/?next=hunter2hunter2",
        "eyJhbGciOiJIUzI1NiJ9.hunter2hunter2.hunter2hunter2",
        "api_key='hunter2hunter2'",
    ],
)
def test_credentials_are_blanked_by_their_shape(text):
    assert "hunter2" not in logs.redacted(text)
    assert "…" in logs.redacted(text)


def test_plain_words_stay(settings):
    text = "run 17 step 3 loss 1.2345, 4 tokens a second, adapter-0f3 is loaded from /data/teams/x"
    assert logs.redacted(text) == text
    assert logs.redacted("mail to anna.k@example.org") == "mail to a…@example.org"
    settings.LOG_EMAILS = True
    assert logs.redacted("mail to anna.k@example.org") == "mail to anna.k@example.org"


@pytest.mark.parametrize("piece", ["a-", "/", "/a", "password", "eyJaaaaaaaa-", "a.", "://a:", "cookie "])
def test_long_texts_of_strangers_cost_no_time(piece, monkeypatch):
    def seconds(length: int) -> float:
        began = time.perf_counter()
        logs.redacted((piece * length)[:length])
        return time.perf_counter() - began

    assert seconds(1_000_000) < 0.5
    monkeypatch.setattr(logs, "LONGEST_TEXT", 100_000)  # the shapes themselves, without the cut before them
    if piece in ("a-", "/"):
        assert seconds(8_000) < 0.5


def test_a_long_text_is_cut_where_no_half_credential_stays():
    text = "x " * 2040 + "postgresql://portal:hunter2hunter2hunter2@db/tuneport and more"
    assert "hunter2" not in logs.redacted(text)
    assert logs.redacted(text).endswith("x …")
    assert len(logs.redacted("word " * 9000)) <= logs.LONGEST_TEXT + 2


@pytest.mark.parametrize(
    ("route", "key"),
    [
        ("portal:invitation", {"token": "canary-live-key"}),
        ("account_reset_password_from_key", {"uidb36": "1", "key": "canary-live-key"}),
    ],
)
def test_a_form_without_its_cookie_leaves_no_address_in_the_log(db, written, route, key):
    path = reverse(route, kwargs=key)
    assert Client(enforce_csrf_checks=True).post(path).status_code == 403
    referrer = f"https://tuneport.example.org{path}"
    secure = {"secure": True, "HTTP_REFERER": referrer}
    assert Client(enforce_csrf_checks=True).post(path, **secure).status_code == 403
    assert "canary-live-key" not in written.getvalue()
    assert "django.security.csrf" in written.getvalue()
    assert "CSRF cookie not set." in written.getvalue()
    assert "Referer checking failed" in written.getvalue()


def test_suspicious_requests_leave_their_kind(written):
    logging.getLogger("django.security.SuspiciousFileOperation").error("path canary-live-key is outside")
    logging.getLogger("django.security.DisallowedHost").error("Invalid HTTP_HOST header: %r.", "other.example.org")
    assert "canary-live-key" not in written.getvalue()
    assert "SuspiciousFileOperation" in written.getvalue()
    assert "other.example.org" in written.getvalue()


@pytest.mark.parametrize("forged", ["\r\n2026 ERROR forged", "\n", "\x1b[2J", "\u2028", "\x00", "\x85"])
def test_nobody_forges_a_line(written, forged):
    logging.getLogger("portal.test").warning("name %s", f"a{forged}b")
    logging.getLogger("portal.test").warning(f"name a{forged}b")
    assert len(written.getvalue().splitlines()) == 2
    assert forged not in written.getvalue().replace("\n", "", 2).rstrip("\n")


def test_kinds_of_failures_and_their_words():
    def failure(error: Exception) -> str:
        try:
            raise error
        except type(error):
            import sys

            record = logging.LogRecord("x", logging.ERROR, "", 0, "m", (), sys.exc_info())
        return logs.failure_of(record)[0]

    assert failure(FileNotFoundError(2, "No such file")) == "FileNotFoundError: [Errno 2] No such file"
    assert failure(InvalidInput(f"bad {TICKET}")) == "InvalidInput (invalid_value)"
    assert failure(Http404(TICKET)) == "Http404"
    assert failure(KeyError(TICKET)) == "KeyError"


def test_the_settings_use_these_formatters():
    assert {options["()"] for options in settings.LOGGING["formatters"].values()} == {
        "portal.logs.LineFormatter",
        "portal.logs.JsonFormatter",
    }
    logging.config.DictConfigurator(settings.LOGGING).configure_formatter(settings.LOGGING["formatters"]["json"])
