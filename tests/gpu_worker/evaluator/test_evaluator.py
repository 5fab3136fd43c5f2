"""The evaluator: the same rows for both models, answers as transformers gives them, nothing half-written."""

from __future__ import annotations

import functools
import io
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from datasets_app.doctor.schema import deviations
from datasets_app.rendering import ChatRenderer
from experiments import trials
from gpu_worker.engine.build import build_core
from gpu_worker.engine.config import EngineConfig
from gpu_worker.engine.grammar import GrammarCompiler
from gpu_worker.engine.sampling import SamplingParams
from gpu_worker.evaluator.choices import Chooser
from gpu_worker.evaluator.heldout import Supply, choose_rows
from gpu_worker.evaluator.job import evaluate
from gpu_worker.evaluator.questions import Questions
from gpu_worker.trainer.events import Events
from gpu_worker.trainer.heldout import HeldOutRow, answer_limit
from gpu_worker.trainer.stop import StopFlag
from tests.forked import Forked
from tests.tiny_model import make_tiny_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def job(tmp_path: Path, model: Path) -> Path:
    """A job folder with 12 held-out rows and an adapter that changes the model."""
    (tmp_path / "data").mkdir()
    with (tmp_path / "data" / "heldout.jsonl").open("w") as file:
        for row in range(2, 14):
            question = {"role": "user", "content": f"Ticket {row}: printer"}
            answer = {"role": "assistant", "content": json.dumps({"queue": row % 3})}
            file.write(json.dumps({"row": row, "messages": [question, answer]}) + "\n")
    answer = {"role": "assistant", "content": '{"queue": 1}'}
    learned = [{"row": row, "messages": [{"role": "user", "content": f"Old {row}"}, answer]} for row in (20, 21)]
    (tmp_path / "data" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in learned))
    spec = {"base_model": {"path": str(model)}, "evaluation": {"rows": 5, "max_new_tokens": 10, "seed": 1}}
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    write_adapter(model, tmp_path / "adapter")
    return tmp_path


def write_adapter(model: Path, folder: Path, **options: object) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(3)
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    config = LoraConfig(r=4, lora_alpha=64, target_modules="all-linear", init_lora_weights=False, **options)
    get_peft_model(base, config).save_pretrained(folder)


def answers_of(job: Path) -> list[dict]:
    lines = (job / "evaluation" / "predictions.jsonl").read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line]


def start(job: Path) -> Forked:
    """Start the evaluator as the supervisor does: a process of its own that talks on standard output."""
    return Forked(
        [sys.executable, "-m", "gpu_worker.evaluator", str(job)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).resolve().parents[3],
        env={**os.environ, "TUNEPORT_STANDALONE": "1"},
    )


def run(job: Path) -> tuple[int, list[dict]]:
    child = start(job)
    told, _nothing = child.communicate(timeout=120)
    return child.returncode, [json.loads(line) for line in told.splitlines()]


@functools.cache
def loaded(model: Path, adapter: Path | None) -> Any:
    """Return the model as transformers and PEFT load it."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    return PeftModel.from_pretrained(base, adapter) if adapter else base


def generated(model: Path, adapter: Path | None, prompt: str, limit: int) -> str:
    """Return what transformers' own generate answers."""
    renderer = ChatRenderer.load(model)
    ids = torch.tensor([renderer.prompt_ids([{"role": "user", "content": prompt}])])
    out = loaded(model, adapter).generate(
        input_ids=ids, max_new_tokens=limit, do_sample=False, eos_token_id=list(renderer.eos_ids)
    )
    return renderer.decode(out[0, ids.shape[1] :].tolist())


