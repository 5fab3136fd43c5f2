"""From records to canonical rows: contents, faults, and the fields of JSON answers."""

import json

import pytest

from datasets_app.fields import infer_fields
from datasets_app.mapping import Mapping
from datasets_app.readers import Limits, Record, RowFault
from datasets_app.rows import CanonicalRow, RowMaker, row_digest, to_row

COLUMNS = Mapping(prompt="prompt", response="response")
CHAT = Mapping(messages="messages")


def made(values, mapping=COLUMNS, **limits):
    return to_row(Record(7, values), mapping, Limits(**limits))


def turns(*pairs):
    return [{"role": role, "content": content} for role, content in pairs]


def test_prompt_and_answer_become_messages():
    row = made({"prompt": " Hi\n", "response": " there ", "other": "x"})
    assert row == CanonicalRow(7, tuple(turns(("user", "Hi"), ("assistant", "there"))))
    assert (row.prompt, row.answer) == ("Hi", "there")


def test_row_is_written_as_the_contract_says():
    row = made({"prompt": "да", "response": "нет"}, Mapping(prompt="prompt", response="response", system_prompt="S"))
    assert json.loads(row.to_json()) == {
        "row": 7,
        "messages": turns(("system", "S"), ("user", "да"), ("assistant", "нет")),
    }
    assert "да" in row.to_json()
    assert CanonicalRow.from_json(row.to_json()) == row


def test_system_cell_goes_before_the_fixed_prompt():
    mapping = Mapping(prompt="prompt", response="response", system="system", system_prompt="fixed")
    base = {"prompt": "a", "response": "b"}
    assert made(base | {"system": "own"}, mapping).messages[0]["content"] == "own"
    assert made(base | {"system": " "}, mapping).messages[0]["content"] == "fixed"
    assert made(base, mapping).messages[0]["content"] == "fixed"


def test_template_makes_the_prompt():
    mapping = Mapping(template="{subject}\n\n{body}", response="response")
    row = made({"subject": "VPN", "body": "It is {down}", "response": "x"}, mapping)
    assert row.prompt == "VPN\n\nIt is {down}"
    assert made({"subject": "VPN", "body": "", "response": "x"}, mapping).prompt == "VPN"
    assert made({"subject": "VPN", "response": "x"}, mapping).code == "missing_column"


def test_json_values_of_json_lines():
    row = made({"prompt": 17, "response": {"b": "я", "a": [1.5, None]}})
    assert row.prompt == "17"
    assert row.answer == '{"b": "я", "a": [1.5, null]}'


@pytest.mark.parametrize(
    ("values", "column", "code"),
    [
        ({"prompt": "", "response": "b"}, "prompt", "empty_prompt"),
        ({"prompt": " \n", "response": "b"}, "prompt", "empty_prompt"),
        ({"prompt": "a", "response": "\t"}, "response", "empty_answer"),
        ({"prompt": "a"}, "response", "missing_column"),
        ({"prompt": None, "response": "b"}, "prompt", "missing_column"),
        ({"prompt": ["a"], "response": "b"}, "prompt", "not_text"),
        ({"prompt": "a" * 31, "response": "b"}, "prompt", "prompt_too_long"),
        ({"prompt": "a", "response": "b" * 21}, "response", "answer_too_long"),
        ({"prompt": "a\0", "response": "b"}, "prompt", "nul"),
        ({"prompt": "a", "response": "b\0"}, "response", "nul"),
        ({"prompt": "a\ud800", "response": "b"}, "prompt", "surrogate"),
    ],
)
def test_faulty_row_says_which_cell(values, column, code):
    fault = made(values, max_prompt_characters=30, max_answer_characters=20)
    assert isinstance(fault, RowFault)
    assert (fault.line, fault.column, fault.code) == (7, column, code)
    assert fault.message.startswith(f"Line 7, column “{column}”: ")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("High", "a text stands without double quotes; only numbers, true, false and null need none, at character 1"),
        ('{"a": 1', "it ends before it is complete: a closing quote or bracket is missing, at character 8"),
        ('["a"]', "it is a value of another kind"),
        ('{"a": NaN}', "the JSON contains a number that cannot be stored (NaN, Infinity or far too many digits)"),
        ('{"a": 1, "a": 2}', "the JSON has the same key twice in one object"),
    ],
)
def test_answers_that_must_be_json_objects(answer, reason):
    mapping = Mapping(prompt="prompt", response="response", json_answers=True)
    fault = made({"prompt": "a", "response": answer}, mapping)
    assert fault.code == "answer_not_json"
    assert f"although the other answers are ({reason}). Repair" in fault.message
    assert made({"prompt": "a", "response": '{"a": 1}'}, mapping).answer == '{"a": 1}'


