"""Limits under /v1: exactly what is allowed passes, answers say how the team stands, what was not used comes back."""

from __future__ import annotations

import itertools
import re
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import httpx
import openai
import pytest
from django.db.models import Sum
from openai import OpenAI

from deployments import admission, engine_client, inference, known_targets, metering
from deployments.engine_connection import CallerGone
from deployments.metering import Ledger
from deployments.models import InferenceRecord
from portal import quotas
from portal.errors import PortalError
from portal.models import Quota, QuotaReservation, UsageDay
from portal.rls import all_teams, team_scope
from tests.deployments.conftest import SYSTEM, wait_for
from tests.deployments.fake_engine import FakeEngine

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]

OF_SYSTEM_PROMPT = len(SYSTEM) // 3 + 1 + 8  # as it is estimated
CHAT = "/v1/chat/completions"
HEADERS = [f"x-ratelimit-{part}-{name}" for part in ("limit", "remaining", "reset") for name in ("requests", "tokens")]
MONTHLY, MINUTELY, REQUESTS = Quota.TOKENS_PER_MONTH, Quota.TOKENS_PER_MINUTE, Quota.REQUESTS_PER_MINUTE


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Windows begin 1.5 s before the end of a minute and time goes on from there; returns a function that stops it."""
    began, base, frozen = time.monotonic(), datetime(2027, 3, 5, 10, 0, 58, 500_000, tzinfo=UTC), []

    def moment() -> datetime:
        return frozen[0] if frozen else base + timedelta(seconds=time.monotonic() - began)

    monkeypatch.setattr(quotas, "_moment", moment)
    return lambda: frozen.append(datetime(2027, 3, 5, 10, 0, 20, tzinfo=UTC))


@pytest.fixture
def raw(live_server, token: str, deployed) -> httpx.Client:
    limits = httpx.Limits(max_connections=60)
    with httpx.Client(
        base_url=live_server.url, headers={"Authorization": f"Bearer {token}"}, timeout=60, limits=limits
    ) as http:
        yield http


def ask(text: str = "hi", **options: object) -> dict:
    return {"model": "demo-triage", "messages": [{"role": "user", "content": text}], "max_tokens": 20, **options}


def limit(team, **values: int | None) -> None:
    with team_scope(team.pk):
        for kind, value in values.items():
            team.teamlimits.update_or_create(kind=Quota[kind], defaults={"value": value})


def used(team) -> dict[str, int]:
    metering.ledger.flush()
    with team_scope(team.pk):
        return dict(team.quotawindows.values_list("kind").annotate(Sum("used")))


def ledger_sums(team) -> list[tuple]:
    """Return (requests, tokens) as the log counts them, and as the ledger of days does."""
    metering.ledger.flush()
    with all_teams("test"):
        log = InferenceRecord.unscoped.filter(team=team)
        sums = log.aggregate(prompt=Sum("prompt_tokens"), completion=Sum("completion_tokens"))
        days = UsageDay.unscoped.filter(team=team).aggregate(
            requests=Sum("requests"), prompt=Sum("prompt_tokens"), completion=Sum("completion_tokens")
        )
        return [
            (log.count(), (sums["prompt"] or 0) + (sums["completion"] or 0)),
            (days["requests"] or 0, (days["prompt"] or 0) + (days["completion"] or 0)),
        ]


def test_every_answer_says_how_the_team_stands(raw, clock, engine: FakeEngine):
    clock()
    answers = [
        raw.post(CHAT, json=ask()),
        raw.post(CHAT, json=ask(stream=True)),
        raw.post("/v1/completions", json={"model": "demo-triage", "prompt": "x"}),
        raw.get("/v1/models"),
        raw.get("/v1/models/nothing"),
        raw.post(CHAT, json=ask(tools=[1])),
        raw.post(CHAT, json=ask("#busy")),
        raw.put(CHAT, json={}),
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 200, 404, 400, 503, 405]
    remaining = [int(answer.headers["x-ratelimit-remaining-requests"]) for answer in answers]
    assert remaining[0] == 5999
    assert all(later < earlier for earlier, later in itertools.pairwise(remaining[:6]))
    for answer in answers:
        for name in HEADERS:
            assert re.fullmatch(r"\d+" if "reset" not in name else r"(\d+m)?\d+(ms|s)", answer.headers[name])
        assert answer.headers["x-ratelimit-reset-requests"] == "40s"
    assert "x-ratelimit-limit-requests" not in httpx.get(raw.base_url.join("/v1/models")).headers


@pytest.mark.parametrize(("seconds", "words"), [(0.0, "1ms"), (0.012, "12ms"), (8.9, "8s"), (60, "1m0s")])
def test_spans_are_written_as_clients_expect(seconds, words):
    assert admission._span(seconds) == words


def test_one_request_too_many(raw, team, clock, engine: FakeEngine):
    clock()
    limit(team, REQUESTS_PER_MINUTE=3)
    assert [raw.post(CHAT, json=ask()).status_code for _number in range(3)] == [200, 200, 200]
    for refused in (raw.post(CHAT, json=ask()), raw.get("/v1/models")):
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "41"
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        error = refused.json()["error"]
        assert (error["type"], error["code"], error["param"]) == ("rate_limit_error", "rate_limit_exceeded", None)
        assert "3 requests a minute" in error["message"]
    assert len(engine.requests) == 3
    limit(team, REQUESTS_PER_MINUTE=4)
    assert raw.post(CHAT, json=ask()).status_code == 200


def test_refused_bodies_count_as_requests_too(raw, team, clock):
    clock()
    limit(team, REQUESTS_PER_MINUTE=2)
    assert [raw.post(CHAT, content=b"{").status_code for _number in range(2)] == [400, 400]
    assert raw.get("/v1/models").status_code == 429


@pytest.mark.parametrize(
    ("limits", "allowed"),
    [
        ({"REQUESTS_PER_MINUTE": 7}, 7),
        ({"TOKENS_PER_MINUTE": 5 * 40}, 5),
        ({"TOKENS_PER_MONTH": 3 * 40, "REQUESTS_PER_MINUTE": 40}, 3),
    ],
)
def test_fifty_at_once_at_the_last_units(raw, team, clock, engine: FakeEngine, monkeypatch, limits, allowed):
    clock()
    monkeypatch.setattr(admission, "likely_prompt_tokens", lambda body: 20)  # and 20 that it may write
    limit(team, **limits)
    monkeypatch.setattr(metering, "ledger", Ledger(flush_every_s=3600))  # nothing is settled while they come
    with ThreadPoolExecutor(50) as threads:
        codes = Counter(threads.map(lambda _n: raw.post(CHAT, json=ask()).status_code, range(50)))
    assert codes == {200: allowed, 429: 50 - allowed}
    assert len(engine.requests) == allowed
    log, days = ledger_sums(team)
    assert log == days == (allowed, used(team)[MONTHLY])


def test_what_was_used_is_what_the_ledger_says(raw, team, clock, engine: FakeEngine):
    clock()
    with ThreadPoolExecutor(10) as threads:
        list(threads.map(lambda number: raw.post(CHAT, json=ask(f"word {number}", stream=number % 2 == 0)), range(30)))
    wait_for(lambda: ledger_sums(team)[0][0] == 30)
    counts = used(team)
    log, days = ledger_sums(team)
    assert log == days == (30, counts[MONTHLY])
    assert counts == {REQUESTS: 30, MINUTELY: counts[MONTHLY], MONTHLY: 30 * (11 + 4)}
    with all_teams("test"):
        assert not QuotaReservation.unscoped.exists()


@pytest.mark.parametrize("stream", [False, True])
def test_what_the_engine_could_not_answer_costs_nothing(raw, team, clock, engine: FakeEngine, stream):
    clock()
    assert raw.post(CHAT, json=ask("#busy", stream=stream)).status_code == 503
    assert used(team) == {REQUESTS: 0, MINUTELY: 0, MONTHLY: 0}


def test_a_broken_stream_costs_what_came_through(raw, team, clock, engine: FakeEngine):
    clock()
    assert "error" in raw.post(CHAT, json=ask("#die", stream=True)).text
    counts = used(team)
    assert (counts[MONTHLY], counts[MONTHLY]) == (ledger_sums(team)[0][1], 2)


def test_a_client_that_hangs_up_gets_back_what_was_not_generated(raw, team, clock, engine: FakeEngine):
    clock()
    with raw.stream("POST", CHAT, json=ask("#forever", stream=True, max_tokens=100_000)) as response:
        next(response.iter_lines())
        assert used(team)[MONTHLY] > 100_000
    assert wait_for(lambda: used(team)[MONTHLY] < 1000)
    counts = used(team)
    assert (counts[REQUESTS], counts[MONTHLY]) == (1, ledger_sums(team)[0][1])


def test_who_hangs_up_pays_for_the_prompt_that_was_read(raw, team, clock, engine: FakeEngine):
    clock()
    with raw.stream("POST", CHAT, json=ask("word " * 600 + "#forever", stream=True)) as response:
        next(response.iter_lines())
    assert wait_for(lambda: ledger_sums(team)[0][0] == 1)
    assert 1000 < used(team)[MONTHLY] < 1200
    with all_teams("test"):
        (row,) = InferenceRecord.unscoped.all()
    assert (row.status, row.prompt_tokens) == (499, 3008 // 3 + 1 + 8 + OF_SYSTEM_PROMPT)


def test_a_whole_answer_that_nobody_waited_for_costs_its_prompt(team, deployed, engine: FakeEngine, monkeypatch):
    def gone(*_arguments: object, **_more: object) -> None:
        raise CallerGone

    monkeypatch.setattr(engine_client, "chat", gone)
    target = inference.resolve(team, "demo-triage")
    admitted = inference.admit(target, ask("x" * 3000), inference.Caller(team, "req_1"))
    with pytest.raises(PortalError):
        inference.complete(admitted)
    assert used(team)[MONTHLY] == ledger_sums(team)[0][1] == 3000 // 3 + 1 + 8 + OF_SYSTEM_PROMPT


@pytest.mark.parametrize("text", ["#toolong", "#busy", "#die"])
def test_a_prompt_that_the_engine_refused_or_lost_is_not_charged(raw, team, clock, engine: FakeEngine, text):
    clock()
    raw.post(CHAT, json=ask("word " * 600 + text, stream=True))
    assert wait_for(lambda: ledger_sums(team)[0][0] == 1)
    assert used(team)[MONTHLY] < 10


def test_the_system_prompt_of_a_deployment_and_other_scripts_are_reserved_as_well(raw, team, deployed, clock, engine):
    clock()
    with team_scope(team.pk):
        team.deploymentversions.filter(pk=deployed.pk).update(system_prompt="word " * 600)
    known_targets._versions.clear()
    limit(team, TOKENS_PER_MINUTE=1000)
    refused = raw.post(CHAT, json=ask())
    assert (refused.status_code, engine.requests) == (429, [])
    with team_scope(team.pk):
        team.deploymentversions.filter(pk=deployed.pk).update(system_prompt="")
    known_targets._versions.clear()
    assert raw.post(CHAT, json=ask("a" * 1500)).status_code == 200
    assert raw.post(CHAT, json=ask("語" * 1500)).status_code == 429
    assert admission.likely_prompt_tokens({"prompt": "語" * 1500}) == 1501
    assert admission.likely_prompt_tokens({"prompt": ["語" * 1500, ""]}) == 1502
    assert admission.likely_prompt_tokens({"prompt": [[1, 2], [3]]}) == 3
    assert admission.answers_of({"prompt": [[1, 2], [3]], "n": 2}) == 4
    assert admission.answers_of({"prompt": [1, 2, 3]}) == 1


SCHEMA = {
    "type": "object",
    "properties": {"queue": {"enum": ["mail", "vpn", "printers"]}, "urgent": {"type": "boolean"}},
    "required": ["queue", "urgent"],
}
SURE = {
    "confidence": True,
    "response_format": {"type": "json_schema", "json_schema": {"name": "ticket", "schema": SCHEMA}},
}
ASKED_OF_LABELS = {"type": "choice", "name": "kind", "choices": [{"value": "bug"}, {"value": "wish"}]}


@pytest.mark.parametrize("kind", ["confidence", "decisions"])
def test_what_is_read_to_be_sure_is_set_aside_before(raw, team, deployed, clock, engine: FakeEngine, kind):
    """Each of them reads the text four times or more; all of them come at once, and none may exceed the limit."""
    clock()
    engine.tokens_of_score = 400
    limit(team, TOKENS_PER_MINUTE=10_000)
    text = "word " * 240 + '#json {"queue": "mail", "urgent": true}'
    questions = [{**ASKED_OF_LABELS, "name": f"kind {number}"} for number in range(4)]
    body = {"model": "demo-triage", "input": text, "questions": questions}
    path, sent = (CHAT, ask(text, **SURE)) if kind == "confidence" else ("/v1/decisions", body)
    with ThreadPoolExecutor(24) as pool:
        statuses = Counter(pool.map(lambda _one: raw.post(path, json=sent).status_code, range(24)))
    assert set(statuses) == {200, 429}
    assert used(team)[MINUTELY] == used(team)[MONTHLY] <= 10_000
    assert used(team)[MINUTELY] >= 1_600 * statuses[200], "four readings each were counted"
    assert statuses[200] >= 3


@pytest.mark.parametrize("stream", [False, True])
def test_what_a_request_takes_is_worked_out_once(raw, team, deployed, clock, engine: FakeEngine, monkeypatch, stream):
    worked_out: Counter[str] = Counter()

    def count(module, name):
        function = getattr(module, name)

        def counting(*arguments):
            worked_out[name] += 1
            return function(*arguments)

        monkeypatch.setattr(module, name, counting)

    clock()
    count(inference, "_engine_body")
    count(admission, "likely_prompt_tokens")
    assert raw.post(CHAT, json=ask("Hi", stream=stream)).status_code == 200
    assert worked_out == {"_engine_body": 1, "likely_prompt_tokens": 1}


def test_a_model_that_is_being_loaded_costs_no_request(raw, team, deployed, clock, engine: FakeEngine):
    clock()
    limit(team, REQUESTS_PER_MINUTE=1)
    with team_scope(team.pk):
        deployed.adapter.placements.update(status="pending")
    known_targets._versions.clear()
    assert [raw.post(CHAT, json=ask()).json()["error"]["code"] for _n in range(3)] == ["model_loading"] * 3
    with team_scope(team.pk):
        deployed.adapter.placements.update(status="ready")
    assert raw.post(CHAT, json=ask()).status_code == 200


def test_lists_of_models_are_shown_when_all_tokens_are_used(raw, team, clock, engine: FakeEngine):
    clock()
    assert raw.post(CHAT, json=ask()).status_code == 200
    assert used(team)[MINUTELY] > 1
    limit(team, TOKENS_PER_MINUTE=1)
    assert raw.get("/v1/models").status_code == 200


def test_the_month_is_refused_for_good_and_clients_do_not_try_again(live_server, token, team, deployed, engine, clock):
    clock()
    limit(team, TOKENS_PER_MONTH=20)
    client = OpenAI(base_url=f"{live_server.url}/v1", api_key=token, max_retries=3, timeout=20)
    began = time.monotonic()
    with pytest.raises(openai.RateLimitError) as refused:
        client.chat.completions.create(**ask())
    assert time.monotonic() - began < 5
    assert (refused.value.type, refused.value.code) == ("insufficient_quota", "insufficient_quota")
    assert "20 tokens a month" in str(refused.value)
    assert "2027-04-01 00:00 UTC" in str(refused.value)
    assert refused.value.response.headers["x-should-retry"] == "false"
    assert engine.requests == []


def test_the_sdk_waits_for_the_next_minute_and_gets_its_answer(live_server, token, team, deployed, engine):
    limit(team, REQUESTS_PER_MINUTE=1)
    client = OpenAI(base_url=f"{live_server.url}/v1", api_key=token, max_retries=2, timeout=20)
    client.chat.completions.create(**ask("first"))
    client.chat.completions.create(**ask("second"))
    assert [request["messages"][-1]["content"] for request in engine.requests] == ["first", "second"]


def test_more_than_a_minute_can_ever_hold_says_what_to_ask_for(raw, team, clock, engine: FakeEngine):
    clock()
    limit(team, TOKENS_PER_MINUTE=100)
    refused = raw.post(CHAT, json=ask(max_tokens=500, n=2))
    assert (refused.status_code, refused.headers["x-should-retry"]) == (429, "false")
    assert "max_tokens" in refused.json()["error"]["message"]
    assert raw.post(CHAT, json=ask(max_tokens=5)).status_code == 200


def test_the_playground_has_the_same_limits(client_for, alice, team, deployed, clock, engine: FakeEngine):
    clock()
    limit(team, REQUESTS_PER_MINUTE=1)
    browser, page = client_for(alice), f"/t/{team.slug}/playground/"
    form = {"model": "deployment:demo-triage", "prompt": "hello", "max_tokens": "20", "temperature": "0"}
    assert "heard: hello" in browser.post(page, form).content.decode()
    assert "limit of 1 requests a minute is reached" in browser.post(page, form).content.decode()
    assert len(engine.requests) == 1


def test_one_round_trip_is_added_to_a_request(api, team, deployed, engine: FakeEngine, clock):
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    clock()
    api.post(CHAT, ask(), "application/json")
    metering.ledger.flush()
    with CaptureQueriesContext(connection) as asked:
        assert api.post(CHAT, ask(), "application/json").status_code == 200
    statements = [query["sql"] for query in asked]
    assert sum("portal_reserve" in sql for sql in statements) == 1
    # The token, the reservation, and five for the deployment: begin, scope, name, version (remembered), commit.
    assert len([sql for sql in statements if "portal_cache" not in sql]) <= 7
