"""The engine's wire contract, against a real child process."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from datasets_app.rendering import ChatRenderer
from experiments.problem_file import PROBLEM_FILE, Problem
from tests.gpu_worker.engine.engine_process import NAME, EngineProcess, running_engine
from tests.gpu_worker.engine.reference import Reference

pytestmark = pytest.mark.slow

TEXT = "The printer does not print. " * 3


@pytest.fixture(scope="module")
def engine(
    model_dir: Path, adapter_dirs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EngineProcess]:
    with running_engine(model_dir, tmp_path_factory.mktemp("engine"), "--skip-self-check") as engine:
        for name, path in adapter_dirs.items():
            response = engine.post("/v1/load_lora_adapter", lora_name=name, lora_path=str(path))
            assert response.status_code == 200, response.text
        yield engine


def error_of(response: httpx.Response) -> dict[str, Any]:
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return dict(error)


def test_health_needs_no_key_and_everything_else_does(engine: EngineProcess) -> None:
    with httpx.Client(base_url=engine.url, trust_env=False) as stranger:
        health = stranger.get("/health")
        assert (health.status_code, health.json()) == (200, {"self_check": "none"})
        routes = ("/v1/models", "/metrics", "/v1/chat/completions", "/nowhere")
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic test-key"}):
            for route in routes:
                response = stranger.get(route, headers=headers)
                assert response.status_code == 401
                assert error_of(response)["code"] == "invalid_api_key"


def test_models_lists_base_and_adapters(engine: EngineProcess) -> None:
    models = engine.client.get("/v1/models").json()["data"]
    assert {model["id"] for model in models} >= {NAME, "north", "south", "west"}
    assert {model["parent"] for model in models if model["id"] != NAME} == {NAME}


@pytest.mark.parametrize("model", [NAME, "north", "south", "west"])
def test_a_greedy_answer_is_transformers_answer(
    engine: EngineProcess,
    reference: Reference,
    renderer: ChatRenderer,
    prompt_ids: Callable[[str], list[int]],
    model: str,
) -> None:
    expected = reference.generate(prompt_ids(TEXT), None if model == NAME else model, 12)
    body = engine.chat(TEXT, model).json()
    choice = body["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": renderer.decode(expected), "refusal": None}
    assert choice["finish_reason"] in ("stop", "length")
    assert body["object"] == "chat.completion"
    assert body["model"] == model
    usage = body["usage"]
    assert usage["prompt_tokens"] == len(prompt_ids(TEXT))
    assert usage["completion_tokens"] == len(expected)
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_a_repeated_prompt_reports_cached_tokens(engine: EngineProcess) -> None:
    first = engine.chat("Something that nobody asked before, long enough for a block.", "south").json()
    again = engine.chat("Something that nobody asked before, long enough for a block.", "south").json()
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
    assert again["choices"] == first["choices"]


def test_a_stream_adds_up_to_the_whole_answer(engine: EngineProcess) -> None:
    whole = engine.chat("Привет, принтер", "north").json()
    messages = [{"role": "user", "content": "Привет, принтер"}]
    events = engine.events(
        model="north", messages=messages, temperature=0, max_tokens=12, stream_options={"include_usage": True}
    )
    assert events[-1] == "[DONE]"
    *chunks, last = events[:-1]
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert all(chunk["object"] == "chat.completion.chunk" and chunk["usage"] is None for chunk in chunks)
    assert len({chunk["id"] for chunk in chunks}) == 1
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert text == whole["choices"][0]["message"]["content"]
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons[-1] == whole["choices"][0]["finish_reason"]
    assert set(reasons[:-1]) == {None}
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]


def test_several_choices(engine: EngineProcess) -> None:
    options = {"n": 3, "temperature": 1.0, "seed": 5}
    body = engine.chat("hello", **options).json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    texts = [choice["message"]["content"] for choice in body["choices"]]
    assert len(set(texts)) > 1
    again = engine.chat("hello", **options).json()
    assert [choice["message"]["content"] for choice in again["choices"]] == texts
    single = engine.chat("hello", temperature=1.0, seed=5).json()
    assert single["choices"][0]["message"]["content"] == texts[0]
    assert body["usage"]["prompt_tokens"] == single["usage"]["prompt_tokens"]


def test_several_choices_streamed(engine: EngineProcess) -> None:
    messages = [{"role": "user", "content": "hello"}]
    events = engine.events(model=NAME, messages=messages, n=2, temperature=1.0, seed=5, max_tokens=6)
    assert {event["choices"][0]["index"] for event in events[:-1]} == {0, 1}
    endings = [event["choices"][0]["finish_reason"] for event in events[:-1]]
    assert sum(reason is not None for reason in endings) == 2


def test_logprobs(engine: EngineProcess) -> None:
    choice = engine.chat("hello", logprobs=True, top_logprobs=3).json()["choices"][0]
    content = choice["logprobs"]["content"]
    assert content
    for token in content:
        assert token["logprob"] <= 0
        assert len(token["top_logprobs"]) == 3
        assert token["top_logprobs"][0]["logprob"] == pytest.approx(token["logprob"], abs=1e-4)


def test_stop_strings(engine: EngineProcess) -> None:
    whole = engine.chat("hello", max_tokens=30).json()["choices"][0]["message"]["content"]
    stop = whole[5:8]
    choice = engine.chat("hello", max_tokens=30, stop=[stop, "never seen"]).json()["choices"][0]
    assert choice["message"]["content"] == whole[: whole.find(stop)]
    assert choice["finish_reason"] == "stop"


def test_plain_completions(engine: EngineProcess, renderer: ChatRenderer, reference: Reference) -> None:
    body = engine.post("/v1/completions", model="north", prompt="The printer", temperature=0, max_tokens=8).json()
    expected = renderer.decode(reference.generate(renderer.encode("The printer"), "north", 8))
    assert body["object"] == "text_completion"
    assert body["choices"][0]["text"] == expected
    ids = renderer.encode("The printer")
    both = engine.post("/v1/completions", model="north", prompt=ids, temperature=0, max_tokens=8, logprobs=2).json()
    assert both["choices"][0]["text"] == expected
    assert len(both["choices"][0]["logprobs"]["tokens"]) == both["usage"]["completion_tokens"]
    several = engine.post("/v1/completions", model="north", prompt=[ids, ids[:2]], temperature=0, max_tokens=8).json()
    assert [choice["text"] for choice in several["choices"]] == [
        expected, renderer.decode(reference.generate(ids[:2], "north", 8)),
    ]  # fmt: skip
    for wrong in ([ids, []], [[1]] * 9, [[384]], [["a"]], [ids, "a"]):
        refused = engine.post("/v1/completions", model="north", prompt=wrong, max_tokens=1)
        assert (refused.status_code, error_of(refused)["param"]) == (400, "prompt")
    events = engine.events("/v1/completions", model="north", prompt="The printer", temperature=0, max_tokens=8)
    assert "".join(event["choices"][0]["text"] for event in events[:-1]) == expected


def test_text_parts_and_the_developer_role(engine: EngineProcess) -> None:
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    plain = engine.chat("hello").json()["choices"]
    body = {"model": NAME, "temperature": 0, "max_tokens": 12}
    messages: list[dict[str, Any]] = [{"role": "user", "content": parts}]
    assert engine.post("/v1/chat/completions", messages=messages, **body).json()["choices"] == plain
    for role in ("system", "developer"):
        messages = [{"role": role, "content": "Be brief."}, {"role": "user", "content": "hello"}]
        response = engine.post("/v1/chat/completions", messages=messages, **body)
        assert response.status_code == 200, response.text


SCHEMA = {
    "type": "object",
    "properties": {"queue": {"type": "string", "enum": ["Access", "Network"]}, "urgent": {"type": "boolean"}},
    "required": ["queue", "urgent"],
    "additionalProperties": False,
}


def schema_format(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "triage", "schema": schema, "strict": True}}


@pytest.mark.parametrize("model", [NAME, "north"])
def test_an_answer_within_a_schema(engine: EngineProcess, model: str) -> None:
    body = engine.chat(TEXT, model, max_tokens=60, response_format=schema_format(SCHEMA)).json()
    answer = json.loads(body["choices"][0]["message"]["content"])
    assert set(answer) == {"queue", "urgent"}
    assert body["choices"][0]["finish_reason"] == "stop"
    messages = [{"role": "user", "content": TEXT}]
    events = engine.events(
        model=model, messages=messages, temperature=0, max_tokens=60, response_format=schema_format(SCHEMA)
    )
    text = "".join(event["choices"][0]["delta"].get("content", "") for event in events[:-1])
    assert text == body["choices"][0]["message"]["content"]


def test_a_json_object(engine: EngineProcess) -> None:
    choice = engine.chat("hello", max_tokens=20, response_format={"type": "json_object"}).json()["choices"][0]
    assert choice["message"]["content"].startswith("{")


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        (schema_format({"type": "object", "not": {}}), "unsupported_schema"),
        ({"type": "json_schema"}, "invalid_value"),
        ({"type": "text", "json_schema": {"name": "x", "schema": {}}}, "invalid_value"),
        ({"type": "grammar"}, "invalid_value"),
        ({"type": "json_schema", "json_schema": {"name": "not a name", "schema": {}}}, "invalid_value"),
    ],
)
def test_schemas_that_are_refused(engine: EngineProcess, wanted: dict[str, Any], code: str) -> None:
    response = engine.chat("hello", response_format=wanted)
    assert response.status_code == 400
    assert (error_of(response)["param"], error_of(response)["code"]) == ("response_format", code)


CHAT = {"model": NAME, "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    ("changes", "param", "code"),
    [
        ({"nonsense": 1}, "nonsense", "unsupported_parameter"),
        ({"top_k": -2}, "top_k", "invalid_value"),
        ({"min_p": 1.5}, "min_p", "invalid_value"),
        ({"frequency_penalty": 2.5}, "frequency_penalty", "invalid_value"),
        ({"logit_bias": {"5": 1}}, "logit_bias", "unsupported_parameter"),
        ({"tools": [{"type": "function"}]}, "tools", "unsupported_parameter"),
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"temperature": "0"}, "temperature", "invalid_value"),
        ({"top_p": 0}, "top_p", "invalid_value"),
        ({"n": 9}, "n", "invalid_value"),
        ({"n": True}, "n", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens", "invalid_value"),
        ({"max_tokens": 5000}, "messages", "context_length_exceeded"),
        ({"messages": [{"role": "user", "content": "long " * 3000}]}, "messages", "context_length_exceeded"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": None}, "messages", "missing_required_parameter"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content", "invalid_value"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "invalid_value"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "invalid_value"),
        ({"stop": ""}, "stop", "invalid_value"),
        ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x", "unsupported_parameter"),
    ],
)
def test_what_is_refused_names_its_parameter(
    engine: EngineProcess, changes: dict[str, Any], param: str, code: str
) -> None:
    response = engine.client.post("/v1/chat/completions", json={**CHAT, **changes})
    assert response.status_code == 400
    error = error_of(response)
    assert (error["param"], error["code"], error["type"]) == (param, code, "invalid_request_error")


def test_harmless_values_of_unsupported_parameters_are_accepted(engine: EngineProcess) -> None:
    harmless = {"frequency_penalty": 0, "logit_bias": {}, "tools": None, "response_format": {"type": "text"}}
    response = engine.client.post("/v1/chat/completions", json={**CHAT, **harmless, "user": "u", "max_tokens": 2})
    assert response.status_code == 200, response.text


def test_an_unknown_model_is_not_found(engine: EngineProcess) -> None:
    response = engine.chat("hello", "nobody")
    assert response.status_code == 404
    assert error_of(response)["code"] == "model_not_found"


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'"x"', b"\xff", b"[" * 100_000])
def test_bodies_that_are_no_json_object(engine: EngineProcess, content: bytes) -> None:
    response = engine.client.post("/v1/chat/completions", content=content)
    assert response.status_code == 400
    assert error_of(response)["code"] == "invalid_json"


def test_the_body_is_bounded_also_without_a_declared_length(engine: EngineProcess) -> None:
    large = b"x" * (3 * 2**20)
    assert engine.client.post("/v1/completions", content=large).status_code == 413
    response = engine.client.post("/v1/completions", content=iter([large]))
    assert response.status_code == 413
    assert error_of(response)["code"] == "request_too_large"


def test_unknown_routes_and_methods_have_the_same_error_shape(engine: EngineProcess) -> None:
    assert error_of(engine.client.get("/v1/nothing"))["code"] == "not_found"
    response = engine.client.get("/v1/chat/completions")
    assert response.status_code == 405
    error_of(response)
    assert "x-request-id" in response.headers


def test_adapters_are_loaded_and_unloaded_while_serving(engine: EngineProcess, adapter_dirs: dict[str, Path]) -> None:
    expected = engine.chat(TEXT, "north").json()["choices"]
    load = {"lora_name": "north-again", "lora_path": str(adapter_dirs["north"])}
    assert engine.post("/v1/load_lora_adapter", **load).status_code == 200
    assert engine.chat(TEXT, "north-again").json()["choices"] == expected
    twice = engine.post("/v1/load_lora_adapter", **load)
    assert (twice.status_code, error_of(twice)["code"]) == (400, "adapter_exists")
    assert engine.post("/v1/unload_lora_adapter", lora_name="north-again").status_code == 200
    assert engine.chat(TEXT, "north-again").status_code == 404
    assert engine.post("/v1/unload_lora_adapter", lora_name="north-again").status_code == 404
    bad = engine.post("/v1/load_lora_adapter", lora_name="x", lora_path="/nowhere")
    assert (bad.status_code, error_of(bad)["message"]) == (400, "The adapter folder does not exist.")


def test_metrics_count_what_happened(engine: EngineProcess) -> None:
    before = engine.metric("engine_generated_tokens_total")
    engine.chat("hello", max_tokens=5)
    assert engine.metric("engine_generated_tokens_total") - before <= 5
    assert engine.metric("engine_generated_tokens_total") > before
    assert engine.metric("engine_adapters_loaded") == 3
    assert engine.metric("engine_sequences_running") == 0


def test_an_adapter_for_labels_answers_with_exactly_one_of_its_names(
    engine: EngineProcess, adapter_dirs: dict[str, Path], tmp_path: Path
) -> None:
    labels = ("Card", "Card lost", "Kündigung", 'Say "hi"', "a\\b")
    folder = tmp_path / "labels"
    shutil.copytree(adapter_dirs["north"], folder)
    (folder / PROBLEM_FILE).write_text(Problem("classification", labels=labels).to_json())
    assert engine.post("/v1/load_lora_adapter", lora_name="labels", lora_path=str(folder)).status_code == 200
    for number in range(6):
        asked = engine.chat(f"Ticket {number}", "labels", temperature=1.5, seed=number, max_tokens=40)
        assert asked.json()["choices"][0]["message"]["content"] in labels
    schema = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"enum": [1, 2]}}}
    asked = engine.chat("Ticket", "labels", response_format=schema).json()
    assert asked["choices"][0]["message"]["content"] in ("1", "2")  # who asks for a schema gets it


def test_an_adapter_for_numbers_answers_with_a_number(
    engine: EngineProcess, adapter_dirs: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "numbers"
    shutil.copytree(adapter_dirs["south"], folder)
    (folder / PROBLEM_FILE).write_text(Problem("regression", decimals=2, negative=True).to_json())
    assert engine.post("/v1/load_lora_adapter", lora_name="numbers", lora_path=str(folder)).status_code == 200
    for number in range(4):
        asked = engine.chat(f"Ticket {number}", "numbers", temperature=1.0, seed=number, max_tokens=60)
        assert re.fullmatch(r"-?[0-9]{1,12}(\.[0-9]{1,2})?", asked.json()["choices"][0]["message"]["content"])
    (folder / PROBLEM_FILE).write_text("{}")
    refused = engine.post("/v1/load_lora_adapter", lora_name="broken", lora_path=str(folder))
    assert refused.status_code == 400
    assert PROBLEM_FILE in error_of(refused)["message"]
