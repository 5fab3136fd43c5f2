"""Conversations of several turns: every answer is learned behind exactly the tokens with which it will be asked for."""

import itertools
import json
from dataclasses import replace

import pytest
import torch

from datasets_app.learned_rows import EncodedRow
from experiments.hyperparameters import Hyperparameters
from gpu_worker.trainer import token_cache
from gpu_worker.trainer.errors import TrainingError
from gpu_worker.trainer.fast.learner import FastLearner
from gpu_worker.trainer.first_batch import MOST_TURNS, describe_rows
from gpu_worker.trainer.general import GeneralLearner
from gpu_worker.trainer.layouts import Packing
from gpu_worker.trainer.rows import encode_file
from gpu_worker.trainer.spec import read_spec
from tests.gpu_worker.trainer.jobs import only, run_here, ticket_rows, write_job
from tests.gpu_worker.trainer.test_learning import disturb

SPEECHES = [("system", "Be short."), ("user", "The printer is broken"), ("assistant", "Which one?")]
SPEECHES += [("user", "The one on floor 3"), ("assistant", "Hardware"), ("user", "Thanks"), ("assistant", "Welcome")]


def conversation(count: int = 7, *, unlearned: tuple[int, ...] = ()) -> list[dict]:
    """The first `count` messages; those at the places `unlearned` have the weight 0."""
    messages = [{"role": role, "content": content} for role, content in SPEECHES[:count]]
    return [message | ({"weight": 0} if place in unlearned else {}) for place, message in enumerate(messages)]