def test_both_models_answer_the_same_rows_as_transformers_would(job, model):
    code, events = run(job)
    assert (code, events[-1]["event"], events[-1]["rows"]) == (0, "evaluated", 5)
    found = answers_of(job)
    assert [item["row"] for item in found] == sorted(item["row"] for item in found)
    assert any(item["tuned"] != item["untuned"] for item in found)
    for item in found[:3]:
        assert item["untuned"] == generated(model, None, item["prompt"], 10)
        assert item["tuned"] == generated(model, job / "adapter", item["prompt"], 10)
        assert item["expected"] == json.dumps({"queue": item["row"] % 3})
        assert (item["majority"], item["tfidf"]) == ('{"queue": 1}', '{"queue": 1}')
    progress = [event for event in events if event["event"] == "evaluation_progress"]
    done = {event["subject"]: event["done"] for event in progress}
    assert done == {"tuned": 5, "untuned": 5, "constrained": 5, "scored": 5}


def evaluate_here(job: Path, **wanted: object) -> list[dict]:
    spec = json.loads((job / "spec.json").read_text())
    (job / "spec.json").write_text(json.dumps(spec | {"evaluation": spec["evaluation"] | wanted}))
    evaluate(job, Events(io.StringIO()), StopFlag())
    return answers_of(job)


def test_adapters_that_only_peft_computes_are_measured_too(job, model):
    shutil.rmtree(job / "adapter")
    write_adapter(model, job / "adapter", use_dora=True)
    found = evaluate_here(job, rows=2)
    assert [item["tuned"] for item in found] == [generated(model, job / "adapter", f["prompt"], 10) for f in found]


def test_answers_are_as_free_as_asked_for_and_the_same_again(job):
    greedy, free, again = evaluate_here(job), *(evaluate_here(job, temperature=1.5, top_p=0.9) for _ in range(2))
    assert free != greedy
    assert free == again


def test_one_candidate_is_the_likeliest_and_stop_texts_end_answers(job):
    greedy, narrow = evaluate_here(job), evaluate_here(job, temperature=1.5, top_k=1)
    assert [item["tuned"] for item in narrow] == [item["tuned"] for item in greedy]
    letter = next(letter for letter in greedy[0]["tuned"][1:] if letter.isprintable())
    ended = evaluate_here(job, temperature=0, stop_texts=f"{letter}|never occurs")
    assert [item["tuned"] for item in ended] == [item["tuned"].split(letter)[0] for item in greedy]
    assert ended[0]["tuned_finish"] == "stop"


QUEUES = ("Mail", "Mailing list", "VPN")


def with_validation(job: Path, schema: dict | None = None) -> Path:
    """Give the job training and validation rows with two closed fields, and a schema if there is one."""
    draw = random.Random(1)
    for name, first, count in (("train", 100, 40), ("validation", 200, 12), ("heldout", 2, 8)):
        lines = []
        for row in range(first, first + count):
            answer = {
                "queue": draw.choice(["Mail", "Mailing list", "VPN"]),
                "note": None,
                "urgent": draw.random() < 0.5,
            }
            question = {"role": "user", "content": f"Ticket {row}"}
            messages = [question, {"role": "assistant", "content": json.dumps(answer)}]
            lines.append(json.dumps({"row": row, "messages": messages}) + "\n")
        (job / "data" / f"{name}.jsonl").write_text("".join(lines))
    spec = json.loads((job / "spec.json").read_text())
    (job / "spec.json").write_text(json.dumps(spec | {"schema": schema}))
    return job


def test_the_tuned_model_is_asked_in_three_ways(job):
    found = evaluate_here(with_validation(job), rows=8, max_new_tokens=40)
    ways = json.loads((job / "evaluation" / "ways.json").read_text())
    assert list(ways["schema"]["properties"]) == ["queue", "note", "urgent"]
    for item in found:
        for way in ("constrained", "scored"):
            answer = json.loads(item[way])
            assert not list(deviations(answer, ways["schema"]))
        for raw, calibrated in item["confidence"].values():
            assert 0 < raw <= 1
            assert 0 < calibrated <= 1
    assert {name: len(one["rows"]) for name, one in ways["calibration"].items()} == {"queue": 8, "urgent": 8}
    assert ways["calibration"]["urgent"]["labels"] == ["true", "false"]
    ranked = {one["name"]: one for one in ways["ranking"]}
    assert {name: one["rows"] for name, one in ranked.items()} == {"queue": 8, "urgent": 8}
    assert all(one["log_loss_after"] > 0 and 0 <= one["auc"] <= 1 for one in ranked.values())
    assert any(item["tuned"] != item["constrained"] for item in found)


