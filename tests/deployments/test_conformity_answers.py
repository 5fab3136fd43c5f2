"""C19–C31, C35–C38 of the wire contract, with the official SDK in strict mode and a real engine.

The engine is the project's own, a process on the tests' two-layer random model: what it says means nothing, so what is
checked is shape, arithmetic and refusal, never sense. Batches are worked on by calling the queue's task.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import openai
import pytest
from openai import OpenAI
from openai.types import Decision
from pydantic import BaseModel, Field

from datasets_app import demo_phrases as phrases
from datasets_app.demo_tickets import CATEGORY_WEIGHTS, generate
from deployments import metering, tasks
from deployments.models import BatchJob, Engine, InferenceRecord
from deployments.openai_api import batches
from portal.models import Quota
from portal.rls import all_teams, team_scope
from tests import ready
from tests.deployments.sdk import sdk
from tests.gpu_worker.engine.engine_process import KEY, EngineProcess, running_engine
from tests.stage import *  # noqa: F403

pytestmark = [pytest.mark.slow, pytest.mark.django_db]

ASK = {"model": "tiny", "messages": [{"role": "user", "content": "The printer does not print."}], "max_tokens": 12}
SPAN = re.compile(r"(\d+h)?(\d+m)?(\d+s)?(\d+ms)?\Z")


class Ticket(BaseModel):
    queue: Literal["vpn", "mail"]
    urgency: Literal["low", "high"] | None


class DemoTicket(BaseModel):
    """What the demo's tickets are answered with."""

    service: Literal[tuple(phrases.ENGLISH)]  # type: ignore[valid-type]
    category: Literal[tuple(CATEGORY_WEIGHTS)]  # type: ignore[valid-type]
    urgency: Literal[tuple(sorted(set(phrases.USUAL_URGENCY.values())))]  # type: ignore[valid-type]
    user_id: Annotated[str, Field(max_length=60)] | None


class ImportedTicket(BaseModel):
    """What the rows of `tests.ready` are answered with."""

    service: str = Field(max_length=20)
    urgency: Literal["Low", "High"]


class Step(BaseModel):
    tool: Literal["reset", "replace", "ask"]
    minutes: int = Field(ge=0, le=90)


class Plan(BaseModel):
    """Objects in lists, numbers, truth values, and names in another script."""

    отдел: Literal["Сеть", "Доступ"]
    urgent: bool
    steps: list[Step] = Field(min_length=1, max_length=2)
    owner: Step | None


def examples_of(model: type[BaseModel]) -> list[str]:
    """Return answers of the data set that a model is of."""
    if model is DemoTicket:
        return [ticket.response for ticket in generate(7, 40)]
    return [answer for _text, answer in ready.TICKETS] if model is ImportedTicket else []


