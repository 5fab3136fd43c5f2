"""One contract, two engines: ours, and a *simulated* vLLM server (no GPU here, so vLLM itself never ran in a test).

Everything goes through the portal's own client, as in production.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from deployments import engine_client, engine_scoring
from deployments.engine_client import AdapterRefused, EngineFailed, EngineTarget
from deployments.engine_places import Places
from gpu_worker.engine_kinds import EngineProgram, choose_program
from gpu_worker.engine_process import EngineProcess, EngineSpec
from portal.errors import PortalError, Unavailable
from tests.gpu_worker.engine import simulated_vllm

pytestmark = pytest.mark.slow

SIMULATED_VLLM = EngineProgram("vllm", (sys.executable, simulated_vllm.__file__))
TUNEPORT = EngineProgram(
    "tuneport", (sys.executable, "-m", "gpu_worker.engine", "--kv-cache-mb", "4", "--skip-self-check")
)
SCHEMA = {
    "type": "object",
    "properties": {"queue": {"type": "string", "enum": ["Access", "Network"]}, "urgent": {"type": "boolean"}},
    "required": ["queue", "urgent"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class KnownTarget(EngineTarget):
    """A target of which the test knows what is behind it; the portal does not."""

    kind: str = ""


@pytest.fixture(scope="module", params=[TUNEPORT, SIMULATED_VLLM], ids=["tuneport", "simulated-vllm"])
def target(
    request: pytest.FixtureRequest,
    model_dir: Path,
    adapter_dirs: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[KnownTarget]:
    """An engine that the node agent's own code started, with two adapters."""
    folder = tmp_path_factory.mktemp("engine")
    program: EngineProgram = request.param
    spec = EngineSpec(
        "tiny", model_dir, "127.0.0.1", folder / "ready.json", folder / "log", folder / "home", Path.cwd(),
        command=program.command, kind=program.kind,
    )  # fmt: skip
    process = EngineProcess(spec, {"OMP_NUM_THREADS": "1"})
    try:
        deadline = time.monotonic() + 60
        while (url := process.url()) is None:
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, "the engine does not get ready"
            time.sleep(0.05)
        target = KnownTarget(url, process.access_key, program.kind == "tuneport", kind=program.kind)
        for name in ("north", "south"):
            engine_client.load_adapter(target, name=f"team-{name}-v1", folder=adapter_dirs[name])
        yield target
        process.terminate()
        assert process._process.wait(15) == 0
    finally:
        process.wait(0)


def ask(target: EngineTarget, model: str, text: str = "The printer does not print.", **options: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    body = {"model": model, "messages": messages, "temperature": 0, "max_tokens": 8}
    return engine_client.chat(target, body | options)


def stream(target: EngineTarget, model: str, **options: Any) -> engine_client.ChatStream:
    messages = [{"role": "user", "content": "The printer does not print."}]
    body = {"model": model, "messages": messages, "temperature": 0, "max_tokens": 8}
    return engine_client.stream_chat(target, body | options)


def said(answer: dict[str, Any]) -> str:
    return str(answer["choices"][0]["message"]["content"])


def test_it_is_healthy(target: EngineTarget) -> None:
    assert engine_client.health_of(target) is not None


def test_one_prompt_two_adapters_in_turn_and_at_once(target: EngineTarget) -> None:
    order = ["team-north-v1", "team-south-v1", "team-north-v1"]
    in_turn = [said(ask(target, name)) for name in order]
    assert in_turn[0] == in_turn[2] != in_turn[1]
    with ThreadPoolExecutor(6) as pool:
        at_once = list(pool.map(lambda name: said(ask(target, name)), order * 2))
    assert at_once == in_turn * 2


def test_a_prefix_is_reused_within_a_team_and_never_between_two(target: EngineTarget) -> None:
    text = "Somebody asks something long enough for several blocks of the cache."

    def cached(model: str, salt: str) -> int:
        usage = ask(target, model, text, cache_salt=salt)["usage"]
        return int(usage["prompt_tokens_details"]["cached_tokens"])

    for model in ("tiny", "team-north-v1"):
        assert cached(model, "team one") == 0
        assert cached(model, "team one") >= 16
        assert cached(model, "team two") == 0
    assert cached("team-south-v1", "team one") == 0


def test_a_stream_adds_up_and_tells_its_usage(target: EngineTarget) -> None:
    whole = ask(target, "team-north-v1")
    body = {
        "model": "team-north-v1",
        "messages": [{"role": "user", "content": "The printer does not print."}],
        "temperature": 0,
        "max_tokens": 8,
        "stream_options": {"include_usage": True},
    }
    stream = engine_client.stream_chat(target, body)
    events = []
    while (event := stream.next_event()) is not None:
        events.append(event)
    stream.close()
    pieces = [choice["delta"].get("content") or "" for event in events for choice in event["choices"]]
    assert "".join(pieces) == said(whole)
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]


