"""Production refuses to start on weak settings (T-CF1); every answer wears its headers (T-CF2); strangers see nothing
of how it is made (T-CF3)."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from ipaddress import ip_network

import pytest
from django.conf import settings
from django.db import InterfaceError, OperationalError
from django.test import Client, RequestFactory
from django.urls import reverse

from portal import middleware
from portal.client_address import client_address
from portal.models import User
from tests.forked import Forked
from tests.processes import environment

pytestmark = pytest.mark.slow

SAFE = {
    "TUNEPORT_ENV": "production",
    "TUNEPORT_SECRET_KEY": secrets.token_urlsafe(48),
    "TUNEPORT_TOKEN_PEPPER": secrets.token_urlsafe(48),
    "TUNEPORT_SECRETS_KEY": secrets.token_urlsafe(48),
    "TUNEPORT_ALLOWED_HOSTS": "tuneport.example.org",
}


def start(tmp_path, *command: str, **changes: str | None) -> tuple[int, str, str]:
    """Run a command of manage.py in production, with some settings changed (None: left out); return code and output."""
    wanted = {
        **SAFE,
        "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none",
        "TUNEPORT_DATA_DIR": str(tmp_path),
        **changes,
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TUNEPORT_")}
    variables = {**kept, **{name: value for name, value in wanted.items() if value is not None}}
    code = "import sys; from django.core.management import execute_from_command_line as run; run(sys.argv)"
    process = Forked(
        [sys.executable, "-c", code, *command],
        env={**variables, "DJANGO_SETTINGS_MODULE": "portal.settings"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
    )
    output, errors = process.communicate(timeout=120)
    return process.wait(), output, errors


def test_check_deploy_is_clean(tmp_path):
    code, output, errors = start(tmp_path, "check", "--deploy", "--fail-level", "DEBUG")
    assert code == 0, errors
    assert "no issues" in output


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"TUNEPORT_SECRET_KEY": None}, "TUNEPORT_SECRET_KEY"),
        ({"TUNEPORT_SECRET_KEY": ""}, "TUNEPORT_SECRET_KEY"),
        ({"TUNEPORT_SECRET_KEY": "x" * 49}, "TUNEPORT_SECRET_KEY"),
        ({"TUNEPORT_SECRET_KEY": "x" * 60}, "random"),
        ({"TUNEPORT_SECRET_KEY": "change-me-" * 6}, "random"),
        ({"TUNEPORT_TOKEN_PEPPER": None}, "TUNEPORT_TOKEN_PEPPER"),
        ({"TUNEPORT_TOKEN_PEPPER": "short"}, "TUNEPORT_TOKEN_PEPPER"),
        ({"TUNEPORT_SECRETS_KEY": None}, "TUNEPORT_SECRETS_KEY"),
        ({"TUNEPORT_SECRETS_KEY": SAFE["TUNEPORT_SECRET_KEY"]}, "differ"),
        ({"TUNEPORT_OLD_SECRETS_KEYS": "short"}, "TUNEPORT_OLD_SECRETS_KEYS"),
        ({"TUNEPORT_DEBUG": "1"}, "TUNEPORT_DEBUG"),
        ({"TUNEPORT_ALLOWED_HOSTS": None}, "TUNEPORT_ALLOWED_HOSTS"),
        ({"TUNEPORT_ALLOWED_HOSTS": "*"}, "TUNEPORT_ALLOWED_HOSTS"),
        ({"TUNEPORT_ALLOWED_HOSTS": "a.example.org,*"}, "TUNEPORT_ALLOWED_HOSTS"),
        ({"TUNEPORT_ALLOWED_HOSTS": ".org"}, "TUNEPORT_ALLOWED_HOSTS"),
        ({"TUNEPORT_ENV": "prod"}, "TUNEPORT_ENV"),
        ({"TUNEPORT_LOG_FORMAT": "xml"}, "TUNEPORT_LOG_FORMAT"),
    ],
)
def test_production_refuses_to_start(tmp_path, changes, said):
    code, _output, errors = start(tmp_path, "check", **changes)
    assert code != 0
    assert said in errors.splitlines()[-1]
    assert not any(value and len(value) > 20 and value in errors for value in changes.values())


def test_development_needs_nothing_and_processes_that_start_together_agree_on_secrets(tmp_path):
    nothing = dict.fromkeys(SAFE)
    code = "from django.conf import settings as s; print(s.SECRET_KEY, s.TOKEN_PEPPER, s.SECRETS_KEY)"
    kept = {name: value for name, value in os.environ.items() if name not in nothing}
    variables = {**kept, "TUNEPORT_DATA_DIR": str(tmp_path), "DJANGO_SETTINGS_MODULE": "portal.settings"}
    started = [
        Forked([sys.executable, "-c", code], env=variables, stdout=subprocess.PIPE, cwd=tmp_path) for _one in range(3)
    ]
    said = {process.communicate(timeout=120)[0] for process in started}
    assert len(said) == 1
    assert len(set(said.pop().split())) == 3
    assert (tmp_path / "secrets.json").stat().st_mode & 0o777 == 0o600


def test_a_new_installation_has_no_admin_and_no_door_for_strangers(db):
    assert not User.objects.exists()
    page = Client().get(reverse("account_signup"))
    assert "password1" not in page.content.decode()
    Client().post(
        reverse("account_signup"),
        {"email": "x@example.org", "password1": "correct horse 1", "password2": "correct horse 1"},
    )
    assert not User.objects.exists()


# --- headers -------------------------------------------------------------------------------------------------------


@pytest.fixture
def answers(world, client_for, alice, paula, api, monkeypatch):
    """One answer of every kind, by name."""
    browser, team = client_for(alice), world.team.slug
    browser.raise_request_exception = False
    broken = client_for(alice)
    broken.raise_request_exception = False

    def fail(*_arguments, **_more):
        raise RuntimeError("why it failed is nobody's business")

    found = {
        "sign-in": Client().get("/login/"),
        "health": Client().get("/healthz"),
        "page": browser.get(f"/t/{team}/"),
        "console": client_for(paula).get("/platform/"),
        "redirect": Client().get("/"),
        "missing": Client().get("/no/such/page/"),
        "stranger": browser.get("/platform/"),
        "download": browser.get(f"/t/{team}/audit.csv"),
        "csrf": Client(enforce_csrf_checks=True).post("/login/", {}),
        "method": browser.get(reverse("portal:end_impersonation")),
        "api": api.get(reverse("datasets-api:list")),
        "api missing": api.get("/v1/no-such-thing"),
        "api refused": Client().get(reverse("datasets-api:list")),
        "api schema": browser.get("/api/schema/"),
        "too large": Client().post("/login/", HTTP_CONTENT_LENGTH="1", CONTENT_LENGTH=str(10**12)),
    }
    monkeypatch.setattr("portal.views.secrets.render", fail)
    monkeypatch.setattr("datasets_app.api._datasets", fail)
    api.raise_request_exception = False
    found["failure"] = broken.get(f"/t/{team}/secrets/")
    found["api failure"] = api.get(reverse("datasets-api:list"))
    return found


def test_every_kind_of_answer_wears_its_headers(answers):
    for name, answer in answers.items():
        headers = answer.headers
        policy = headers.get("Content-Security-Policy", "")
        assert "default-src 'self'" in policy, name
        assert "frame-ancestors 'none'" in policy, name
        assert "unsafe" not in policy, name
        assert headers.get("X-Content-Type-Options") == "nosniff", name
        assert headers.get("X-Frame-Options") == "DENY", name
        assert headers.get("Referrer-Policy") == "same-origin", name
        assert headers.get("Cross-Origin-Opener-Policy") == "same-origin", name
        assert "no-store" in headers.get("Cache-Control", ""), name
        assert headers.get("x-request-id"), name


def test_static_files_wear_them_too_and_may_be_kept(settings):
    settings.WHITENOISE_AUTOREFRESH = settings.WHITENOISE_USE_FINDERS = True
    answer = Client().get("/static/css/tokens.css")
    assert answer.status_code == 200
    assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert "no-store" not in answer.headers.get("Cache-Control", "")
    assert Client().get("/static/../manage.py").status_code == 404


def test_failures_say_nothing_of_how_it_is_made(answers):
    for name in ("failure", "api failure", "missing", "api missing", "csrf"):
        text = answers[name].content.decode()
        for leak in ("Traceback", "RuntimeError", "nobody's business", "portal.views", "Django", "django.", "DEBUG"):
            assert leak not in text, (name, leak)
    assert answers["failure"].status_code == answers["api failure"].status_code == 500
    assert answers["api failure"].json()["error"]["type"] == "server_error"


def test_strangers_see_no_schema_no_metrics_and_no_back_office(db):
    assert Client().get("/api/schema/").status_code == 401
    assert Client().get("/api/docs/").status_code == 302
    for address in ("/metrics", "/admin/", "/__debug__/", "/.env", "/static/../portal/settings.py"):
        assert Client().get(address).status_code == 404


def test_with_https_cookies_are_secure_and_browsers_remember(tmp_path):
    code = (
        "import django; django.setup()\n"
        "from django.conf import settings as s\n"
        "from django.test import Client\n"
        "away = Client().get('/login/', headers={'host': 'tuneport.example.org'})\n"
        "there = Client().get('/healthz', headers={'host': 'tuneport.example.org'}, secure=True)\n"
        "print(away.status_code, away.headers['Location'], there.headers['Strict-Transport-Security'])\n"
        "print(s.SESSION_COOKIE_SECURE, s.CSRF_COOKIE_SECURE, s.SESSION_COOKIE_HTTPONLY, s.SESSION_COOKIE_SAMESITE)\n"
    )
    process = Forked(
        [sys.executable, "-c", code],
        env={**environment(), **SAFE, "DJANGO_SETTINGS_MODULE": "portal.settings", "TUNEPORT_DATA_DIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        cwd=settings.BASE_DIR,
    )
    output, _nothing = process.communicate(timeout=120)
    assert process.wait() == 0
    first, second = output.splitlines()[-2:]
    assert first == "301 https://tuneport.example.org/login/ max-age=31536000; includeSubDomains; preload"
    assert second == "True True True Lax"


# --- the database ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [OperationalError, InterfaceError])
@pytest.mark.parametrize("place", ["portal.views.secrets.render", "datasets_app.api._datasets", "middleware"])
def test_while_the_database_is_away_everybody_is_told_to_come_back(
    world, client_for, alice, api, monkeypatch, kind, place
):
    def away(*_arguments: object, **_more: object) -> None:
        raise kind("server socket 7 is gone")

    client, path = client_for(alice), f"/t/{world.team.slug}/secrets/"
    if place == "datasets_app.api._datasets":
        client, path = api, reverse("datasets-api:list")
    client.raise_request_exception = False
    monkeypatch.setattr("portal.maintenance.platform_state.current" if place == "middleware" else place, away)
    answer = client.get(path)
    assert (answer.status_code, answer["Retry-After"]) == (503, "5")
    assert "database cannot be reached" in answer.content.decode()
    assert "socket 7" not in answer.content.decode()


# --- proxies -------------------------------------------------------------------------------------------------------

SPOOFED = {"HTTP_X_FORWARDED_FOR": "203.0.113.9", "HTTP_X_FORWARDED_PROTO": "https", "HTTP_X_REAL_IP": "203.0.113.9"}


@pytest.mark.parametrize(
    ("behind", "peer", "believed"),
    [
        (False, "127.0.0.1", False),
        (True, "127.0.0.1", True),
        (True, "::ffff:127.0.0.1", True),
        (True, "", True),
        (True, "10.1.2.3", True),
        (True, "192.0.2.1", False),
        (True, "nonsense", False),
    ],
)
def test_only_our_own_proxy_is_believed(settings, behind, peer, believed):
    settings.BEHIND_PROXY = behind
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if behind else None
    settings.TRUSTED_PROXIES = [ip_network("127.0.0.0/8"), ip_network("::1/128"), ip_network("10.0.0.0/8")]
    seen = []
    request = RequestFactory().get("/", REMOTE_ADDR=peer, **SPOOFED)
    middleware.trusted_proxies(lambda one: seen.append((one.is_secure(), client_address(one))))(request)
    ((is_secure, address),) = seen
    assert is_secure is believed
    assert (address == "203.0.113.9") is believed