@pytest.fixture(scope="module")
def engine_process(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    with running_engine(tiny_model_folder, tmp_path_factory.mktemp("engine"), "--skip-self-check") as engine:
        yield engine


@pytest.fixture
def client(engine_process: EngineProcess, base_model, node, token: str) -> OpenAI:
    Engine.objects.create(
        node=node, base_model=base_model, status=Engine.Status.READY, url=engine_process.url, access_key=KEY
    )
    return sdk(token)


def asked(client: OpenAI, **options):
    return client.chat.completions.create(**{**ASK, **options})


def test_a_plain_answer_and_its_usage(client):
    answer = asked(client)
    assert answer.choices[0].finish_reason in ("stop", "length")
    usage = answer.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert 0 < usage.completion_tokens <= 12
    assert asked(client, seed=1, temperature=0).choices[0].message.content == answer.choices[0].message.content


def test_several_choices_and_stops(client):
    several = asked(client, n=3, temperature=1, seed=5)
    assert [choice.index for choice in several.choices] == [0, 1, 2]
    text = asked(client, max_tokens=30).choices[0].message.content
    letter = text[4]
    stopped = asked(client, max_tokens=30, stop=[letter]).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == (text[: text.index(letter)], "stop")


def test_logprobs_are_of_the_tokens_that_were_said(client):
    answer = asked(client, logprobs=True, top_logprobs=3)
    entries = answer.choices[0].logprobs.content
    said = b"".join(bytes(entry.bytes or []) for entry in entries).decode(errors="replace")
    assert said.startswith(answer.choices[0].message.content)
    for entry in entries:
        assert entry.logprob <= 0
        top = [one.logprob for one in entry.top_logprobs]
        assert len(top) == 3
        assert top == sorted(top, reverse=True)
        assert sum(map(math.exp, top)) <= 1 + 1e-6
        assert entry.logprob == pytest.approx(top[0]), "the likeliest token is said"


@pytest.mark.parametrize("text", ["Не работает", "Fixed 🙂"])
def test_bytes_of_tokens_are_those_of_the_text_in_every_script(client, text):
    schema = {"type": "object", "properties": {"said": {"enum": [text]}}, "required": ["said"],
              "additionalProperties": False}  # fmt: skip
    wanted = {"type": "json_schema", "json_schema": {"name": "said", "schema": schema}}
    options = {"response_format": wanted, "max_tokens": 100, "logprobs": True}
    whole = asked(client, **options).choices[0]
    assert json.loads(whole.message.content) == {"said": text}
    chunks = [chunk.choices[0] for chunk in asked(client, stream=True, **options)]
    streamed = [entry for chunk in chunks if chunk.logprobs for entry in chunk.logprobs.content]
    for entries in (whole.logprobs.content, streamed):
        assert b"".join(bytes(entry.bytes) for entry in entries) == whole.message.content.encode()


def test_what_a_stop_cuts_inside_a_schema_is_told_as_cut(client):
    """Clients that send `stop` with everything are served; a text that is no JSON is never called whole."""
    options = {**ASK, "max_tokens": 100, "response_format": Ticket}
    whole = client.chat.completions.parse(**options, stop=["\n\n"]).choices[0]
    assert (whole.finish_reason, isinstance(whole.message.parsed, Ticket)) == ("stop", True)
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(**options, stop=['", "'])


def test_penalties_change_what_is_said(client):
    plain = asked(client, max_tokens=40).choices[0].message.content
    assert asked(client, max_tokens=40, frequency_penalty=2.0).choices[0].message.content != plain


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"reasoning_effort": "low"}, "reasoning_effort"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"extra_body": {"best_of": 2}}, "best_of"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/y.png"}}]}]},
         "messages[0].content[0]"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "messages[0].role"),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_refused_by_name(client, options, param):
    with pytest.raises(openai.BadRequestError) as caught:
        asked(client, **options)
    assert caught.value.param == param


def test_too_long_is_an_error_of_its_own(client):
    with pytest.raises(openai.BadRequestError) as caught:
        asked(client, messages=[{"role": "user", "content": "word " * 2000}])
    assert caught.value.code == "context_length_exceeded"