def test_messages_are_taken_over():
    conversation = turns(("system", "S"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
    assert list(made({"messages": conversation}, CHAT).messages) == conversation
    assert list(made({"messages": json.dumps(conversation)}, CHAT).messages) == conversation
    shared = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    assert list(made({"messages": shared}, CHAT).messages) == turns(("user", "a"), ("assistant", "b"))


def test_fixed_system_prompt_is_put_before_messages():
    mapping = Mapping(messages="messages", system_prompt="fixed")
    pair = turns(("user", "a"), ("assistant", "b"))
    assert made({"messages": pair}, mapping).messages[0] == {"role": "system", "content": "fixed"}
    own = turns(("system", "own"), ("user", "a"), ("assistant", "b"))
    assert list(made({"messages": own}, mapping).messages) == own


@pytest.mark.parametrize(
    ("messages", "code"),
    [
        (None, "bad_messages"),
        ([], "bad_messages"),
        ("not json", "bad_messages"),
        (["a", "b"], "bad_messages"),
        ([{"role": "user"}], "bad_messages"),
        ([{"role": "user", "content": 1}], "bad_messages"),
        (turns(("user", "a")), "bad_roles"),
        (turns(("system", "a")), "bad_roles"),
        (turns(("assistant", "a")), "bad_roles"),
        (turns(("user", "a"), ("user", "b"), ("assistant", "c")), "bad_roles"),
        (turns(("user", "a"), ("assistant", "b"), ("user", "c")), "bad_roles"),
        (turns(("user", "a"), ("system", "b"), ("assistant", "c")), "bad_roles"),
        (turns(("user", "a"), ("tool", "b"), ("assistant", "c")), "bad_roles"),
        (turns(("user", ""), ("assistant", "c")), "empty_prompt"),
        (turns(("user", "a"), ("assistant", " ")), "empty_answer"),
    ],
)
def test_bad_conversations(messages, code):
    fault = made({"messages": messages}, CHAT)
    assert (fault.code, fault.column) == (code, "messages")


def weighted(*weights):
    """A conversation with one answer for each weight; None: the message says nothing about it."""
    pairs = (
        [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": f"a{n}", "weight": weight}]
        for n, weight in enumerate(weights)
    )
    return [message for pair in pairs for message in pair]


def weights_of(row):
    return [message.get("weight") for message in row.messages if message["role"] == "assistant"]


def test_answers_that_are_not_learned_keep_their_weight_of_zero():
    row = made({"messages": weighted(0, 1, None, 0.0, 1.0)}, CHAT)
    assert weights_of(row) == [0, None, None, 0, None]
    again = CanonicalRow.from_json(row.to_json())
    assert again == row
    assert list(made({"messages": list(again.messages)}, CHAT).messages) == list(row.messages)


def test_what_comes_after_the_last_answer_that_is_learned_is_left_out():
    assert [m["content"] for m in made({"messages": weighted(1, 0, 1, 0, 0)}, CHAT).messages] == [
        "q0", "a0", "q1", "a1", "q2", "a2",
    ]  # fmt: skip


def test_a_row_learned_otherwise_is_another_row():
    learned, unlearned = (made({"messages": weighted(weight, 1)}, CHAT) for weight in (1, 0))
    assert row_digest(learned.messages) != row_digest(unlearned.messages)
    flat = RowMaker(CHAT).flat(Record(2, {"messages": weighted(0, 1)}))
    assert flat.digest == row_digest(unlearned.messages)


@pytest.mark.parametrize(
    ("messages", "code"),
    [
        (weighted(0), "nothing_learned"),
        (weighted(0, 0), "nothing_learned"),
        ([{"role": "system", "content": "s"}, *weighted(0)], "nothing_learned"),
        *((weighted(weight, 1), "bad_weight") for weight in (0.5, 2, -1, True, "0", [0])),
    ],
)
def test_weights_that_cannot_be_kept_are_refused(messages, code):
    assert made({"messages": messages}, CHAT).code == code


def test_row_maker_is_reusable():
    maker = RowMaker(COLUMNS)
    assert [maker.make(Record(n, {"prompt": "a", "response": "b"})).row for n in (2, 3)] == [2, 3]


def answers():
    for n in range(40):
        urgency = ("Low", "High")[n % 4 == 0]
        yield json.dumps({"urgency": urgency, "user": f"user{n}" if n % 2 else None, "vip": n % 8 == 0, "tags": ["x"]})


def test_closed_and_open_fields_are_told_apart():
    fields = {field.name: field for field in infer_fields([*answers(), "no json", '{"urgency": "Low", "size": 1.5}'])}
    assert list(fields) == ["urgency", "user", "vip", "tags", "size"]
    assert {name: field.closed for name, field in fields.items()} == {
        "urgency": True, "user": False, "vip": True, "tags": False, "size": False,
    }  # fmt: skip
    assert fields["urgency"].values == ("Low", "High")
    assert fields["urgency"].counts == (31, 10)
    assert fields["vip"].values == ("false", "true")
    assert fields["user"].share == pytest.approx(40 / 41)
    assert json.dumps(fields["urgency"].to_dict())


def test_null_is_a_value_of_a_closed_field_but_makes_none():
    closed = infer_fields(['{"a": null}'] * 5 + ['{"a": "x"}'] * 5)[0]
    assert closed.values == ("null", "x")
    assert infer_fields(['{"a": null}'] * 5)[0].closed is False
    quoted = infer_fields(['{"a": "null"}', '{"a": null}', '{"a": "null"}'])[0]
    assert quoted.values == ('"null"', "null")


def test_many_distinct_values_are_open_and_cost_no_memory():
    (field,) = infer_fields(f'{{"a": {n // 2}}}' for n in range(20_000))
    assert field.closed is False


def test_fields_of_text_answers():
    assert infer_fields(["yes", "no", "[1]", "7"]) == ()
