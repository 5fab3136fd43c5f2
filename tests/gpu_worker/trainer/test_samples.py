"""Answers during training: those of the adapter, within their share of time, without a trace in the result."""

from __future__ import annotations

import json

import pytest
import torch

from datasets_app.fields import infer_fields
from gpu_worker.trainer import loop
from gpu_worker.trainer.answers import Terms
from gpu_worker.trainer.samples import SHOWN_ROWS, macro_f1
from tests.gpu_worker.trainer.jobs import QUEUES, losses, only, run_here, ticket_rows, write_job

pytestmark = pytest.mark.slow
CHOSEN = {"epochs": 2, "batch_size": 4, "evaluations_per_epoch": 1, "learning_rate": 0.01, "max_new_tokens": 24}
NAMES = {"queue": {"enum": sorted(QUEUES.values())}, "urgency": {"enum": ["High", "Low"]}}
SCHEMA = {"type": "object", "properties": NAMES, "required": list(NAMES), "additionalProperties": False}


@pytest.fixture(autouse=True)
def every_check(monkeypatch):
    """So few rows are learned here that checks would be left out for their time."""
    monkeypatch.setattr("gpu_worker.trainer.plan.FREE_VALIDATION_TOKENS", 10**9)


def trained(folder, base_model, **chosen):
    job = write_job(folder, base_model, train=ticket_rows(16), validation=ticket_rows(12, seed=1), **CHOSEN | chosen)
    code, events = run_here(job)
    assert code == 0
    return job, events


def samples(events):
    return {event["step"]: event["rows"] for event in events if event["event"] == "sample"}


def test_answers_are_those_of_the_adapter_and_change_nothing(tmp_path, base_model, monkeypatch):
    monkeypatch.setattr(loop, "VALIDATION_SHARE", 100.0)
    job, events = trained(tmp_path / "with", base_model)
    found = samples(events)
    assert list(found) == [4, 8]  # nothing is learned at the start yet
    assert [len(rows) for rows in found.values()] == [SHOWN_ROWS, SHOWN_ROWS]
    metrics = [event for event in events if "validation_exact_match" in event]
    assert [(one["step"], one["validation_sampled_rows"]) for one in metrics] == [(4, 12), (8, 12)]
    assert all(0 <= one["validation_json_valid"] <= 1 for one in metrics)
    assert {row["row"]: row["answer"] for row in found[8]} == engine_answers(job, base_model, found[8])
    assert set(found[8][0]["fields"]) == {"queue", "urgency"}
    _other, without = trained(tmp_path / "without", base_model, sample_rows=0)
    assert samples(without) == {}
    assert losses(without) == losses(events)
    assert not (job.root / "tmp" / "sampled-adapter").exists()


def engine_answers(job, base_model, rows):
    """Ask the finished adapter, as it would be served, the same rows."""
    from datasets_app.rendering import ChatRenderer
    from tests.gpu_worker.engine.driver import make_driver

    renderer = ChatRenderer.load(base_model)
    driver = make_driver(base_model, renderer, {"a": job.adapter})
    asked = {row["row"]: row["messages"][:-1] for row in ticket_rows(12, seed=1)}
    return {row["row"]: driver.answer(renderer.prompt_ids(asked[row["row"]]), "a", max_tokens=24).text for row in rows}


def answered_within_the_schema(folder, base_model, **chosen):
    """Train with a schema; return the answers at the last step, and all events."""
    chosen = CHOSEN | {"max_new_tokens": 64} | chosen
    job = write_job(folder, base_model, train=ticket_rows(16), validation=ticket_rows(4, seed=1), **chosen)
    spec = json.loads((job.root / "spec.json").read_text())
    (job.root / "spec.json").write_text(json.dumps(spec | {"schema": SCHEMA}))
    code, events = run_here(job)
    assert code == 0
    rows = samples(events)[8]
    assert len(rows) == 4
    return rows, events


def test_answers_are_bound_to_the_schema_where_there_is_one(tmp_path, base_model, monkeypatch):
    monkeypatch.setattr(loop, "VALIDATION_SHARE", 100.0)
    rows, events = answered_within_the_schema(tmp_path, base_model)
    for row in rows:
        answer = json.loads(row["bound"])  # the free answers of a model that has hardly learned are none
        assert answer["queue"] in NAMES["queue"]["enum"]
        assert answer["urgency"] in NAMES["urgency"]["enum"]
    (figure,) = [event for event in events if event.get("step") == 8 and "validation_bound_exact_match" in event]
    assert figure["validation_bound_exact_match"] == sum(row["bound_exact"] for row in rows) / 4


def test_the_macro_f1_is_that_of_the_closed_fields():
    from sklearn.metrics import f1_score

    queues, urgencies = ["A", "B", "A", "C", "A", "B"], ["High", "Low", "Low", "Low", "High", "High"]
    pairs = list(zip(queues, urgencies, strict=True))
    expected = [
        json.dumps({"queue": queue, "urgency": urgency, "note": f"n{n}"}) for n, (queue, urgency) in enumerate(pairs)
    ]
    said = ["A", "A", "A", "C", "no JSON", "B"]
    answers = [text if text == "no JSON" else json.dumps({"queue": text, "urgency": "Low"}) for text in said]
    closed = [field for field in infer_fields(expected) if field.closed]
    assert [field.name for field in closed] == ["queue", "urgency"]
    told = ["Low" if text != "no JSON" else "nothing" for text in said]
    wanted = [
        f1_score(right, given, labels=sorted(set(right)), average="macro", zero_division=0)
        for right, given in ((queues, said), (urgencies, told))
    ]
    assert macro_f1(expected, answers, closed) == pytest.approx(sum(wanted) / 2)