def test_what_stands_behind_an_open_field_is_calibrated_behind_what_the_model_writes(job, monkeypatch):
    """As it is served; the right answers' open fields would make it surer than it is."""
    fields = {"queue": {"enum": list(QUEUES)}, "note": {"enum": ["x" * 3, None]}, "urgent": {"type": "boolean"}}
    schema = {"type": "object", "properties": fields, "required": ["queue", "urgent"], "additionalProperties": False}
    others = []
    answer = Chooser.answer
    monkeypatch.setattr(Chooser, "answer", lambda self, ids, other: others.append(other) or answer(self, ids, other))
    evaluate_here(with_validation(job, schema), rows=8, max_new_tokens=40)
    assert len(others) == 16
    written = [json.loads(other) for other in others]
    assert not [one for one in written if list(deviations(one, schema))]
    learned = json.loads((job / "evaluation" / "ways.json").read_text())["calibration"]
    assert len(learned["urgent"]["rows"]) == 8
    lines = (job / "data" / "validation.jsonl").read_text().splitlines()
    right = {json.loads(line)["messages"][-1]["content"] for line in lines}
    assert not right & set(others[8:])


@pytest.mark.parametrize(("temperature", "stop"), [(0.0, ()), (0.7, ()), (0.0, ("}",))])
def test_only_whole_answers_of_the_schema_are_taken_over(job, model, temperature, stop):
    """Bound to the schema, the likeliest tokens would be the same again; a draw would not, nor what a text has cut."""
    renderer = ChatRenderer.load(model)
    core = build_core(model, renderer, EngineConfig(max_waiting=64), kind="auto")
    compiler = GrammarCompiler(model, vocabulary=core.vocabulary, eos_ids=renderer.eos_ids)
    choices = {"a": {"enum": ["x", "y"]}}
    grammar = compiler.compile(
        {"type": "object", "properties": choices, "required": ["a"], "additionalProperties": False}
    )
    rows = choose_rows(job / "data" / "heldout.jsonl", renderer, count=4, seed=1)
    asked = Questions(core, renderer, SamplingParams(40, temperature, 1.0, seed=1, stop=stop))
    asked.put("tuned", rows[:3], None, grammar)
    asked.put("tuned", rows[3:], None)  # free: the untrained model writes no JSON
    asked.run(Events(io.StringIO()), StopFlag())
    taken = asked.copy_conforming("tuned", "constrained", rows, grammar)
    assert taken == (set() if temperature or stop else {row.row for row in rows[:3]})
    for row in taken:
        assert asked.answers["constrained", row] == asked.answers["tuned", row]


def test_confidence_is_what_transformers_computes(job, model):
    found = evaluate_here(with_validation(job), rows=2, max_new_tokens=40)
    for item in found:
        likely = likelihoods(model, job / "adapter", item["prompt"], [f'{{"queue": "{queue}", "' for queue in QUEUES])
        chosen = likely[QUEUES.index(json.loads(item["scored"])["queue"])]
        share = math.exp(chosen) / sum(math.exp(one) for one in likely)
        assert item["confidence"]["queue"][0] == pytest.approx(share, abs=1e-3)


def likelihoods(model: Path, adapter: Path, prompt: str, texts: list[str]) -> list[float]:
    """Return the log probability of each answer as transformers and PEFT compute it."""
    renderer = ChatRenderer.load(model)
    ids = renderer.prompt_ids([{"role": "user", "content": prompt}])
    found = []
    for text in texts:
        whole = torch.tensor([[*ids, *renderer.encode(text)]])
        with torch.no_grad():
            logprobs = loaded(model, adapter)(input_ids=whole).logits[0, :-1].log_softmax(-1)
        found.append(float(logprobs.gather(1, whole[0, 1:, None])[len(ids) - 1 :].sum()))
    return found


