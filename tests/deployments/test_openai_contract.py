"""What /v1 promises beyond what the SDK checks: validation by name, one error shape, walls between teams."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress

import pytest
from django.db import OperationalError
from django.test import Client
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deployments import known_targets, lifecycle, services
from deployments.models import InferenceRecord
from deployments.openai_api import parameters
from experiments.models import Run
from portal.errors import InvalidInput
from portal.models import ApiToken, Team, User
from portal.rls import all_teams, team_scope
from tests.deployments.fake_engine import FakeEngine

CHAT = "/v1/chat/completions"
ROUTES = [("get", "/v1/models"), ("get", "/v1/models/demo-triage"), ("post", CHAT), ("post", "/v1/completions")]


def user(text: object = "hi") -> list[dict]:
    return [{"role": "user", "content": text}]


def post(api: Client, body: object, path: str = CHAT, **options: object):
    return api.post(path, body if isinstance(body, (bytes, str)) else json.dumps(body), "application/json", **options)


def error_of(response, status: int) -> dict:
    assert response.status_code == status, response.content
    assert response["x-request-id"]
    error = response.json()["error"]
    assert set(error) >= {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["message"]
    return error


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"model": None}, "model"),
        ({"model": 7}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [*user(), {"role": "user", "content": 5}]}, "messages[1].content"),
        ({"messages": user([{"type": "image_url", "image_url": {"url": "http://x"}}])}, "messages[0].content[0]"),
        ({"messages": user([{"type": "text", "text": 1}])}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": [{}]}]}, "messages[0].tool_calls"),
        ({"messages": user("\ud800")}, "messages[0].content"),
        ({"temperature": 2.5}, "temperature"),
        ({"temperature": "0"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 1.5}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
        ({"seed": 2**64}, "seed"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": ""}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"frequency": 1}}, "stream_options.frequency"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"frequency_penalty": 2.5}, "frequency_penalty"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"response_format": {"type": "yaml"}}, "response_format"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a b"}}},
            "response_format.json_schema.name",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
            "response_format.json_schema.schema",
        ),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"functions": [{}]}, "functions"),
        ({"reasoning_effort": "low"}, "reasoning_effort"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"adapter": "/etc/passwd"}, "adapter"),
        ({"api_base": "http://elsewhere"}, "api_base"),
    ],
)
def test_what_is_wrong_or_unsupported_is_refused_by_its_name(api, changes, param):
    body = {"model": "demo-triage", "messages": user(), **changes}
    body = {key: value for key, value in body.items() if value is not None}
    error = error_of(post(api, json.dumps(body)), 400)
    assert (error["param"], error["type"]) == (param, "invalid_request_error")


@pytest.mark.parametrize("content", [b"{", b"nul", b"\xff\xfe{}", b'{"a": NaN}', b"[" * 100_000, b"9" * 5_000])
def test_broken_json_is_400_invalid_json(api, content):
    assert error_of(post(api, content), 400)["code"] == "invalid_json"


def test_a_body_that_is_no_object_or_too_large_is_refused(api):
    assert error_of(post(api, []), 400)["code"] == "invalid_json"
    large = {"model": "m", "messages": user("x" * (4 * 1024 * 1024))}
    assert error_of(post(api, large), 413)["code"] == "request_too_large"


def test_usual_values_are_accepted(api, deployed):
    usual = {
        "frequency_penalty": 0, "presence_penalty": 0, "logit_bias": {}, "tools": [], "tool_choice": None, "n": 1,
        "response_format": {"type": "text"}, "store": False, "service_tier": "auto", "user": "u", "seed": None,
        "reasoning_effort": None, "stop": None, "logprobs": False, "modalities": ["text"],
    }  # fmt: skip
    message = {"role": "user", "content": "x", "refusal": None, "tool_calls": None}
    assert post(api, {"model": "demo-triage", "messages": [message], **usual}).status_code == 200


def test_accept_and_content_type_are_no_reason_to_refuse(api, deployed):
    body = json.dumps({"model": "demo-triage", "messages": user(), "stream": True})
    response = api.post(CHAT, body, "application/x-www-form-urlencoded", headers={"Accept": "text/event-stream"})
    assert response.status_code == 200
    assert b"".join(response.streaming_content).endswith(b"data: [DONE]\n\n")
    response.close()


def test_unknown_paths_and_methods_answer_in_the_one_shape(api, client):
    assert error_of(api.get("/v1/nothing/here"), 404)
    assert error_of(client.get("/v1/nothing"), 404)
    assert error_of(api.get(CHAT), 405)["code"] == "method_not_allowed"
    assert error_of(api.delete(CHAT), 405)


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_without_a_token_or_its_scope_nothing_is_told(method, path, client, team, alice, make_token):
    assert error_of(getattr(client, method)(path), 401)["code"] == "invalid_api_key"
    narrow = Client(headers={"Authorization": f"Bearer {make_token(team, alice, scopes=['datasets:read'])}"})
    error = error_of(getattr(narrow, method)(path), 403)
    assert (error["type"], error["code"]) == ("permission_error", "insufficient_scope")


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_a_session_cookie_is_no_token(method, path, client_for, alice, team):
    assert getattr(client_for(alice), method)(path).status_code == 401


def test_expired_and_revoked_tokens(api, token, team):
    with team_scope(team.pk):
        ApiToken.unscoped.update(expires_at=timezone.now())
    assert error_of(api.get("/v1/models"), 401)["code"] == "expired_api_key"
    with team_scope(team.pk):
        ApiToken.unscoped.update(expires_at=None, revoked_at=timezone.now())
    assert error_of(api.get("/v1/models"), 401)["code"] == "invalid_api_key"


def test_another_teams_model_and_no_model_at_all_answer_the_same_bytes(api, stranger_api, deployed):
    assert post(api, {"model": "demo-triage", "messages": user()}).status_code == 200
    for name in ("demo-triage", deployed.adapter.engine_name, str(deployed.pk)):
        asked = post(stranger_api, {"model": name, "messages": user()})
        nobody = post(stranger_api, {"model": "nobody-has-this", "messages": user()})
        assert (asked.status_code, asked.content) == (nobody.status_code, nobody.content)
        assert error_of(asked, 404)["code"] == "model_not_found"
        described = stranger_api.get(f"/v1/models/{name}")
        assert described.content == stranger_api.get("/v1/models/nobody").content
    assert "demo-triage" not in stranger_api.get("/v1/models").content.decode()


def test_the_same_name_in_two_teams_is_two_models(
    api,
    stranger_api,
    deployed,
    other_team: Team,
    charlie: User,
    actor,
    make_run: Callable[..., Run],
    node,
    load_placements,
):
    theirs = make_run(other_team, "Theirs")
    with team_scope(other_team.pk):
        services.deploy_run(team=other_team, actor=actor, run=theirs, name="demo-triage")
    load_placements(node)
    answers = [
        post(client, {"model": "demo-triage", "messages": user()}).json()["choices"][0]["message"]["content"]
        for client in (api, stranger_api)
    ]
    assert answers == [f"{deployed.adapter.engine_name} heard: hi", f"{theirs.adapter.engine_name} heard: hi"]
    with team_scope(other_team.pk):
        assert InferenceRecord.unscoped.get().team_id == other_team.pk


def test_adapters_are_never_named_by_clients(api, deployed, engine: FakeEngine):
    error_of(post(api, {"model": deployed.adapter.engine_name, "messages": user()}), 404)
    assert engine.requests == []


def test_a_model_that_is_loading_stopped_or_broken_says_so(api, deployed, team, actor, node):
    ask = {"model": "demo-triage", "messages": user()}
    with team_scope(team.pk):
        placement = deployed.adapter.placements.get()
        deployed.adapter.placements.update(status="pending")
    known_targets._versions.clear()
    response = post(api, ask)
    assert error_of(response, 503)["code"] == "model_loading"
    assert response["Retry-After"] == "2"
    lifecycle.placement_failed(placement.pk, "The file is damaged.")
    assert "The file is damaged." in error_of(post(api, ask), 503)["message"]
    with team_scope(team.pk):
        services.stop_deployment(deployment=deployed.deployment, actor=actor)
    assert error_of(post(api, ask), 400)["code"] == "deployment_stopped"
    assert api.get("/v1/models/demo-triage").status_code == 404


def test_a_name_that_no_database_takes_is_a_model_that_is_not_there(api, deployed):
    assert error_of(post(api, {"model": "\0", "messages": user()}), 404)["code"] == "model_not_found"
    assert error_of(post(api, {"model": "a\0b", "prompt": "x"}, "/v1/completions"), 404)["param"] == "model"
    assert error_of(api.get("/v1/models/%00"), 404)["code"] == "model_not_found"


@pytest.mark.parametrize("place", ["portal.tokens.look_up", "portal.quotas.fetch_in_team"])
@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_without_the_database_clients_are_told_to_come_back(api, deployed, monkeypatch, place, method, path):
    def away(*_arguments: object, **_more: object) -> None:
        raise OperationalError("the connection is lost")

    monkeypatch.setattr(place, away)
    body = {"model": "tiny"} | ({"messages": user()} if "chat" in path else {"prompt": "x"})
    response = post(api, body, path) if method == "post" else api.get(path)
    error = error_of(response, 503)
    assert (error["type"], error["code"]) == ("service_unavailable_error", "database_unavailable")
    assert response["Retry-After"] == "5"


def test_an_engine_that_is_gone_is_503_with_a_hint(api, deployed, engine: FakeEngine):
    engine.shutdown()
    engine.server_close()
    response = post(api, {"model": "demo-triage", "messages": user()})
    assert error_of(response, 503)["type"] == "service_unavailable_error"
    assert response["Retry-After"]
    with all_teams("test reads counts"):
        assert InferenceRecord.unscoped.get().status == 503


NASTY = [
    *("'", '"', "\\", "Bearer", "Bearer ", "bearer tnp_", "Basic YTpi", "Bearer t\x00k", "Bearer \udcff", "Bearer ünï"),
    "Bearer tnp_" + "0" * 16 + "_" + "A" * 43,
    "Bearer " + "x" * 65_000,
    "Bearer tnp_'; DROP TABLE x;--_a",
]


@pytest.mark.django_db
@pytest.mark.parametrize("header", NASTY)
def test_no_authorization_header_breaks_us(header, client):
    response = client.get("/v1/models", headers={"Authorization": header})
    assert error_of(response, 401)["code"] == "invalid_api_key"


@pytest.mark.django_db
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=80), st.sampled_from(["Bearer ", "bearer tnp_", "Token ", ""]))
def test_no_random_authorization_header_breaks_us(client, text, scheme):
    response = client.get("/v1/models", HTTP_AUTHORIZATION=scheme + text)
    assert response.status_code == 401


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
KEYS = st.sampled_from(["model", "messages", "stream", "stream_options", "stop", "n", "temperature", "tools", "user",
                        "metadata", "max_tokens", "logprobs", "top_logprobs", "response_format", "prompt"])  # fmt: skip


@pytest.mark.slow
@settings(max_examples=300)
@given(
    st.dictionaries(KEYS, JSON, max_size=6) | JSON,
    st.sampled_from([parameters.chat_request, parameters.completion_request]),
)
def test_any_json_is_understood_or_refused_in_words(body, read):
    with suppress(InvalidInput):
        assert read(body)["model"]