def test_a_stream_says_what_the_whole_answer_says(client):
    chunks = list(asked(client, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    whole = asked(client)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens
    with client.chat.completions.stream(**{**ASK, "max_tokens": 100}, response_format=Ticket) as stream:
        ticket = stream.get_final_completion().choices[0].message.parsed
    assert isinstance(ticket, Ticket)


def test_answers_follow_a_schema_or_say_that_they_were_cut(client):
    answer = client.chat.completions.parse(**{**ASK, "max_tokens": 100}, response_format=Ticket)
    assert isinstance(answer.choices[0].message.parsed, Ticket)
    assert json.loads(answer.choices[0].message.content)
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(**{**ASK, "max_tokens": 1}, response_format=Ticket)
    something = asked(client, max_tokens=200, response_format={"type": "json_object"}).choices[0]
    assert something.finish_reason == "length" or isinstance(json.loads(something.message.content), dict)


@pytest.mark.parametrize("model", [Ticket, DemoTicket, ImportedTicket, Plan])
@pytest.mark.parametrize("options", [{}, {"temperature": 1.0, "seed": 3}], ids=["greedy", "drawn"])
def test_answers_are_parsed_into_the_model_of_each_data_set(client, model, options):
    for answer in examples_of(model):
        assert model.model_validate_json(answer), "the model is that of the data"
    answer = client.chat.completions.parse(**{**ASK, "max_tokens": 350}, response_format=model, **options).choices[0]
    assert isinstance(answer.message.parsed, model)
    assert list(json.loads(answer.message.content)) == list(model.model_fields)


def test_a_schema_outside_of_the_subset_is_refused_before_anything_is_said(client):
    schema = {"type": "object", "properties": {"a": {"not": {"type": "string"}}}, "required": ["a"]}
    for wanted, code in (
        ({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}, "unsupported_schema"),
        ({"type": "json_schema"}, "missing_required_parameter"),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            asked(client, response_format=wanted)
        assert caught.value.code == code


def test_legacy_completions_with_logprobs(client):
    answer = client.completions.create(model="tiny", prompt="Once upon", max_tokens=5, logprobs=2)
    choice = answer.choices[0]
    assert len(choice.logprobs.tokens) == len(choice.logprobs.token_logprobs) == len(choice.logprobs.text_offset)
    assert "".join(choice.logprobs.tokens).startswith(choice.text)


@pytest.mark.parametrize("stream", [False])
def test_legacy_completions_of_several_prompts(client, stream):
    """Texts or token ids, each of them as if it had been asked alone; the first three tokens are of no text."""

    def texts(prompt, **options) -> dict[int, str]:
        answer = client.completions.create(
            model="tiny", prompt=prompt, max_tokens=5, temperature=0, stream=stream, **options
        )
        found: dict[int, str] = {}
        for one in answer if stream else [answer]:
            for choice in one.choices:
                found[choice.index] = found.get(choice.index, "") + choice.text
        return found

    alone = [texts("Once upon")[0], texts("The printer")[0]]
    assert texts(["Once upon", "The printer"]) == dict(enumerate(alone))
    assert texts(["Once upon"]) == {0: alone[0]}
    several = texts([[40, 41], [50]], n=2)
    assert several == {0: texts([40, 41])[0], 1: texts([40, 41])[0], 2: texts([[50]])[0], 3: texts([50])[0]}


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        ([], "prompt"), (["a"] * 9, "prompt"), (["a", [1]], "prompt"), ([[]], "prompt[0]"), ([-1], "prompt[0]"),
        ([True], "prompt[0]"), ([1, "a"], "prompt"), ({"a": 1}, "prompt"), ([[384]], "prompt"), (["a", ""], "prompt"),
    ],
)  # fmt: skip
def test_prompts_that_are_none_are_refused_by_name(client, prompt, param):
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="tiny", prompt=prompt, max_tokens=5)
    assert caught.value.param == param


def test_too_many_answers_to_too_many_prompts_are_refused(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="tiny", prompt=["a"] * 8, n=5, max_tokens=5)
    assert caught.value.param == "n"


# --- decisions ---------------------------------------------------------------------------------------------------

QUESTIONS = [
    {"type": "choice", "name": "queue", "instructions": "Who has to look at it?", "choices": [
        {"value": "vpn", "description": "Networks"}, {"value": "mail"}, {"value": "printers"}]},
    {"type": "choice", "name": "known", "choices": [{"value": True}, {"value": False}]},
    {"type": "predicate", "name": "angry", "instructions": "Is the person angry?"},
    {"type": "score", "name": "urgency", "levels": [{"label": "low"}, {"label": "middle"}, {"label": "high"}]},
]  # fmt: skip

PICTURE = {"type": "input_image", "image_url": "https://example.org/a.png"}


def decide(client: OpenAI, **changes) -> Decision:
    return client.decisions.create(**{"model": "tiny", "input": "Nothing prints.", "questions": QUESTIONS, **changes})


def test_decisions_are_probabilities(client, team):
    answer = decide(client)
    queue, known, angry, urgency = answer.answers
    for one in (queue, known, urgency):
        shares = [entry.probability for entry in one.probabilities]
        assert math.fsum(shares) == pytest.approx(1, abs=1e-6)
        assert one.confidence == max(shares)
    assert queue.choice == max(queue.probabilities, key=lambda entry: entry.probability).value
    assert known.choice in (True, False)
    assert 0 < angry.probability < 1
    levels = urgency.probabilities
    assert urgency.score == pytest.approx(sum(level.value * level.probability for level in levels))
    usage = answer.usage
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens > 0
    metering.ledger.flush()
    with team_scope(team.pk):
        record = InferenceRecord.unscoped.exclude(request_id="").get()
        assert (record.status, record.prompt_tokens) == (200, usage.input_tokens)
    again = decide(client).answers
    assert again[0].confidence == pytest.approx(queue.confidence, abs=1e-4)