def test_expected_texts_are_as_likely_as_transformers_says_whatever_line_ends_they_have(job, model):
    lines = []
    for row in range(2, 6):
        question = {"role": "user", "content": f"Ticket {row}:\u2028printer\x85"}
        answer = {"role": "assistant", "content": f"Restart it {row} times.\u2029"}
        lines.append(json.dumps({"row": row, "messages": [question, answer]}, ensure_ascii=False) + "\n")
    (job / "data" / "heldout.jsonl").write_text("".join(lines), encoding="utf-8")
    found = evaluate_here(job, rows=4, max_new_tokens=4)
    assert [item["place"] for item in found] == [0, 1, 2, 3]
    for item in found:
        end = "<|im_end|>"
        (likely,) = likelihoods(model, job / "adapter", item["prompt"], [item["expected"] + end])
        assert item["nats"]["tuned"][0] == pytest.approx(likely, abs=2e-3)
        assert item["nats"]["tuned"][1] == item["nats"]["untuned"][1] > 5


def test_a_schema_that_a_person_wrote_binds(job):
    schema = {
        "type": "object",
        "properties": {"queue": {"type": "string", "enum": ["A", "B"]}},
        "required": ["queue"],
        "additionalProperties": False,
    }
    found = evaluate_here(with_validation(job, schema), rows=4)
    assert {item["constrained"] for item in found} | {item["scored"] for item in found} <= {
        '{"queue": "A"}',
        '{"queue": "B"}',
    }
    # what the right answers say is not allowed here, so there is nothing to fit a temperature to
    assert all(raw == calibrated for item in found for raw, calibrated in item["confidence"].values())


def test_answers_of_an_earlier_run_are_reused_only_for_the_same_rows(job):
    run(job)
    cache = job / "evaluation" / "untuned-cache.jsonl"
    found = [item | {"untuned": "from the cache"} for item in answers_of(job)]
    cache.write_text("".join(json.dumps(item) + "\n" for item in found))
    run(job)
    assert {item["untuned"] for item in answers_of(job)} == {"from the cache"}
    some = [item | ({"expected": "other"} if place else {}) for place, item in enumerate(found)]
    cache.write_text("".join(json.dumps(item) + "\n" for item in some))
    run(job)
    assert [item["untuned"] == "from the cache" for item in answers_of(job)] == [True] + [False] * (len(found) - 1)


def order_all(job: Path, training_s: float) -> None:
    spec = json.loads((job / "spec.json").read_text())
    (job / "spec.json").write_text(json.dumps(spec | {"evaluation": spec["evaluation"] | {"rows": 0}}))
    (job / "report.json").write_text(json.dumps({"seconds": training_s}))


def asked_here(job: Path) -> tuple[list[int], list[dict]]:
    stream = io.StringIO()
    evaluate(job, Events(stream), StopFlag())
    return [item["row"] for item in answers_of(job)], [json.loads(line) for line in stream.getvalue().splitlines()]


def test_all_rows_are_asked_unless_that_takes_long_beside_the_training(job, monkeypatch):
    monkeypatch.setattr(trials, "LEAST_ASKED_ROWS", 2)
    order_all(job, training_s=1e6)
    every, told = asked_here(job)
    assert every == list(range(2, 14))
    assert not any("held-out rows are asked" in event.get("message", "") for event in told)
    # twice as many each time: 2 of them, and there is no time for 4
    monkeypatch.setattr(trials, "LEAST_ASKING_S", 0.0)
    order_all(job, training_s=0.0)
    few, told = asked_here(job)
    assert len(few) == 2
    assert [event["rows"] for event in told if event["event"] == "evaluated"] == [2]
    assert any("2 of 12 held-out rows are asked" in event.get("message", "") for event in told)
    assert all({"tuned", "untuned", "tfidf"} <= set(item) for item in answers_of(job))


