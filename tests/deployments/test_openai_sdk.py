"""The unmodified openai SDK, strict about every field, against the running portal."""

from __future__ import annotations

import asyncio
import json
import time

import httpx
import openai
import pytest
from django.db.models import Sum
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletion

from deployments import engine_client, metering
from deployments.models import InferenceRecord
from portal.models import UsageDay
from portal.rls import all_teams
from tests.deployments.conftest import wait_for
from tests.deployments.fake_engine import FakeEngine

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def client(live_server, token: str, deployed) -> OpenAI:
    return OpenAI(
        base_url=f"{live_server.url}/v1", api_key=token, max_retries=0, timeout=20, _strict_response_validation=True
    )


@pytest.fixture
def raw(live_server, token: str, deployed) -> httpx.Client:
    with httpx.Client(base_url=live_server.url, headers={"Authorization": f"Bearer {token}"}, timeout=20) as http:
        yield http


def user(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


def records(count: int) -> list[InferenceRecord]:
    """Wait for so many counted requests: they are counted after the answer was sent."""

    def found() -> list[InferenceRecord]:
        with all_teams("test reads counts"):
            return list(InferenceRecord.unscoped.order_by("id"))

    wait_for(lambda: len(found()) >= count)
    return found()


def test_models_are_listed_and_retrieved(client):
    models = {model.id: model for model in client.models.list()}
    assert set(models) == {"demo-triage", "tiny"}
    assert models["demo-triage"].owned_by == "service-desk"
    assert client.models.retrieve("demo-triage") == models["demo-triage"]
    assert client.models.retrieve("tiny").object == "model"


def test_a_plain_answer_carries_the_callers_name_for_the_model(client, deployed, engine: FakeEngine):
    answer = client.chat.completions.create(model="demo-triage", messages=user("VPN is down"))
    assert answer.choices[0].message.content == f"{deployed.adapter.engine_name} heard: VPN is down"
    assert answer.model == "demo-triage"
    assert answer.system_fingerprint == f"fp_{deployed.adapter.sha256[:12]}"
    assert answer._request_id.startswith("req_")
    (record,) = records(1)
    assert (record.version_id, record.status, record.streamed) == (deployed.pk, 200, False)
    assert (record.prompt_tokens, record.completion_tokens) == (11, 5)
    assert record.request_id == answer._request_id


def test_the_versions_system_prompt_is_put_before_messages_without_one(client, deployed, engine: FakeEngine):
    client.chat.completions.create(model="demo-triage", messages=user("x"))
    own = [{"role": "developer", "content": "Be brief."}, *user("x")]
    client.chat.completions.create(model="demo-triage", messages=own)
    asked = [request["messages"][0] for request in engine.requests]
    assert asked == [
        {"role": "system", "content": deployed.system_prompt},
        {"role": "system", "content": "Be brief."},
    ]
    assert engine.requests[0]["temperature"] == 0, "the likeliest answer, unless the caller asks otherwise"


def test_options_reach_the_engine(client, deployed, engine: FakeEngine):
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    answer = client.chat.completions.create(
        model="demo-triage", messages=user(parts), n=2, temperature=0.5, top_p=0.9, seed=7, stop=["\n"],
        max_completion_tokens=12, user="someone", metadata={"a": "b"}, response_format={"type": "text"}, store=False,
    )  # fmt: skip
    assert len(answer.choices) == 2
    (asked,) = engine.requests
    assert asked["messages"][-1]["content"] == "one two"
    named = {key: asked[key] for key in asked if key not in ("messages", "model", "response_format")}
    salt = f"team-{deployed.team_id}"
    sampling = {"n": 2, "temperature": 0.5, "top_p": 0.9, "seed": 7, "stop": ["\n"], "max_tokens": 12}
    assert named == sampling | {"cache_salt": salt}, "what is cached of one team serves no other"


def test_what_an_engine_cuts_at_a_stop_text_is_whole_without_a_schema_only(raw, deployed):
    ask = {"model": "demo-triage", "messages": user('#json {"a": 1}'), "stop": ["}"]}
    for wanted, reason in (({"type": "text"}, "stop"), ({"type": "json_object"}, "length")):
        (choice,) = raw.post("/v1/chat/completions", json={**ask, "response_format": wanted}).json()["choices"]
        assert (choice["message"]["content"], choice["finish_reason"]) == ('{"a": 1', reason)


def test_a_stream_arrives_in_pieces_and_ends_with_usage_if_asked(client, deployed):
    options = {"include_usage": True}
    chunks = list(
        client.chat.completions.create(model="demo-triage", messages=user("a b"), stream=True, stream_options=options)
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == f"{deployed.adapter.engine_name} heard: a b "
    assert chunks[0].choices[0].delta.role == "assistant"
    assert {chunk.model for chunk in chunks} == {"demo-triage"}
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert (chunks[-1].choices, chunks[-1].usage.total_tokens) == ([], 15)
    (record,) = records(1)
    assert (record.status, record.streamed, record.completion_tokens) == (200, True, 4)
    assert record.first_token_ms is not None


def test_without_include_usage_there_is_no_usage_in_the_stream_but_it_is_counted(raw):
    asked = {"model": "demo-triage", "messages": user("a"), "stream": True}
    with raw.stream("POST", "/v1/chat/completions", json=asked) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["x-accel-buffering"] == "no"
        assert response.headers["x-request-id"]
        assert "openai-processing-ms" in response.headers
        body = response.read().decode()
    assert "usage" not in body
    assert body.endswith("data: [DONE]\n\n")
    assert records(1)[0].completion_tokens == 3


def test_the_first_piece_comes_before_the_last_is_made(raw):
    started = time.monotonic()
    body = {"model": "demo-triage", "messages": user("#slow one two three four"), "stream": True}
    with raw.stream("POST", "/v1/chat/completions", json=body) as response:
        times = [time.monotonic() - started for line in response.iter_lines() if line.startswith("data: {")]
    assert times[0] < times[-1] / 2


def test_silence_is_filled_with_comments(raw, client, monkeypatch):
    monkeypatch.setattr(engine_client, "PING_EVERY_S", 0.05)
    body = {"model": "demo-triage", "messages": user("#slow x"), "stream": True}
    assert ": ping" in raw.post("/v1/chat/completions", json=body).text
    assert list(client.chat.completions.create(model="demo-triage", messages=user("#slow x"), stream=True))


@pytest.mark.parametrize("how", ["#die", "#error"])
def test_an_engine_that_fails_mid_stream_raises_in_the_sdk(client, how):
    chunks = client.chat.completions.create(model="demo-triage", messages=user(f"{how} x y"), stream=True)
    assert next(chunks).choices
    with pytest.raises(openai.APIError):
        list(chunks)
    (record,) = records(1)
    assert record.status in (502, 503)
    assert record.completion_tokens == 2


def test_a_client_that_hangs_up_mid_stream_stops_the_engine_and_is_counted(raw, engine: FakeEngine):
    body = {"model": "demo-triage", "messages": user("#forever"), "stream": True}
    with raw.stream("POST", "/v1/chat/completions", json=body) as response:
        next(response.iter_lines())
    (record,) = records(1)
    assert (record.status, record.streamed) == (499, True)
    assert wait_for(lambda: engine.hang_ups == 1)


def test_refusals_before_the_stream_are_ordinary_errors(client):
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model="demo-triage", messages=user("#toolong"), stream=stream)
        assert caught.value.code == "context_length_exceeded"
        with pytest.raises(openai.InternalServerError) as busy:
            client.chat.completions.create(model="demo-triage", messages=user("#busy"), stream=stream)
        assert busy.value.status_code == 503
        assert busy.value.response.headers["retry-after"] == "7"
    assert [record.status for record in records(4)] == [400, 503, 400, 503]


def test_legacy_completions(client, deployed):
    answer = client.completions.create(model="demo-triage", prompt="Once upon")
    assert answer.choices[0].text == f"{deployed.adapter.engine_name} continues: Once upon"
    assert (answer.object, answer.model) == ("text_completion", "demo-triage")


def test_the_base_model_answers_under_its_own_id(client):
    answer = client.chat.completions.create(model="tiny", messages=user("hi"))
    assert (answer.choices[0].message.content, answer.model) == ("tiny heard: hi", "tiny")


def test_errors_reach_the_sdk_as_its_own_exceptions(client, live_server):
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="nobody", messages=user("x"))
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.AuthenticationError) as wrong:
        OpenAI(base_url=f"{live_server.url}/v1", api_key="tnp_nope", max_retries=0).models.list()
    assert wrong.value.code == "invalid_api_key"
    with pytest.raises(openai.BadRequestError) as unsupported:
        client.chat.completions.create(model="demo-triage", messages=user("x"), logit_bias={"5": 1})
    assert (unsupported.value.code, unsupported.value.param) == ("unsupported_parameter", "logit_bias")


