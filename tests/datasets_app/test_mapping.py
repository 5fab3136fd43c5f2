"""Which columns become prompt and answer: guessed, checked, stored."""

import json

import pytest

from datasets_app.cells import date_of, split_named
from datasets_app.mapping import Mapping, MappingError, fill_template, guess_mapping
from datasets_app.readers import Record

ROUTING = '{"queue": "Network"}'


def records(*rows):
    return [Record(line, row) for line, row in enumerate(rows, 2)]


@pytest.mark.parametrize(
    ("columns", "prompt", "response"),
    [
        (("prompt", "response"), "prompt", "response"),
        (("id", "question", "answer"), "question", "answer"),
        (("Ticket Text", "Label"), "Ticket Text", "Label"),
        (("completion", "prompt"), "prompt", "completion"),
        (("input", "output"), "input", "output"),
        (("created_at", "body", "category"), "body", "category"),
        (("subject", "description", "target"), "description", "target"),
        (("ticket_id", "user_message", "expected_json"), "user_message", "expected_json"),
        (("customerQuery", "agentReply"), "customerQuery", "agentReply"),
        (("вопрос", "ответ"), "вопрос", "ответ"),
        (("Номер", "Текст обращения", "Категория"), "Текст обращения", "Категория"),
        (("Дата", "Обращение", "Разметка"), "Обращение", "Разметка"),
    ],
)
def test_headers_are_guessed(columns, prompt, response):
    mapping = guess_mapping(columns, [])
    assert (mapping.prompt, mapping.response) == (prompt, response)
    mapping.validate(columns)


def test_a_column_of_json_is_the_answer():
    rows = records(*({"text": "The VPN is down again", "comment": ROUTING} for _ in range(5)))
    mapping = guess_mapping(("text", "comment"), rows)
    assert mapping == Mapping(prompt="text", response="comment", json_answers=True)


def test_names_that_say_nothing_are_guessed_by_length():
    rows = records({"x": "short", "y": "a much longer text with many words"}, {"x": "one", "y": "another long text"})
    mapping = guess_mapping(("x", "y"), rows)
    assert (mapping.prompt, mapping.response) == ("y", "x")


def test_answers_are_json_only_if_nearly_all_are():
    rows = records(*({"prompt": "a", "answer": ROUTING if n else "text"} for n in range(4)))
    assert guess_mapping(("prompt", "answer"), rows).json_answers is False
    assert guess_mapping(("prompt", "answer"), rows[1:]).json_answers is True
    objects = records({"prompt": "a", "answer": {"queue": "x"}})
    assert guess_mapping(("prompt", "answer"), objects).json_answers is True


def test_system_column_is_found():
    assert guess_mapping(("system", "prompt", "response"), []).system == "system"


def test_messages_and_instruction_formats_are_known():
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert guess_mapping(("messages",), records({"messages": turns})).messages == "messages"
    assert guess_mapping(("id", "conversations"), records({"conversations": turns})).messages == "conversations"
    assert guess_mapping(("messages",), records({"messages": json.dumps(turns)})).messages == "messages"
    alpaca = guess_mapping(("instruction", "input", "output"), [])
    assert (alpaca.template, alpaca.response) == ("{instruction}\n\n{input}", "output")
    alpaca.validate(("instruction", "input", "output"))


def test_one_column_cannot_be_mapped():
    mapping = guess_mapping(("text",), records({"text": "a"}))
    with pytest.raises(MappingError) as error:
        mapping.validate(("text",))
    assert error.value.code == "response_unset"


@pytest.mark.parametrize(
    ("mapping", "code"),
    [
        (Mapping(prompt="a", response="x"), "column_missing"),
        (Mapping(response="b"), "prompt_unset"),
        (Mapping(prompt="a"), "response_unset"),
        (Mapping(prompt="a", response="a"), "same_column"),
        (Mapping(prompt="a", response="b", system="x"), "column_missing"),
        (Mapping(messages="a", response="b"), "messages_and_columns"),
        (Mapping(template="{a} {x}", response="b"), "template_placeholder"),
        (Mapping(template="{a} }", response="b"), "template_brace"),
        (Mapping(template="{a} {}", response="b"), "template_brace"),
        (Mapping(template="always the same", response="b"), "template_no_column"),
        (Mapping(template="{a} {b}", response="b"), "template_mentions_answer"),
    ],
)
def test_mapping_that_does_not_fit_is_refused(mapping, code):
    with pytest.raises(MappingError) as error:
        mapping.validate(("a", "b", "c"))
    assert error.value.code == code