def test_who_has_less_time_is_asked_some_of_the_same_rows(monkeypatch):
    monkeypatch.setattr(trials, "LEAST_ASKED_ROWS", 2)
    found = []
    for limit_s in (0.0, 1e6, math.inf):
        questions, rows = scripted_questions(monkeypatch, 9)
        asked = questions.ask_in_time(rows, {}, {}, Events(io.StringIO()), StopFlag(), limit_s=limit_s, seed=1)
        found.append([row.row for row in asked])
    assert len(found[0]) == 2
    assert set(found[0]) < set(found[1])
    assert found[1] == found[2] == list(range(9))


def scripted_questions(monkeypatch, count: int) -> tuple[Questions, list[HeldOutRow]]:
    monkeypatch.setattr(Questions, "run", lambda *_: None)
    rows = [HeldOutRow(row, "", "", "", (), 0, place=row) for row in range(count)]
    return Questions(None, None, None), rows  # type: ignore[arg-type]


def test_where_validation_rows_stand_in_some_are_left_to_calibrate_by(tmp_path):
    def supply(**counts):
        for name in ("heldout", "validation"):
            lines = [json.dumps({"row": name[0] + str(row)}) + "\n" for row in range(counts.get(name, 0))]
            (tmp_path / f"{name}.jsonl").write_text("".join(lines))
        if counts.get("same"):
            shutil.copy(tmp_path / "validation.jsonl", tmp_path / "heldout.jsonl")
        return Supply.of(tmp_path)

    tests_apart, stand_in = supply(heldout=30, validation=9), supply(validation=500, same=True)
    assert (tests_apart.asked(0), tests_apart.asked(4), tests_apart.asked(99)) == (30, 4, 30)
    assert tests_apart.spare(30) == 9
    assert (stand_in.asked(0), stand_in.asked(400), stand_in.spare(300)) == (300, 400, 200)
    assert supply(validation=7, same=True).asked(0) == 4
    assert supply(validation=7).asked(0) == 4  # as a trial has it


def test_the_sample_follows_the_seed(job, model):
    renderer, path = ChatRenderer.load(model), job / "data" / "heldout.jsonl"
    rows = [[r.row for r in choose_rows(path, renderer, count=4, seed=seed)] for seed in (1, 1, 2)]
    assert rows[0] == rows[1] != rows[2]
    everything = choose_rows(path, renderer, count=100, seed=1)
    assert len(everything) == 12
    assert answer_limit(everything, 1000) == 2 * max(row.answer_tokens for row in everything) + 16
    assert answer_limit(everything, 5) == 5


def test_failures_are_told_in_words_and_leave_no_answers(job):
    (job / "adapter" / "adapter_model.safetensors").write_bytes(b"broken")
    code, events = run(job)
    assert (code, events[-1]["event"]) == (1, "failed")
    assert "adapter" in events[-1]["message"]
    (job / "data" / "heldout.jsonl").write_text("")
    code, events = run(job)
    assert (code, events[-1]["code"]) == (1, "bad_data")
    assert not (job / "evaluation" / "predictions.jsonl").exists()


def test_a_stop_ends_it_with_its_own_exit_code(job):
    spec = json.loads((job / "spec.json").read_text())
    line = (job / "data" / "heldout.jsonl").read_text().splitlines()[0]
    rows = [json.loads(line) | {"row": number} for number in range(3000)]
    (job / "data" / "heldout.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec["evaluation"] |= {"rows": 3000}
    (job / "spec.json").write_text(json.dumps(spec))
    child = start(job)
    for told in child.stdout:
        if json.loads(told)["event"] == "evaluation_progress":
            child.send_signal(signal.SIGTERM)
            break
    child.communicate(timeout=60)
    assert child.returncode == 75
    assert not (job / "evaluation" / "predictions.jsonl").exists()
