"""Rows become ids once, and long ones are cut by the rule that was chosen."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.hyperparameters import Hyperparameters
from gpu_worker.trainer.errors import TrainingError
from gpu_worker.trainer.rows import common_prefix_length, encode_file
from tests.gpu_worker.trainer.jobs import ticket_rows

LONG = "the printer is on fire and " * 20
ANSWER = '{"queue": "Hardware"}'


@pytest.fixture
def write(tmp_path):
    def write(*rows) -> object:
        path = tmp_path / "train.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


def row(question: str = LONG, answer: str = ANSWER) -> dict:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"row": 17, "messages": messages}


def test_rows_are_rendered_as_the_renderer_does(write, renderer):
    rows = ticket_rows(5)
    encoded = encode_file(write(*rows), renderer, Hyperparameters())
    for one, source in zip(encoded.rows, rows, strict=True):
        rendered = renderer.row(source["messages"])
        assert one.token_ids == rendered.token_ids
        assert one.label_tokens == len(renderer.encode(rendered.answer_text))
    assert (encoded.truncated, encoded.skipped) == (0, 0)


def test_the_prompt_is_learned_too_if_asked_and_cut_all_the_same(write, renderer):
    path = write(row("short"), row())
    usual = encode_file(path, renderer, Hyperparameters(max_length=80))
    whole = encode_file(path, renderer, Hyperparameters(max_length=80, train_on_prompt=True))
    assert [one.token_ids for one in whole.rows] == [one.token_ids for one in usual.rows]
    assert [one.label_tokens for one in whole.rows] == [len(one.token_ids) - 1 for one in usual.rows]
    assert (whole.truncated, usual.truncated) == (1, 1)


@pytest.mark.parametrize("side", ["start", "end"])
def test_a_long_prompt_is_cut_and_the_answer_kept(write, renderer, side):
    whole = renderer.row(row()["messages"])
    encoded = encode_file(write(row(), row("short")), renderer, Hyperparameters(max_length=80, truncation=side))
    cut = encoded.rows[0]
    assert encoded.truncated == 1
    assert len(cut.token_ids) == 80
    assert cut.token_ids[cut.prompt_length :] == whole.token_ids[whole.prompt_length :]
    prompt = renderer.decode(cut.token_ids[: cut.prompt_length], skip_special=False)
    assert prompt.endswith("<|im_start|>assistant\n")
    assert prompt.startswith("<|im_start|>system") == (side == "end")


def test_an_answer_that_does_not_fit_is_refused_in_plain_words(write, renderer):
    with pytest.raises(TrainingError, match=r"answer of row 17 has \d+ tokens and does not fit into 40") as caught:
        encode_file(write(row("short", LONG)), renderer, Hyperparameters(max_length=40))
    assert caught.value.code == "bad_data"
    assert "printer" not in caught.value.message


def test_an_answer_that_does_not_fit_is_left_out_or_cut_if_asked(write, renderer):
    path = write(row("short", LONG), row("short"))
    skipped = encode_file(path, renderer, Hyperparameters(max_length=70, long_answers="skip"))
    assert (len(skipped.rows), skipped.skipped) == (1, 1)
    cut = encode_file(path, renderer, Hyperparameters(max_length=70, long_answers="cut"))
    assert (len(cut.rows[0].token_ids), cut.truncated) == (70, 1)
    assert cut.rows[0].token_ids[-1] not in renderer.eos_ids  # what was cut off must not look finished


@given(max_length=st.integers(16, 300), side=st.sampled_from(["start", "end"]), size=st.integers(0, 40))
def test_no_row_is_ever_longer_than_allowed(tmp_path_factory, renderer, max_length, side, size):
    path = tmp_path_factory.mktemp("rows") / "train.jsonl"
    path.write_text(json.dumps(row("word " * size, "answer " * (40 - size))))
    chosen = Hyperparameters(max_length=max_length, truncation=side, long_answers="cut")
    for encoded in encode_file(path, renderer, chosen).rows:
        assert len(encoded.token_ids) <= max_length
        assert 0 < encoded.prompt_length < len(encoded.token_ids)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{", "damaged"),
        ("[]", "damaged"),
        ('{"row": 3}', "damaged"),
        ('{"row": 3, "messages": []}', "Row 3 cannot be used"),
        ('{"row": 3, "messages": [{"role": "user", "content": "secret"}]}', "Row 3 cannot be used"),
        ('{"row": 3, "messages": [7]}', "Row 3 cannot be used"),
    ],
)
def test_broken_rows_are_named_by_number_and_never_quoted(tmp_path, renderer, line, sentence):
    path = tmp_path / "train.jsonl"
    path.write_text(line)
    with pytest.raises(TrainingError, match=sentence) as caught:
        encode_file(path, renderer, Hyperparameters())
    assert caught.value.code == "bad_data"
    assert "secret" not in caught.value.message


@pytest.mark.slow
@given(st.lists(st.lists(st.integers(0, 2)).map(tuple), min_size=1))
def test_common_prefix(sequences):
    length = common_prefix_length(sequences)
    assert len({sequence[:length] for sequence in sequences}) == 1
    assert len({sequence[: length + 1] for sequence in sequences}) > 1 or length == min(map(len, sequences))