def test_refusal_lists_the_columns_there_are():
    with pytest.raises(MappingError, match=r"“answr” is not in the file\. Its columns are: prompt, answer\."):
        Mapping(prompt="prompt", response="answr").validate(("prompt", "answer"))


def test_template_knows_fixed_placeholders_only():
    cells = {"subject": "VPN {down}", "body text": "now"}
    assert fill_template("S: {subject}\n{body text} {{x}}")(cells.__getitem__) == "S: VPN {down}\nnow {x}"
    for attack in ("{{ 7 * 7 }}", "{% set x = 1 %}{subject}", "{subject.__class__}", "{subject!r:>10}", "{0}"):
        with pytest.raises(MappingError):
            Mapping(template=attack, response="answer").validate(("subject", "answer"))


def test_mapping_survives_storage():
    mapping = Mapping(prompt="a", response="b", system_prompt="Be brief.", json_answers=True)
    assert Mapping.from_dict(json.loads(json.dumps(mapping.to_dict()))) == mapping
    assert Mapping.from_dict({"prompt": "a", "response": "b"}) == Mapping(prompt="a", response="b")


@pytest.mark.parametrize("stored", [None, [], "x", {"prompt": 1}, {"promt": "a"}, {"json_answers": "yes"}])
def test_malformed_mapping_is_refused(stored):
    with pytest.raises(MappingError, match="Choose the columns again"):
        Mapping.from_dict(stored)


def test_columns_beside_the_texts_are_guessed():
    columns = ("ticket_id", "customer_id", "created_at", "subset", "body", "category")
    row = {
        "ticket_id": "7",
        "customer_id": "c1",
        "created_at": "2026-01-31T10:00:00Z",
        "subset": "dev",
        "body": "The VPN is down",
    }
    mapping = guess_mapping(columns, records(*({**row, "category": "Network"} for _ in range(4))))
    assert mapping == Mapping(prompt="body", response="category", group="customer_id", at="created_at", split="subset")
    mapping.validate(columns)


def test_columns_named_like_others_are_left_alone():
    rows = records({"text": "How long does it take?", "label": "billing", "date": "soon", "split": "banana"})
    mapping = guess_mapping(("text", "label", "date", "split"), rows)
    assert (mapping.at, mapping.split, mapping.group) == (None, None, None)


def test_a_text_cannot_name_the_split():
    with pytest.raises(MappingError, match="Choose another one for the split"):
        Mapping(prompt="a", response="b", split="b").validate(("a", "b"))


@pytest.mark.parametrize(
    ("cell", "split"),
    [("train", "train"), (" Training ", "train"), ("VALID", "validation"), ("dev", "validation"), ("val", "validation"),
     ("test", "test"), ("holdout", "test"), ("тест", "test"), ("", None), ("banana", None), (1, None), (None, None)],
)  # fmt: skip
def test_splits_are_known_by_their_usual_names(cell, split):
    assert split_named(cell) == split


@pytest.mark.parametrize(
    ("cell", "date"),
    [
        ("2026-01-31", "2026-01-31"),
        ("2026-01-31 10:00", "2026-01-31T10:00:00"),
        ("2026-01-31T10:00:00Z", "2026-01-31T10:00:00+00:00"),
        ("31.12.2026", "2026-12-31"),
        ("12/31/2026", "2026-12-31"),
        ("01.02.2026 08:15", "2026-02-01"),
        ("2026-02-30", None),
        ("32.13.2026", None),
        ("20260131", None),
        ("soon", None),
        ("", None),
        (20260131, None),
    ],
)
def test_dates_are_read_in_their_usual_forms(cell, date):
    assert date_of(cell) == date