def test_fifty_requests_at_once_do_not_mix(client, live_server, token, engine: FakeEngine):
    async def all_at_once() -> list[ChatCompletion]:
        options = {"base_url": f"{live_server.url}/v1", "api_key": token, "max_retries": 3, "timeout": 30}
        async with AsyncOpenAI(**options, _strict_response_validation=True) as parallel:
            asked = (parallel.chat.completions.create(model="tiny", messages=user(f"n {n}")) for n in range(50))
            return await asyncio.gather(*asked)

    answers = asyncio.run(all_at_once())
    assert [answer.choices[0].message.content for answer in answers] == [f"tiny heard: n {n}" for n in range(50)]
    counted = {record.request_id: record for record in records(50) if record.status == 200}
    assert set(counted) == {answer._request_id for answer in answers}
    assert len(counted) == 50
    used = [(answer.usage.prompt_tokens, answer.usage.completion_tokens) for answer in answers]
    booked = [counted[answer._request_id] for answer in answers]
    assert [(record.prompt_tokens, record.completion_tokens) for record in booked] == used
    metering.ledger.flush()
    with all_teams("test reads counts"):
        days = UsageDay.unscoped.aggregate(prompt=Sum("prompt_tokens"), completion=Sum("completion_tokens"))
    assert (days["prompt"], days["completion"]) == tuple(map(sum, zip(*used, strict=True)))


def test_no_text_is_kept(raw, deployed):
    raw.post("/v1/chat/completions", json={"model": "demo-triage", "messages": user("canary-8471")})
    (record,) = records(1)
    assert "canary" not in json.dumps({key: str(value) for key, value in vars(record).items()})