def test_an_answer_keeps_to_its_schema(target: EngineTarget) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "triage", "schema": SCHEMA, "strict": True}}
    answer = json.loads(said(ask(target, "team-north-v1", max_tokens=60, response_format=wanted)))
    assert set(answer) == {"queue", "urgent"}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "not": {"required": ["queue"]}},
        {"type": "object", "properties": {"a": {"$ref": "#/$defs/missing"}}},
        {"type": "string", "pattern": "("},
    ],
)
def test_a_schema_that_cannot_be_kept_to_is_refused_before_anything_is_generated(
    target: EngineTarget, schema: dict[str, Any]
) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "triage", "schema": schema, "strict": True}}
    for asked in (ask, stream):
        with pytest.raises(PortalError) as refusal:
            asked(target, "team-north-v1", response_format=wanted)
        assert (refusal.value.status, refusal.value.code) == (400, "unsupported_schema")
        assert refusal.value.param == "response_format"


def test_answers_to_a_schema_have_no_free_white_space(target: EngineTarget) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "triage", "schema": SCHEMA, "strict": True}}
    text = said(ask(target, "team-north-v1", max_tokens=60, response_format=wanted))
    assert text in (json.dumps(json.loads(text)), json.dumps(json.loads(text), separators=(",", ":")))


def test_more_than_a_process_may_have_open_are_told_to_come_back(
    target: EngineTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_client, "_places", Places(most=4, share=0.5))
    with ExitStack() as stack:
        for team in ("one", "one", "two"):
            stack.callback(stream(target, "tiny", cache_salt=team).close)
        for refused in (ask, stream):
            with pytest.raises(Unavailable, match="of your requests") as refusal:
                refused(target, "tiny", cache_salt="one")
            assert (refusal.value.status, refusal.value.headers["Retry-After"]) == (503, "2")
        stack.callback(stream(target, "tiny", cache_salt="two").close)
        with pytest.raises(Unavailable, match="Too many requests"):
            ask(target, "tiny", cache_salt="three")
    for team in ("one", "two", "three"):
        assert said(ask(target, "tiny", cache_salt=team))
    with pytest.raises(PortalError):
        ask(target, "tiny", temperature=3)
    assert not engine_client._places._open, "refusals give their places back, too"


def test_several_choices(target: EngineTarget) -> None:
    choices = ask(target, "tiny", n=2, temperature=1.0, seed=3)["choices"]
    assert [choice["index"] for choice in choices] == [0, 1]


def test_adapters_come_and_go(target: EngineTarget, adapter_dirs: dict[str, Path]) -> None:
    engine_client.load_adapter(target, name="team-west-v1", folder=adapter_dirs["west"])
    engine_client.load_adapter(target, name="team-west-v1", folder=adapter_dirs["west"])  # asked twice is no failure
    assert said(ask(target, "team-west-v1"))
    engine_client.unload_adapter(target, name="team-west-v1")
    engine_client.unload_adapter(target, name="team-west-v1")
    with pytest.raises(Unavailable) as refusal:
        ask(target, "team-west-v1")
    assert refusal.value.code == "model_loading"
    with pytest.raises(AdapterRefused):
        engine_client.load_adapter(target, name="team-nobody-v1", folder=Path("/nowhere"))


def test_what_the_caller_did_wrong_is_told_in_the_same_words(target: EngineTarget) -> None:
    with pytest.raises(PortalError) as refusal:
        ask(target, "tiny", max_tokens=5000)
    assert (refusal.value.status, refusal.value.code) == (400, "context_length_exceeded")
    with pytest.raises(PortalError) as refusal:
        ask(target, "tiny", temperature=3)
    assert (refusal.value.status, refusal.value.param) == (400, "temperature")
    assert isinstance(refusal.value.code, str)


