"""Requests that come again with their Idempotency-Key: answered, done and paid for once."""

from __future__ import annotations

import json
import threading
from datetime import timedelta
from typing import Any

import httpx
import openai
import pytest
from django.utils import timezone

from deployments import metering
from deployments.models import InferenceRecord, KeptAnswer
from portal.rls import all_teams
from tests.deployments.conftest import wait_for
from tests.deployments.sdk import sdk

pytestmark = pytest.mark.django_db

ASK = {"model": "demo-triage", "messages": [{"role": "user", "content": "VPN drops"}]}
ASKS: dict[str, dict[str, Any]] = {
    "chat/completions": ASK,
    "completions": {"model": "demo-triage", "prompt": "VPN drops"},
    "decisions": {
        "model": "demo-triage", "input": "VPN", "questions": [{"type": "predicate", "instructions": "Is it urgent?"}],
    },
}  # fmt: skip


def post(api, path: str, body: dict[str, Any], key: str = "one"):
    return api.post(f"/v1/{path}", json.dumps(body), "application/json", headers={"Idempotency-Key": key})


def billed() -> int:
    metering.ledger.flush()
    with all_teams("test"):
        return InferenceRecord.unscoped.filter(status=200).exclude(request_id="").count()


@pytest.mark.parametrize("path", ASKS)
def test_an_answer_with_a_key_is_given_again_and_paid_once(api, deployed, engine, path):
    first, again = post(api, path, ASKS[path]), post(api, path, ASKS[path])
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.json() == again.json()
    assert [answer.headers.get("Idempotent-Replayed") for answer in (first, again)] == [None, "true"]
    assert (len(engine.requests), billed()) == (1, 1)
    assert post(api, path, ASKS[path], "two").status_code == 200
    assert (len(engine.requests), billed()) == (2, 2)


def test_without_a_key_nothing_is_kept(api, deployed, engine):
    for _time in range(2):
        assert api.post("/v1/chat/completions", json.dumps(ASK), "application/json").status_code == 200
    assert billed() == 2
    with all_teams("test"):
        assert not KeptAnswer.unscoped.exists()


def test_the_sdk_sends_it_too_and_another_request_is_refused(token, deployed):
    client = sdk(token)
    headers = {"Idempotency-Key": "one"}
    first = client.chat.completions.create(**ASK, extra_headers=headers)
    assert client.chat.completions.create(**ASK, extra_headers=headers).id == first.id
    with pytest.raises(openai.ConflictError) as caught:
        client.chat.completions.create(**ASK, temperature=1, extra_headers=headers)
    assert (caught.value.code, caught.value.response.headers["x-should-retry"]) == ("idempotency_key_reused", "false")


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
def test_a_stream_takes_no_key(api, deployed, engine, path):
    answer = post(api, path, {**ASKS[path], "stream": True})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "Idempotency-Key")
    assert engine.requests == []


def test_a_key_that_is_too_long_is_refused(api, deployed):
    assert post(api, "chat/completions", ASK, "k" * 256).json()["error"]["param"] == "Idempotency-Key"


def test_what_fails_is_not_kept(api, deployed, engine):
    busy = {**ASK, "messages": [{"role": "user", "content": "#busy"}]}
    assert [post(api, "chat/completions", busy).status_code for _time in range(2)] == [503, 503]
    assert len(engine.requests) == 2
    with all_teams("test"):
        assert not KeptAnswer.unscoped.exists()


def test_teams_have_keys_of_their_own(api, stranger_api, deployed, engine):
    ask = {**ASK, "model": "tiny"}
    assert [post(one, "chat/completions", ask).status_code for one in (api, stranger_api)] == [200, 200]
    assert len(engine.requests) == 2


def test_a_revoked_token_is_not_told_what_was_kept(api, deployed, team):
    assert post(api, "chat/completions", ASK).status_code == 200
    with all_teams("test"):
        team.apitokens.update(revoked_at=timezone.now())
    assert post(api, "chat/completions", ASK).status_code == 401


def test_texts_that_the_database_cannot_hold_are_kept_all_the_same(api, deployed):
    odd = {**ASK, "messages": [{"role": "user", "content": "#json a\0b \u2028 😡"}]}
    first, again = post(api, "chat/completions", odd), post(api, "chat/completions", odd)
    assert first.json() == again.json()
    assert "\0" in again.json()["choices"][0]["message"]["content"]


def test_a_server_that_died_with_a_request_blocks_its_key_for_a_while_only(api, deployed, engine, settings):
    assert post(api, "chat/completions", ASK).status_code == 200
    with all_teams("test"):
        KeptAnswer.unscoped.update(status=0, body={})
    assert post(api, "chat/completions", ASK).json()["error"]["code"] == "idempotency_key_in_use"
    with all_teams("test"):
        long_ago = timezone.now() - timedelta(seconds=2 * settings.ENGINE_TIMEOUT_SECONDS + 1)
        KeptAnswer.unscoped.update(created_at=long_ago)
    assert post(api, "chat/completions", ASK).status_code == 200
    assert len(engine.requests) == 2


@pytest.mark.django_db(transaction=True)
def test_who_asks_again_while_the_first_is_answered_is_told_to_wait(live_server, token, deployed, engine):
    ask = {**ASK, "messages": [{"role": "user", "content": "#silent"}]}
    headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": "one"}

    def asked() -> httpx.Response:
        return httpx.post(f"{live_server.url}/v1/chat/completions", json=ask, headers=headers, timeout=20)

    found: list[httpx.Response] = []
    first = threading.Thread(target=lambda: found.append(asked()))
    first.start()
    assert wait_for(lambda: bool(engine.requests))
    early = asked()
    assert (early.status_code, early.json()["error"]["code"]) == (409, "idempotency_key_in_use")
    assert (early.headers["x-should-retry"], early.headers["Retry-After"]) == ("true", "2")
    first.join()
    assert asked().json() == found[0].json()
    assert len(engine.requests) == 1