def test_everything_that_the_sdk_types_of_text_is_understood(client):
    """The same in other words gets the same probabilities: parts are one text, and notes change nothing."""
    asked = {"type": "predicate", "instructions": "Is the person angry?"}
    plain = decide(client, input=[{"role": "user", "content": 'Nothing prints. {"user":"anna"}'}], questions=[asked])
    parts = [{"type": "input_text", "text": "Nothing prints. "}, {"type": "input_json", "data": {"user": "anna"}}]
    in_words = [{"type": "input_text", "text": "Is the person "}, {"type": "input_text", "text": "angry?"}]
    answer = decide(
        client,
        input=[{"type": "message", "role": "user", "content": parts}],
        questions=[{**asked, "instructions": in_words}, {**asked, "name": "angry"}],
        prompt_cache_key="tickets",
        prompt_cache_options={"mode": "explicit", "ttl": "30m"},
        safety_identifier="someone",
    )
    assert [one.name for one in answer.answers] == [None, "angry"]
    for one in answer.answers:
        assert one.probability == pytest.approx(plain.answers[0].probability, abs=1e-4)
    said = [{"role": "assistant", "phase": "final_answer", "content": [{"type": "output_text", "text": "Why?"}]}]
    assert decide(client, input=[{"role": "developer", "content": "Be brief."}, *said], questions=[asked]).answers


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"input": None}, "input"),
        ({"questions": []}, "questions"),
        ({"questions": [{"type": "essay", "name": "x"}]}, "questions[0].type"),
        ({"questions": [{"type": "choice", "name": "x", "choices": [{"value": "a"}]}]}, "questions[0].choices"),
        ({"questions": [{"type": "predicate", "name": "x", "choices": []}]}, "questions[0].choices"),
        ({"questions": QUESTIONS[:1] * 2}, "questions"),
        ({"extra_body": {"temperature": 1}}, "temperature"),
        ({"questions": [{"type": "predicate", "instructions": ""}]}, "questions[0].instructions"),
        ({"questions": [{"type": "predicate", "instructions": [PICTURE]}]}, "questions[0].instructions[0]"),
        ({"questions": [{"type": "predicate", "instructions": [{"type": "input_text"}]}]},
         "questions[0].instructions[0].text"),
        ({"input": [{"role": "user", "content": [{"type": "input_text", "text": "x"}, PICTURE]}]},
         "input[0].content[1]"),
        ({"input": [{"role": "user", "content": [{"type": "input_json", "data": [1]}]}]}, "input[0].content[0].data"),
        ({"input": [{"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"}]}, "input[0].type"),
        ({"prompt_cache_options": {"mode": "always"}}, "prompt_cache_options.mode"),
    ],
)  # fmt: skip
def test_questions_that_cannot_be_asked_are_refused_by_name(client, changes, param):
    with pytest.raises(openai.BadRequestError) as caught:
        decide(client, **changes)
    assert caught.value.param == param


def test_an_answer_says_how_sure_it_is_of_its_closed_fields(client):
    schema = {**Ticket.model_json_schema(), "additionalProperties": False}
    wanted = {"type": "json_schema", "json_schema": {"name": "ticket", "schema": schema}}
    plain = asked(client, max_tokens=100, response_format=wanted)
    answer = asked(client, max_tokens=100, response_format=wanted, extra_body={"confidence": True})
    assert answer.choices[0].message == plain.choices[0].message
    (queue,) = answer.choices[0].model_extra["confidence"]
    assert queue["value"] == json.loads(answer.choices[0].message.content)["queue"]
    assert 0 < queue["confidence"] <= 1
    assert (queue["name"], queue["calibrated"], queue["abstained"]) == ("queue", False, False)
    assert answer.usage.prompt_tokens > plain.usage.prompt_tokens
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


# --- limits ------------------------------------------------------------------------------------------------------