@pytest.fixture
def encode(tmp_path, renderer):
    def encode(*conversations, using=renderer, **chosen):
        path = tmp_path / "rows.jsonl"
        rows = [{"row": number, "messages": messages} for number, messages in enumerate(conversations, 2)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return encode_file(path, using, Hyperparameters(**chosen))

    return encode


def learned_texts(row: EncodedRow, renderer) -> list[str]:
    return [renderer.decode(row.token_ids[start:end], skip_special=False) for start, end in row.learned]


def test_every_answer_is_learned_behind_the_tokens_it_is_asked_with(encode, renderer):
    messages = conversation()
    (row,) = encode(messages).rows
    assert learned_texts(row, renderer) == ["Which one?<|im_end|>", "Hardware<|im_end|>", "Welcome<|im_end|>"]
    for place, (start, _end) in zip((2, 4, 6), row.learned, strict=True):
        assert row.token_ids[:start] == tuple(renderer.prompt_ids(messages[:place]))
    assert row.token_ids == renderer.row(messages).token_ids
    assert len(row.labels) == len(row.label_places) == row.answer_tokens == row.label_tokens == row.weight
    assert [row.token_ids[place] for place in row.label_places] == row.labels


def test_the_last_answer_alone_can_be_chosen_and_is_all_that_other_problems_learn(encode, renderer):
    rendered = renderer.row(conversation())
    for chosen in ({"learned_turns": "last"}, {"problem_type": "classification"}):
        (row,) = encode(conversation(), **chosen).rows
        assert row == EncodedRow(rendered.token_ids, rendered.prompt_length)


def test_answers_with_weight_zero_are_read_and_not_learned(encode, renderer):
    (row,) = encode(conversation(unlearned=(2,))).rows
    assert learned_texts(row, renderer) == ["Hardware<|im_end|>", "Welcome<|im_end|>"]
    assert row.token_ids == renderer.row(conversation()).token_ids
    (row,) = encode(conversation(unlearned=(4,))).rows
    assert learned_texts(row, renderer) == ["Which one?<|im_end|>", "Welcome<|im_end|>"]


def test_one_turn_is_encoded_as_ever(encode, renderer):
    (row,) = encode(conversation(3)).rows
    rendered = renderer.row(conversation(3))
    assert row == EncodedRow(rendered.token_ids, rendered.prompt_length)


def test_a_template_that_tells_earlier_turns_otherwise_makes_rows_of_their_own(encode, base_model, renderer, tmp_path):
    """As those do that leave out what a model thought in earlier turns."""
    changed = type(renderer).load(base_model)
    source = (base_model / "chat_template.jinja").read_text()
    changed._template = changed._template.environment.from_string(
        source.replace(
            "message['content']", "(message['content'] if loop.last or message['role'] != 'assistant' else 'said')"
        )
    )
    rows = encode(conversation(), using=changed).rows
    assert len(rows) == 3
    for row, place in zip(rows, (2, 4, 6), strict=True):
        assert row.token_ids[: row.prompt_length] == tuple(changed.prompt_ids(conversation()[:place]))
        assert not row.given


def test_what_does_not_fit_into_the_longest_row_is_cut_answer_by_answer(encode, renderer):
    whole = len(renderer.row(conversation()).token_ids)
    encoded = encode(conversation(), max_length=whole - 1, truncation="start")
    joined, alone = encoded.rows
    assert learned_texts(joined, renderer) == ["Which one?<|im_end|>", "Hardware<|im_end|>"]
    assert learned_texts(alone, renderer) == ["Welcome<|im_end|>"]
    assert len(alone.token_ids) == whole - 1
    assert encoded.truncated == 1


def test_the_number_of_rows_is_kept_to(tmp_path, encode, renderer):
    path = tmp_path / "two.jsonl"
    path.write_text("".join(json.dumps({"row": n, "messages": conversation()}) + "\n" for n in (2, 3)))
    whole = len(renderer.row(conversation()).token_ids)
    assert len(encode_file(path, renderer, Hyperparameters(max_length=whole - 1), at_most=3).rows) == 3


def test_a_conversation_without_anything_to_learn_teaches_nothing(encode):
    encoded = encode(conversation(3, unlearned=(2,)), conversation(3))
    assert len(encoded.rows) == 1


def test_the_cache_keeps_what_stands_between_answers(encode, tmp_path):
    encoded = encode(conversation(), conversation(3), conversation(unlearned=(4,)))
    for _ in range(2):
        assert token_cache.cached(tmp_path / "tokens", "name", lambda: encoded) == encoded


def test_the_choice_of_answers_decides_the_name_in_the_cache(tmp_path, base_model):
    job = write_job(tmp_path / "job", base_model, train=ticket_rows(2))
    spec = read_spec(job)
    last = replace(spec, hyperparameters=spec.hyperparameters.model_copy(update={"learned_turns": "last"}))
    assert token_cache.key(job.train_rows, spec, None) != token_cache.key(job.train_rows, last, None)


def test_the_first_batch_shows_each_answer(encode, renderer):
    (row,) = encode(conversation()).rows
    (shown,) = describe_rows([row], renderer)
    turns = [shown, *shown["more"]]
    told = ["".join(text for text, _tokens in turn["learned"]) for turn in turns]
    assert told == ["Which one?<|im_end|>", "Hardware<|im_end|>", "Welcome<|im_end|>"]
    text = "".join(text for turn in turns for part in ("given", "learned") for text, _tokens in turn[part])
    assert text == renderer.decode(row.token_ids, skip_special=False)
    counted = {part: sum(n for turn in turns for _text, n in turn[part]) for part in ("given", "learned")}
    assert counted == {"given": shown["given_tokens"], "learned": shown["learned_tokens"]}
    assert not shown["is_cut"]


def test_very_long_conversations_are_cut_for_the_page(renderer):
    ids = tuple(range(10, 60))
    row = EncodedRow(ids, 1, given=tuple((n, n + 1) for n in range(2, 48, 2)))
    (shown,) = describe_rows([row], renderer)
    assert len(shown["more"]) == MOST_TURNS
    assert shown["is_cut"]
    assert shown["learned_tokens"] == len(row.labels)


# --- learning ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_answers_in_one_row_are_learned_as_if_each_stood_alone(tmp_path, base_model, encode, renderer, monkeypatch):
    """Both ways, packed and padded: the same loss and gradient as a row for each answer, and as each other."""
    spec = read_spec(write_job(tmp_path / "job", base_model, train=ticket_rows(2), lora_r=4))
    together = encode(conversation(), conversation(5), conversation(unlearned=(2,)), conversation(3)).rows
    alone = [EncodedRow(row.token_ids[:end], start) for row in together for start, end in row.learned]
    learners = [FastLearner(spec), *(GeneralLearner(spec, device="cpu", why="test") for _ in range(2))]
    disturb(*learners)
    found = []
    for learner, packs in zip(learners, (True, False, True), strict=True):
        monkeypatch.setattr(Packing, "pays", lambda _self, _lengths, packs=packs: packs)
        for rows in (together, alone):
            learner.parameters.gradients.zero_()
            loss = learner.accumulate(rows, 0.01)
            found.append((loss, learner.parameters.export(learner.parameters.gradients)))
            assert learner.loss_sum(rows) == pytest.approx(loss, rel=1e-5)
    for (loss, gradient), (other, theirs) in itertools.pairwise(found):
        assert loss == pytest.approx(other, rel=1e-5)
        assert all(torch.allclose(gradient[name], theirs[name], rtol=1e-3, atol=1e-5) for name in gradient)


@pytest.mark.slow
def test_a_run_counts_and_shows_every_answer(tmp_path, base_model, renderer):
    rows = [{"row": 2, "messages": conversation()}, {"row": 3, "messages": conversation(5, unlearned=(2,))}]
    job = write_job(tmp_path / "job", base_model, train=rows, epochs=1)
    code, events = run_here(job)
    assert code == 0
    answers = ["Which one?", "Hardware", "Welcome", "Hardware"]
    assert only(events, "started")["label_tokens_per_epoch"] == sum(len(renderer.encode(a)) + 1 for a in answers)
    assert sorted(len(row["more"]) for row in only(events, "first_batch")["rows"]) == [0, 2]


def test_a_conversation_that_cannot_be_rendered_names_its_row(encode):
    with pytest.raises(TrainingError, match="Row 2 cannot be used"):
        encode([{"role": "assistant", "content": "a"}, {"role": "nobody", "content": "b"}])