def test_an_answer_ends_before_a_stop_text(tmp_path, base_model, monkeypatch):
    monkeypatch.setattr(loop, "VALIDATION_SHARE", 100.0)
    job, events = trained(tmp_path, base_model, stop_texts="e|zzz")
    found = samples(events)[8]
    free = engine_answers(job, base_model, found)
    assert any("e" in answer for answer in free.values())
    assert {row["row"]: row["answer"] for row in found} == {row: answer.split("e")[0] for row, answer in free.items()}
    assert all("validation_macro_f1" in event for event in events if "validation_exact_match" in event)


def test_answers_stay_within_their_share_of_the_time(tmp_path, base_model, monkeypatch):
    monkeypatch.setattr(loop, "VALIDATION_SHARE", 0.0)
    _job, events = trained(tmp_path, base_model)
    assert samples(events) == {}
    finished = only(events, "finished")
    assert 0 < finished["validation_seconds"] < finished["seconds"]


LIVE = {
    "dora": {"dora": True},
    "pissa": {"lora_init": "pissa", "lora_r": 8},
    "olora": {"lora_init": "olora", "lora_r": 8},
    "full": {"training_kind": "full", "learning_rate": 0.001},
}


@pytest.mark.parametrize("kind", LIVE)
def test_where_the_engine_cannot_the_learning_model_answers_itself(tmp_path, base_model, monkeypatch, kind):
    monkeypatch.setattr(loop, "VALIDATION_SHARE", 100.0)
    job, events = trained(tmp_path / "with", base_model, **LIVE[kind])
    found = samples(events)
    assert list(found) == [4, 8]
    assert {row["row"]: row["answer"] for row in found[8]} == peft_answers(job, base_model, found[8])
    assert all("validation_macro_f1" in event for event in events if "validation_exact_match" in event)
    assert not any(event.get("level") == "warning" for event in events)
    _other, without = trained(tmp_path / "without", base_model, sample_rows=0, **LIVE[kind])
    assert losses(without) == losses(events)


def peft_answers(job, base_model, rows):
    """Ask the finished adapter, as plain PEFT loads it, the same rows one by one."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from datasets_app.rendering import ChatRenderer

    renderer = ChatRenderer.load(base_model)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base_model), job.adapter).eval()
    asked = {row["row"]: row["messages"][:-1] for row in ticket_rows(12, seed=1)}
    answers = {}
    for number in (row["row"] for row in rows):
        token_ids, written = renderer.prompt_ids(asked[number]), []
        while len(written) < 24:
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([[*token_ids, *written]])).logits[0, -1]
            if int(logits.argmax()) in renderer.eos_ids:
                break
            written.append(int(logits.argmax()))
        answers[number] = renderer.decode(written)
    return answers


@pytest.mark.parametrize("chosen", [{"quantization": "nf4"}, {"precision": "bf16", "dora": True}])
def test_fewer_bits_answer_too_and_within_the_schema(tmp_path, base_model, monkeypatch, chosen):
    monkeypatch.setattr(loop, "VALIDATION_SHARE", 100.0)
    rows, _events = answered_within_the_schema(tmp_path, base_model, **chosen)
    assert all(json.loads(row["bound"])["urgency"] in ("High", "Low") for row in rows)


def test_labels_are_answered_too(tmp_path, base_model, monkeypatch):
    monkeypatch.setattr(loop, "VALIDATION_SHARE", 100.0)

    def labelled(rows):
        for row in rows:
            row["messages"][-1]["content"] = json.loads(row["messages"][-1]["content"])["queue"]
        return rows

    chosen = CHOSEN | {"problem_type": "classification", "early_stopping_metric": "exact_match", "epochs": 20}
    train, validation = labelled(ticket_rows(16)), labelled(ticket_rows(6, seed=1))
    code, events = run_here(write_job(tmp_path, base_model, train=train, validation=validation, **chosen))
    assert code == 0
    last = max(samples(events).items())[1]
    assert {row["expected"] for row in last} <= set(QUEUES.values())
    assert any(row["exact"] for row in last)


def test_time_that_is_over_leaves_whole_answers_only(base_model, renderer):
    from transformers import AutoModelForCausalLM

    from gpu_worker.trainer.live_answers import LiveAnswers

    model = AutoModelForCausalLM.from_pretrained(base_model).eval()
    answering = LiveAnswers(model, renderer, device="cpu")
    prompts = {place: renderer.prompt_ids(row["messages"][:-1]) for place, row in enumerate(ticket_rows(11))}
    looks = iter([False] * 6 + [True] * 99)
    answers = answering.ask(prompts, Terms(40, (), lambda: next(looks)), None)
    everything = answering.ask(prompts, Terms(40, (), lambda: False), None)
    assert list(everything) == list(range(11))
    assert all(len(answer.token_ids) <= 5 for answer in answers.values())
    assert answers == {place: everything[place] for place in answers}
    assert len(answers) < 11


def test_a_failure_of_the_engine_does_not_end_the_training(tmp_path, base_model, monkeypatch):
    monkeypatch.setattr(loop, "VALIDATION_SHARE", 100.0)

    def fail(*_arguments: object, **_options: object) -> None:
        raise RuntimeError("no engine")

    monkeypatch.setattr("gpu_worker.trainer.engine_answers.build_core", fail)
    job, events = trained(tmp_path, base_model)
    assert samples(events) == {}
    assert not (job.root / "tmp" / "sampled-adapter").exists()
    assert any("could not be answered: RuntimeError" in event.get("message", "") for event in events)
