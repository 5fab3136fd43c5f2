"""Every problem type moves its own metric, and leaves beside the adapter what its answers are made of."""

import json
import random
from pathlib import Path

import pytest

from experiments.problem_file import PROBLEM_FILE, Problem, read_problem
from gpu_worker.engine.build import build_core
from gpu_worker.engine.config import EngineConfig
from gpu_worker.trainer.errors import TrainingError
from tests.gpu_worker.trainer.jobs import only, run_here, write_job

pytestmark = pytest.mark.slow
# One label begins like another, one is not ASCII, one has quotes: a name is a name.
LABELS = (
    "Card", "Card lost", "Card not accepted", "Top up", "Kündigung", 'Say "hi"', "Refund", "Exchange rate", "PIN",
    "Fee, monthly", "Перевод", "Limit\\cap",
)  # fmt: skip


def row(number: int, prompt: str, answer: str, **more: str) -> dict:
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return {"row": number + 2, "messages": messages, **more}


def labelled(count: int, seed: int = 0) -> list[dict]:
    chance = random.Random(seed)
    picked = [LABELS[number % len(LABELS)] for number in range(count)]
    return [
        row(number, f"{'abcdefghijkl'[LABELS.index(label)] * 6} {chance.randint(0, 9)}", label)
        for number, label in enumerate(picked)
    ]


def opened(base_model: Path, renderer, adapter: Path):
    """The engine with a trained adapter, and the scorer of texts."""
    core = build_core(base_model, renderer, EngineConfig())
    core.add_adapter("tuned", core.read_adapter(adapter))
    return core.find_adapter("tuned"), core.likelihoods()


def test_twelve_label_names_are_learned_and_stand_in_the_artefact(tmp_path, base_model, renderer):
    job = write_job(
        tmp_path, base_model, train=labelled(96), problem_type="classification",
        epochs=25, learning_rate=1e-2, batch_size=16, micro_batch_size=16,
    )  # fmt: skip
    code, events = run_here(job)
    assert code == 0
    assert only(events, "started")["path"] == "fast"
    problem = read_problem(job.adapter)
    assert problem == Problem("classification", labels=tuple(sorted(LABELS)))
    adapter, scorer = opened(base_model, renderer, job.adapter)
    right = 0
    for asked in (held_out := labelled(24, seed=9)):
        prompt = renderer.prompt_ids(asked["messages"][:1])
        answers = [renderer.row([asked["messages"][0], {"role": "assistant", "content": one}]) for one in LABELS]
        logprobs = scorer.of(prompt, [answer.token_ids[answer.prompt_length :] for answer in answers], adapter)
        likeliest = max(zip(logprobs, LABELS, strict=True), key=lambda pair: sum(pair[0]))[1]
        right += likeliest == asked["messages"][1]["content"]
    assert right / len(held_out) > 0.4  # chance: 1/12


def test_one_label_alone_is_refused(tmp_path, base_model):
    job = write_job(tmp_path, base_model, train=[row(n, f"t{n}", "A") for n in range(4)], problem_type="classification")
    with pytest.raises(TrainingError, match="same label"):
        run_here(job)


def test_a_chat_adapter_stays_a_plain_peft_folder(tmp_path, base_model):
    job = write_job(tmp_path, base_model, train=labelled(4), max_steps=1)
    assert run_here(job)[0] == 0
    assert not (job.adapter / PROBLEM_FILE).exists()


@pytest.mark.parametrize(
    "content",
    [
        "no json", "[]", {"format": 2}, {"problem_type": "magic"}, {"problem_type": "classification"},
        {"problem_type": "classification", "labels": [1]}, {"problem_type": "regression", "decimals": 99},
        {"problem_type": "regression", "minimum": "0"}, {"problem_type": "regression", "surprise": 1},
    ],
)  # fmt: skip
def test_a_problem_file_of_a_stranger_is_refused(tmp_path, content):
    text = (
        content
        if isinstance(content, str)
        else json.dumps({"format": 1, **content} if isinstance(content, dict) else content)
    )
    (tmp_path / PROBLEM_FILE).write_text(text)
    with pytest.raises(ValueError, match=PROBLEM_FILE):
        read_problem(tmp_path)
