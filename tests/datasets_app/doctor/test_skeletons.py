"""Quickly rendered rows are the very rows that the renderer makes, whatever stands in the template."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets_app.doctor.skeletons import CHECKED_AT_FIRST, QuickRenderer
from datasets_app.rendering import ChatRenderer
from tests.tiny_model import make_tiny_model

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("base") / "tiny")


def _row(question, answer, system=None):
    before = [] if system is None else [{"role": "system", "content": system}]
    return [*before, {"role": "user", "content": question}, {"role": "assistant", "content": answer}]


@pytest.mark.slow
@given(question=texts, answer=texts, system=st.none() | st.sampled_from(["Be brief.", "", "<x>"]))
def test_any_row_is_the_same(model_dir, question, answer, system):
    renderer = ChatRenderer.load(model_dir)
    quick, row = QuickRenderer(renderer), _row(question, answer, system)
    rendered = renderer.row(row)
    for _again in range(2):
        assert quick.texts(row) == (rendered.prompt_text, rendered.answer_text)


@pytest.mark.parametrize(
    "written", ["message['content'] | trim", "message['content'].split('</think>')[-1]", "message['content'] | upper"]
)
def test_templates_that_change_texts(model_dir, tmp_path, written):
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        (folder / name).write_bytes((model_dir / name).read_bytes())
    loop = (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ " + written + " }}<|im_end|>\n{% endfor %}"
    )
    (folder / "chat_template.jinja").write_text(
        loop + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    renderer = ChatRenderer.load(folder)
    quick = QuickRenderer(renderer)
    for number in range(2 * CHECKED_AT_FIRST):
        row = _row(f" why {number}? ", f"<think>hm</think>because {number}") if number % 3 else _row("why?", "so")
        assert quick.texts(row) == renderer.row_texts(row)


def test_a_conversation_is_rendered_whole(model_dir):
    renderer = ChatRenderer.load(model_dir)
    row = [*_row("a", "b"), *_row("c", "d")]
    assert QuickRenderer(renderer).texts(row) == renderer.row_texts(row)