def test_limits_are_told_as_spans_and_a_hard_one_is_not_retried(client, token, team):
    with team_scope(team.pk):
        team.teamlimits.create(kind=Quota.REQUESTS_PER_MINUTE, value=3)
        team.teamlimits.create(kind=Quota.TOKENS_PER_MONTH, value=10_000)
    raw = client.chat.completions.with_raw_response
    left = []
    for _number in range(2):
        headers = raw.create(**ASK).headers
        left.append(int(headers["x-ratelimit-remaining-requests"]))
        assert SPAN.match(headers["x-ratelimit-reset-requests"])
        assert headers["openai-processing-ms"].isdecimal()
    assert left == [2, 1]
    client.models.list()
    with pytest.raises(openai.RateLimitError) as soft:
        raw.create(**ASK)
    assert soft.value.code == "rate_limit_exceeded"
    assert 0 < int(soft.value.response.headers["retry-after"]) <= 120
    with team_scope(team.pk):
        team.teamlimits.filter(kind=Quota.REQUESTS_PER_MINUTE).update(value=1000)
        team.teamlimits.filter(kind=Quota.TOKENS_PER_MONTH).update(value=1)
        before = len(metering.ledger._waiting)
    patient = sdk(token, retries=3)
    sent = []
    patient._client.event_hooks["request"] = [lambda request: sent.append(request)]
    with pytest.raises(openai.RateLimitError) as hard:
        patient.chat.completions.create(**ASK)
    assert (hard.value.code, len(sent)) == ("insufficient_quota", 1)
    assert int(hard.value.response.headers["retry-after"]) <= 120
    assert len(metering.ledger._waiting) == before, "what was never asked is not counted"


def test_too_many_at_once_are_told_to_come_back(client, settings):
    settings.MODEL_REQUESTS = 0
    for stream in (False, True):
        with pytest.raises(openai.RateLimitError) as caught:
            asked(client, stream=stream)
        assert (caught.value.code, caught.value.response.headers["retry-after"]) == ("slow_down", "1")


# --- batches -----------------------------------------------------------------------------------------------------


