"""API tokens that can never be good: refused early, as any other refusal, and nobody else with them."""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from types import SimpleNamespace

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from portal import bad_tokens, platform_state, tokens
from portal.lane import Lane
from portal.models import ApiToken, AuditEvent, Scope
from portal.rls import all_teams, team_scope

CHAT = "/v1/chat/completions"
ROUTES = (
    ("post", CHAT), ("post", "/v1/decisions"), ("get", "/v1/models"), ("head", "/v1/models"), ("get", "/v1/models/x"),
    ("delete", "/v1/models/x"), ("post", "/v1/files"), ("get", "/v1/files/file-1/content"), ("options", "/v1/batches"),
    ("put", "/v1/fine_tuning/jobs"), ("post", "/v1/fine_tuning/jobs/x/cancel"),
)  # fmt: skip
OWN = ("x-request-id", "openai-processing-ms")

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def made(team, actor, alice) -> tuple[ApiToken, str]:
    with team_scope(team.pk):
        return tokens.create_token(team=team, actor=actor, owner=alice, name="test", scopes=list(Scope.values))


def unknown(number: int = 0) -> str:
    return f"tnp_{number:016x}_{'x' * 43}"


def wrong(text: str, ending: str = "zzzz") -> str:
    return text[:-4] + ending


def ask(client: Client, text: str, method: str = "post", path: str = CHAT, **options: object):
    headers = {"Authorization": f"Bearer {text}"}
    return client.generic(method.upper(), path, "{}", "application/json", headers=headers, **options)


def said(answer) -> tuple[int, bytes, dict[str, str]]:
    return answer.status_code, answer.content, {name: value for name, value in answer.items() if name not in OWN}


def taught(client: Client, method: str = "post", path: str = CHAT) -> Client:
    """Return the client, to whose server this view has refused somebody."""
    assert ask(client, "nothing like a token", method, path).status_code == 401
    return client


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_the_answer_is_that_of_the_view(made, method, path, caplog):
    client = Client()
    first = ask(client, unknown(), method, path)
    assert first.status_code == 401
    for text in (unknown(), wrong(made[1]), wrong(made[1]), unknown(7), "sk-other", "tnp_", "ü" * 40):
        caplog.clear()
        again = ask(client, text, method, path)
        assert said(again) == said(first)
        assert again["x-request-id"] != first["x-request-id"]
        assert int(again["openai-processing-ms"]) >= 0
        assert [record.getMessage() for record in caplog.records if record.name == "django.request"]
    assert again.resolver_match.view_name == first.resolver_match.view_name
    if method == "post":
        assert again.json()["error"]["code"] == "invalid_api_key"


def test_a_new_one_costs_one_small_question_and_a_known_one_none(made):
    client = taught(Client())
    for text in (unknown(1), wrong(made[1], "yyyy")):
        for expected in (1, 0, 0):
            with CaptureQueriesContext(connection) as asked:
                assert ask(client, text).status_code == 401
            assert len(asked) == expected
    with CaptureQueriesContext(connection) as asked:
        assert ask(client, "of another shape").status_code == 401
    assert not asked.captured_queries


def test_unknown_ids_and_wrong_secrets_take_the_same_time(made, settings, monkeypatch):
    """On the lane's own connection, as in a server."""
    settings.DATABASE_POOL = 4
    lane = Lane("SELECT * FROM portal_token_proof($1::text)", connections=1)
    monkeypatch.setattr(bad_tokens, "_PROOF", lane)
    tokens.find_token(made[1])  # the process knows it, which must not show
    times: dict[bool, list[float]] = {True: [], False: []}
    try:
        for number in range(150):
            for is_unknown in times:
                text = unknown(number) if is_unknown else wrong(made[1], f"{number:04d}")
                began = time.perf_counter()
                assert bad_tokens.is_bad(text)
                times[is_unknown].append(time.perf_counter() - began)
        assert not bad_tokens.is_bad(made[1])
        tokens._remembered.clear()
        assert not bad_tokens.is_bad(made[1])
        assert lane.fetch("test", [made[0].key_id]) == [(made[0].digest, made[0].pepper_id)]
        [raw] = lane._idle
        assert raw.execute("SELECT current_setting('app.all_teams', true)").fetchone() == ("",)
        assert raw.execute("SELECT count(*) FROM portal_apitoken").fetchone() == (0,), "the wall stands again"
    finally:
        for raw in lane._idle:
            raw.close()
    assert abs(statistics.median(times[True]) - statistics.median(times[False])) < 0.0005