def test_values_are_scored_or_refused_with_a_sentence(target: KnownTarget) -> None:
    messages = [{"role": "user", "content": "The printer does not print."}]
    body = {"model": "team-north-v1", "messages": messages, "values": ["yes", "no", "not sure"], "cache_salt": "team"}
    if target.kind == "vllm":
        with pytest.raises(PortalError, match="cannot score values"):
            engine_client.score_values(target, body)
        return
    words = engine_client.score_values(target, body)
    assert sum(map(math.exp, words.logprobs)) == pytest.approx(1)
    part = {"beginning": '{"queue": ', "values": ['"Access"', '"Network"'], "ending": "}"}
    field = engine_client.score_values(target, {**body, **part})
    assert sum(map(math.exp, field.logprobs)) == pytest.approx(1)
    assert field.cached_tokens >= 16
    other = engine_client.score_values(target, {**body, **part, "model": "team-south-v1", "cache_salt": "other"})
    assert other.cached_tokens == 0
    assert other.logprobs != field.logprobs
    with pytest.raises(PortalError) as refusal:
        engine_client.score_values(target, {**body, "values": []})
    assert refusal.value.param == "values"
    with pytest.raises(PortalError) as refusal:
        engine_client.score_values(target, {**body, "values": ["long " * 3000]})
    assert refusal.value.code == "context_length_exceeded"


def test_either_engine_tells_how_likely_values_are(target: KnownTarget, adapter_dirs: dict[str, Path]) -> None:
    messages = [{"role": "user", "content": "No print."}]
    values = ['"Access"', '"Network"', '"Net"']
    body = {"model": "team-north-v1", "messages": messages, "values": values, "cache_salt": "team",
            "beginning": '{"queue": ', "ending": ', "'}  # fmt: skip
    found = engine_scoring.score_values(target, body)
    assert sum(map(math.exp, found.logprobs)) == pytest.approx(1)
    assert found.tokens > len(values)
    assert engine_scoring.score_values(target, body).logprobs == pytest.approx(found.logprobs, abs=1e-4)
    other = engine_scoring.score_values(target, {**body, "model": "team-south-v1"})
    assert other.logprobs != pytest.approx(found.logprobs, abs=1e-4)
    whole = engine_scoring.score_values(target, {**body, "values": ["yes", "no"], "beginning": "", "ending": ""})
    assert sum(map(math.exp, whole.logprobs)) == pytest.approx(1)
    if target.kind == "vllm":
        texts = [json.dumps(messages) + '{"queue": ' + value + ', "' for value in values]
        start = len(json.dumps(messages))
        sums = [
            sum(simulated_vllm.character_logprob(str(adapter_dirs["north"]), text, place)
                for place in range(start, len(text)))
            for text in texts
        ]  # fmt: skip
        shares = [math.exp(one) for one in sums]
        assert [math.exp(one) for one in found.logprobs] == pytest.approx([one / sum(shares) for one in shares])


def test_an_engine_that_tells_nothing_of_its_prompts_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_client, "chat", lambda *args, **more: {"choices": [], "prompt_logprobs": None})
    body = {"model": "x", "messages": [], "values": ["a", "b"], "beginning": "", "ending": "", "cache_salt": "team"}
    with pytest.raises(EngineFailed, match="cannot score values"):
        engine_scoring.score_values(EngineTarget("http://silent", "", scores_values=False), body)


def test_a_wrong_key_is_no_answer(target: EngineTarget) -> None:
    with pytest.raises(Unavailable):
        ask(EngineTarget(target.url, "wrong"), "tiny")


@pytest.mark.parametrize(
    ("choice", "has_gpu", "command", "kind"),
    [
        ("auto", False, sys.executable, "tuneport"),
        ("auto", True, sys.executable, "vllm"),
        ("auto", True, "no-such-program", "tuneport"),
        ("tuneport", True, sys.executable, "tuneport"),
        ("vllm", False, "no-such-program", "vllm"),
    ],
)
def test_a_machine_decides_by_what_it_has(choice: str, has_gpu: bool, command: str, kind: str) -> None:
    program = choose_program(choice, has_gpu=has_gpu, vllm_command=command, weights="int8")  # type: ignore[arg-type]
    assert program.kind == kind
    assert program.weights == ("int8" if kind == "tuneport" else "auto")
    assert ("--weights" in program.command) == (kind == "tuneport")