def batch_of(client: OpenAI, entries: list[dict], endpoint: str = "/v1/chat/completions", **options):
    lines = "\n".join(json.dumps(entry) for entry in entries).encode()
    file = client.files.create(file=("asks.jsonl", lines), purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h", **options)


def entry(number: int, url: str = "/v1/chat/completions", **changes) -> dict:
    return {"custom_id": f"ask-{number}", "method": "POST", "url": url, "body": {**ASK, **changes}}


def work(public_id: str) -> None:
    tasks.run_batch(public_id.removeprefix("batch_"))


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other threads have connections of their own and would not see what this test's transaction made."""
    monkeypatch.setattr(batches, "answered", lambda ask, window: list(map(ask, window)))


def test_a_batch_is_answered_into_files(client, team):
    batch = batch_of(client, [*map(entry, range(3)), entry(3, temperature=9)], metadata={"quarter": "last"})
    assert (batch.status, batch.metadata) == ("validating", {"quarter": "last"})
    work(batch.id)
    done = client.batches.retrieve(batch.id)
    assert (done.status, done.completed_at is not None) == ("completed", True)
    counts = done.request_counts
    assert (counts.total, counts.completed, counts.failed) == (4, 3, 1)
    answers = [json.loads(line) for line in client.files.content(done.output_file_id).text.splitlines()]
    assert [answer["custom_id"] for answer in answers] == ["ask-0", "ask-1", "ask-2"]
    said = answers[0]["response"]["body"]["choices"][0]["message"]["content"]
    assert said == asked(client).choices[0].message.content
    (refused,) = [json.loads(line) for line in client.files.content(done.error_file_id).text.splitlines()]
    assert refused["response"]["status_code"] == 400
    assert refused["response"]["body"]["error"]["param"] == "temperature"
    metering.ledger.flush()
    with all_teams("test"):
        assert InferenceRecord.unscoped.filter(status=200).exclude(request_id="").count() == 4
    assert next(iter(client.batches.list(limit=1))).id == batch.id


def test_a_line_that_fails_on_our_side_says_that_it_was_not_the_callers_fault(client, team, monkeypatch):
    monkeypatch.setattr(batches._Slice, "_asked", lambda *_args: {}["nowhere"])
    batch = batch_of(client, [entry(0)])
    work(batch.id)
    (failed,) = client.files.content(client.batches.retrieve(batch.id).error_file_id).text.splitlines()
    response = json.loads(failed)["response"]
    error = response["body"]["error"]
    assert (response["status_code"], error["type"], error["code"]) == (500, "server_error", "internal_error")
    assert "nowhere" not in failed


def test_a_batch_of_decisions(client):
    body = {"model": "tiny", "input": "x", "questions": QUESTIONS[2:3]}
    asks = [{"custom_id": "one", "method": "POST", "url": "/v1/decisions", "body": body}]
    batch = batch_of(client, asks, "/v1/decisions")
    work(batch.id)
    output = client.files.content(client.batches.retrieve(batch.id).output_file_id).text
    assert json.loads(output)["response"]["body"]["answers"][0]["name"] == "angry"


@pytest.mark.parametrize(
    ("entries", "code"),
    [
        ([{"custom_id": "a"}], "invalid_method"),
        ([entry(1), entry(1)], "duplicate_custom_id"),
        ([entry(1, url="/v1/completions")], "mismatched_endpoint"),
    ],
)
def test_a_bad_batch_file_fails_with_line_and_code(client, entries, code):
    batch = batch_of(client, entries)
    work(batch.id)
    failed = client.batches.retrieve(batch.id)
    assert failed.status == "failed"
    assert (failed.errors.data[-1].code, failed.errors.data[-1].line) == (code, len(entries))


def test_a_batch_goes_on_where_it_was_and_asks_nothing_twice(client, monkeypatch, team):
    monkeypatch.setattr(batches, "SLICE_S", 0.0)
    batch = batch_of(client, [*map(entry, range(6))])
    work(batch.id)
    first = client.batches.retrieve(batch.id)
    assert (first.status, first.request_counts.completed) == ("in_progress", batches.PARALLEL)
    with team_scope(team.pk):  # a worker that dies behind its last note leaves half a line
        row = BatchJob.unscoped.select_related("team").get(pk=batch.id.removeprefix("batch_"))
        with (row.folder / "output.jsonl").open("ab") as file:
            file.write(b'{"custom_id": "ask-4", "resp')
    for _slice in range(3):
        work(batch.id)
    done = client.batches.retrieve(batch.id)
    answers = [json.loads(line) for line in client.files.content(done.output_file_id).text.splitlines()]
    assert [answer["custom_id"] for answer in answers] == [f"ask-{number}" for number in range(6)]
    assert not row.folder.exists()


def test_a_cancelled_batch_keeps_what_was_answered(client, monkeypatch):
    monkeypatch.setattr(batches, "SLICE_S", 0.0)
    batch = batch_of(client, [*map(entry, range(6))])
    work(batch.id)
    assert client.batches.cancel(batch.id).status == "cancelling"
    work(batch.id)
    ended = client.batches.retrieve(batch.id)
    assert ended.status == "cancelled"
    assert len(client.files.content(ended.output_file_id).text.splitlines()) == batches.PARALLEL
    with pytest.raises(openai.ConflictError):
        client.batches.cancel(batch.id)
    retried = client.batches.cancel(batch.id, extra_headers={"x-stainless-retry-count": "1"})
    assert retried.status == "cancelling", "as the first was answered"


def test_a_batch_ends_with_its_time_or_its_token(client, team):
    late, revoked = batch_of(client, [entry(1)]), batch_of(client, [entry(1)])
    with team_scope(team.pk):
        rows = team.batchjobs.select_related("token")
        rows.filter(pk=late.id.removeprefix("batch_")).update(expires_at="2020-01-01T00:00Z")
        work(late.id)
        rows.filter(pk=revoked.id.removeprefix("batch_")).update(token=None)
        work(revoked.id)
    assert client.batches.retrieve(late.id).status == "expired"
    ended = client.batches.retrieve(revoked.id)
    assert (ended.status, ended.errors.data[0].code) == ("failed", "token_ended")
