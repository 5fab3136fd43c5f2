"""A server that stops ends its streams with an error that says so, and counts them."""

from __future__ import annotations

import json

import pytest

from deployments import metering
from deployments.models import InferenceRecord
from portal import stopping
from portal.rls import all_teams

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]


@pytest.fixture(autouse=True)
def going_on():
    yield
    stopping.cancel()


@pytest.mark.parametrize("words", ["#forever", "#slow"])
def test_a_stream_ends_with_an_error_when_the_server_stops(api, deployed, words):
    body = {"model": "demo-triage", "messages": [{"role": "user", "content": words}], "stream": True}
    response = api.post("/v1/chat/completions", json.dumps(body), "application/json")
    frames = iter(response.streaming_content)
    assert b"chunk" in next(frames)
    stopping.begin(0.3)
    *_words, failure, done = list(frames)
    response.close()
    assert done == b"data: [DONE]\n\n"
    error = json.loads(failure.removeprefix(b"data: "))["error"]
    assert error["type"] == "service_unavailable_error"
    assert "restarted" in error["message"]
    metering.ledger.flush()
    with all_teams("test"):
        assert InferenceRecord.unscoped.get().status == 503
