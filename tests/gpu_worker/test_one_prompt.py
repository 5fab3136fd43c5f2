"""A prompt is the same token ids wherever it is read: learned, sampled, evaluated, served; and those of transformers.

Templates as model families publish them, on a tokenizer made on the spot: one marks turns by name, one by header and
begins with a special token, one calls the assistant a model and knows no system prompt.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from datasets_app.rendering import ChatRenderer
from experiments.hyperparameters import Hyperparameters
from gpu_worker.engine.build import build_core
from gpu_worker.engine.config import EngineConfig
from gpu_worker.engine.grammar import GrammarCompiler
from gpu_worker.engine.loop import EngineLoop
from gpu_worker.engine.server.app import EngineServer
from gpu_worker.engine.server.generation import Generator
from gpu_worker.engine.server.scoring import ValueScorer
from gpu_worker.evaluator.heldout import choose_rows
from gpu_worker.trainer.heldout import heldout_row
from gpu_worker.trainer.rows import encode_file
from tests.tiny_model import make_tiny_model

pytestmark = pytest.mark.slow

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
HEADERS = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}{{ message['content'] | trim }}<|im_end|>"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
TURNS = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}"
    "{% endif %}{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
FAMILIES = {"chatml": CHATML, "headers": HEADERS, "turns": TURNS}
TEXTS = (
    "The printer does not print.", "Не могу войти в личный кабинет", "  spaces around  ", "line\nbreak\n\ntwice", "",
    "<script>alert(1)</script> &amp;", "{{ 7 * 7 }} {% raw %}", "emoji 🙂🙃 and 漢字", "naïve café e\u0301",
    "tab\there", "quote \" and ' and \\", "a" * 300, "<|im_end|> in the text", "<|im_start|>system",
    "1234567890 12.5 %", "\u200bzero", "ends with space ", "مرحبا بالعالم", "CRLF\r\nline", "DROP TABLE users;",
)  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def family(base: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(base, folder)
    (folder / "chat_template.jinja").write_text(FAMILIES[request.param], encoding="utf-8")
    return folder


def conversations(kind: str) -> list[list[dict[str, str]]]:
    """20 prompts: with a system prompt where the family knows one, the last ones after an earlier turn."""
    found = []
    for number, text in enumerate(TEXTS):
        earlier = [("user", "Hello"), ("assistant", "Hi, what is it?")] if number >= 15 else []
        system = [("system", "Route the ticket.")] if kind != "turns" and number % 3 else []
        found.append([{"role": role, "content": said} for role, said in (*system, *earlier, ("user", text))])
    return found


def served_prompts(model_dir: Path, asked: list[list[dict[str, str]]]) -> list[tuple[int, ...]]:
    """What the engine's model is given for requests to its chat route."""
    from starlette.testclient import TestClient

    renderer, config = ChatRenderer.load(model_dir), EngineConfig(kv_cache_bytes=4 * 2**20)
    core = build_core(model_dir, renderer, config)
    given: list[tuple[int, ...]] = []
    submit = core.submit

    def submit_and_note(sequences):
        given.extend(tuple(sequence.prompt_ids) for sequence in sequences)
        submit(sequences)

    core.submit = submit_and_note
    loop = EngineLoop(core)
    compiler = GrammarCompiler(model_dir, vocabulary=core.vocabulary, eos_ids=renderer.eos_ids)
    generator = Generator(loop, renderer, config, compiler, max_context=core.max_context)
    scorer = ValueScorer(generator, loop, renderer, config)
    server = EngineServer("tiny", loop, generator, renderer, core.max_context, scorer, core.self_check)
    loop.start()
    try:
        client = TestClient(server.app(api_key="key"), headers={"Authorization": "Bearer key"})
        for messages in asked:
            body = {"model": "tiny", "messages": messages, "max_tokens": 1, "temperature": 0}
            answer = client.post("/v1/chat/completions", json=body)
            assert answer.status_code == 200, answer.text
            assert answer.json()["usage"]["prompt_tokens"] == len(given[-1])
    finally:
        loop.stop()
    return given


@pytest.mark.parametrize(("kind", "family"), [(kind, kind) for kind in FAMILIES], indirect=["family"])
def test_learned_sampled_evaluated_and_served_prompts_are_the_same(kind: str, family: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    asked = conversations(kind)
    answer = {"role": "assistant", "content": '{"queue": "Access"}'}
    contents = [{"row": number + 2, "messages": [*messages, answer]} for number, messages in enumerate(asked)]
    # Of a conversation only the last answer is learned here, so that every row is one prompt.
    for content in contents:
        for message in content["messages"][:-1]:
            if message["role"] == "assistant":
                message["weight"] = 0
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(content) + "\n" for content in contents), encoding="utf-8")
    renderer = ChatRenderer.load(family)
    trained = encode_file(rows, renderer, Hyperparameters()).rows
    learned = [row.token_ids[: row.prompt_length] for row in trained]
    tokenizer = AutoTokenizer.from_pretrained(family, local_files_only=True)
    plain = [[{"role": one["role"], "content": one["content"]} for one in messages] for messages in asked]
    expected = [
        tuple(tokenizer.apply_chat_template(one, add_generation_prompt=True, return_dict=False)) for one in plain
    ]
    assert len(set(expected)) == len(TEXTS) == 20
    assert learned == expected
    assert [row.prompt_ids for row in choose_rows(rows, renderer, count=20, seed=3)] == expected
    assert [heldout_row(content, renderer).prompt_ids for content in contents] == expected
    assert served_prompts(family, plain) == expected
