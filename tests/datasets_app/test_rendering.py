"""Conversations become the same text and ids everywhere, and the same as in transformers."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from datasets_app.rendering import ChatRenderer, RenderingError
from datasets_app.token_bytes import TokenBytes
from tests.tiny_model import make_tiny_model

CONVERSATIONS = [
    [{"role": "user", "content": "Printer is offline"}],
    [{"role": "system", "content": "Answer in JSON."}, {"role": "user", "content": "Не могу войти\nв кабинет"}],
    [
        {"role": "user", "content": "Hello <b>&amp;</b> {{ 7 * 7 }}"},
        {"role": "assistant", "content": "Hi 🙂"},
        {"role": "user", "content": "  spaces kept  "},
    ],
]
ANSWER = {"role": "assistant", "content": '{"queue": "Доступ", "urgency": "High"}'}
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="module")
def renderer(model_dir: Path) -> ChatRenderer:
    return ChatRenderer.load(model_dir)


@pytest.mark.parametrize("messages", CONVERSATIONS)
def test_prompt_equals_transformers(model_dir, renderer, messages):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_dir, local_files_only=True)
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert renderer.prompt_text(messages) == tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=False
    )
    assert renderer.prompt_ids(messages) == ids


@pytest.mark.parametrize("messages", CONVERSATIONS)
def test_row_is_prompt_and_answer_up_to_end_of_turn(renderer, messages):
    row = renderer.row([*messages, ANSWER])
    assert row.prompt_text == renderer.prompt_text(messages)
    assert row.answer_text == ANSWER["content"] + "<|im_end|>"
    assert list(row.token_ids[: row.prompt_length]) == renderer.prompt_ids(messages)
    assert row.token_ids[-1] == renderer.eos_id


@given(question=texts, answer=texts)
def test_any_text_survives(renderer, question, answer):
    row = renderer.row([{"role": "user", "content": question}, {"role": "assistant", "content": answer}])
    assert row.token_ids[-1] in renderer.eos_ids
    assert renderer.decode(row.token_ids, skip_special=False) == row.prompt_text + row.answer_text
    assert list(row.token_ids[: row.prompt_length]) == renderer.prompt_ids([{"role": "user", "content": question}])


@given(text=texts)
def test_encode_and_decode_are_inverse(renderer, text):
    assert renderer.decode(renderer.encode(text), skip_special=False) == text


@pytest.mark.parametrize(
    ("messages", "sentence"),
    [
        ([], "at least one message"),
        ([{"role": "robot", "content": "x"}], "role 'robot'"),
        ([{"role": "user"}], "must have a text"),
        ([{"role": "user", "content": None}], "must have a text"),
    ],
)
def test_bad_conversation_is_refused_with_a_sentence(renderer, messages, sentence):
    with pytest.raises(RenderingError, match=sentence):
        renderer.prompt_text(messages)


def test_row_must_end_with_an_answer(renderer):
    with pytest.raises(RenderingError, match="assistant's answer"):
        renderer.row([{"role": "user", "content": "x"}])


def _with_template(model_dir: Path, target: Path, template: str) -> ChatRenderer:
    """A copy of the tiny model's tokenizer with another template, stored in the older place."""
    target.mkdir(exist_ok=True)
    settings = json.loads((model_dir / "tokenizer_config.json").read_text())
    (target / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": template}))
    (target / "tokenizer.json").write_bytes((model_dir / "tokenizer.json").read_bytes())
    return ChatRenderer.load(target)


def test_template_features_of_transformers(model_dir, tmp_path):
    renderer = _with_template(
        model_dir,
        tmp_path / "base",
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ m.content | tojson }}"
        "{% else %}{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}{% endif %}"
        "{% if loop.index == 2 %}{% break %}{% endif %}{% endfor %}",
    )
    row = renderer.row([{"role": "user", "content": 'a "b" <é>'}, {"role": "assistant", "content": "c"}])
    assert row.prompt_text == '<|im_start|>"a \\"b\\" <é>"'
    assert row.answer_text == "c<|im_end|>"


def test_template_may_refuse_a_conversation(model_dir, tmp_path):
    renderer = _with_template(model_dir, tmp_path / "base", "{{ raise_exception('roles must alternate') }}")
    with pytest.raises(RenderingError, match="roles must alternate"):
        renderer.prompt_text(CONVERSATIONS[0])


def test_template_cannot_leave_the_sandbox(model_dir, tmp_path):
    renderer = _with_template(model_dir, tmp_path / "base", "{{ ''.__class__.__mro__[1].__subclasses__() }}")
    with pytest.raises(RenderingError):
        renderer.prompt_text(CONVERSATIONS[0])


def test_prompt_rewritten_by_an_answer_falls_back_to_the_bare_answer(model_dir, tmp_path):
    """Reasoning templates open a think block in the generation prompt and drop it once an answer stands there."""
    template = "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}<think>{% endif %}"
    row = _with_template(model_dir, tmp_path / "base", template).row([CONVERSATIONS[0][0], ANSWER])
    assert row.prompt_text.endswith("<think>")
    assert row.answer_text == ANSWER["content"] + "<|im_end|>"


def test_folder_without_template_or_tokenizer_is_refused(model_dir, tmp_path):
    with pytest.raises(RenderingError, match=r"tokenizer\.json"):
        ChatRenderer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes((model_dir / "tokenizer.json").read_bytes())
    with pytest.raises(RenderingError, match="no chat template"):
        ChatRenderer.load(tmp_path)


@given(text=texts)
def test_the_bytes_of_tokens_are_those_of_the_text(renderer, text):
    assert b"".join(map(renderer.token_bytes, renderer.encode(text))) == text.encode()


def test_bytes_of_special_tokens_and_of_ids_that_nothing_has(renderer):
    assert renderer.token_bytes(renderer.eos_id) == b"<|im_end|>"
    assert renderer.token_bytes(1_000_000) == b""


def test_bytes_of_a_vocabulary_that_falls_back_to_them():
    letters = {"<unk>": 0, "\u2581": 1, "a": 2, "\u2581a": 3} | {f"<0x{byte:02X}>": 4 + byte for byte in range(256)}
    tokenizer = Tokenizer(models.BPE(vocab=letters, merges=[("\u2581", "a")], unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="never")])
    ids = tokenizer.encode("a aж🙂", add_special_tokens=False).ids
    assert b"".join(map(TokenBytes(tokenizer).of, ids)) == "a aж🙂".encode()