def test_tokens_that_exist_are_none_of_ours(team, actor, made, alice):
    client = taught(taught(Client(), "get", "/v1/models"))
    row, text = made
    assert ask(client, text, "get", "/v1/models").status_code == 200
    with team_scope(team.pk):
        narrow = tokens.create_token(team=team, actor=actor, owner=alice, name="narrow", scopes=["runs:read"])[1]
        elsewhere = tokens.create_token(
            team=team, actor=actor, owner=alice, name="net", scopes=["inference"], networks=["192.0.2.0/24"]
        )[1]
        brief = tokens.create_token(team=team, actor=actor, owner=alice, name="brief", scopes=["inference"])
        team.apitokens.filter(pk=brief[0].pk).update(expires_at=timezone.now() - timedelta(minutes=1))
    expected = {
        narrow: (403, "insufficient_scope"),
        elsewhere: (403, "ip_not_allowed"),
        brief[1]: (401, "expired_api_key"),
    }
    for _time in range(2):
        for other, wanted in expected.items():
            answer = ask(client, other)
            assert (answer.status_code, answer.json()["error"]["code"]) == wanted
    with team_scope(team.pk):
        tokens.revoke_token(token=row, actor=actor)
    assert ask(client, text, "get", "/v1/models").status_code == 401
    with all_teams("test"):
        assert AuditEvent.objects.filter(action="token.refused", token_id=row.pk).count() == 1, "a trail, as always"


def test_what_is_refused_for_another_reason_is_told_so():
    client = taught(Client())
    bad = unknown()
    assert ask(client, bad, path=f"{CHAT}?key={bad}").json()["error"]["code"] == "token_in_address"
    assert "Bearer <token>" in ask(client, "x" * 201).json()["error"]["message"]
    assert "Bearer <token>" in client.post(CHAT, "{}", "application/json").json()["error"]["message"]
    assert ask(client, bad, SERVER_NAME="elsewhere.example", HTTP_HOST="elsewhere.example").status_code == 400
    platform_state._latest = platform_state.Snapshot(timezone.now(), "", 60, (), read_at=time.monotonic() + 3600)
    assert ask(client, bad).status_code == 503


def test_a_changed_pepper_counts_at_once(made, settings):
    client, before = taught(Client(), "get", "/v1/models"), settings.TOKEN_PEPPER
    settings.TOKEN_PEPPER, settings.TOKEN_PEPPER_ID = "n" * 50, "2"
    for _time in range(2):
        assert ask(client, made[1], "get", "/v1/models").status_code == 401
    settings.OLD_TOKEN_PEPPERS = {"1": before}
    assert ask(client, made[1], "get", "/v1/models").status_code == 200


def test_a_question_that_the_database_does_not_answer_is_left_to_the_view(made, monkeypatch):
    client = taught(Client(), "get", "/v1/models")
    monkeypatch.setattr(bad_tokens, "_PROOF", Lane("SELECT * FROM nowhere_at_all($1::text)"))
    assert ask(client, unknown(3), "get", "/v1/models").status_code == 401
    tokens._remembered.clear()
    assert ask(client, made[1], "get", "/v1/models").status_code == 200


def test_memory_is_bounded_and_short(monkeypatch):
    refused, now = bad_tokens.Refused(), 1000.0
    monkeypatch.setattr(bad_tokens, "time", SimpleNamespace(monotonic=lambda: now))
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: refused.add(str(number).encode()), range(3 * bad_tokens.MOST_REMEMBERED)))
    assert len(refused._until) == bad_tokens.MOST_REMEMBERED
    refused.add(b"last")
    assert refused.knows(b"last")
    assert not refused.knows(b"never")
    now += bad_tokens.REMEMBERED_S
    assert not refused.knows(b"last")
