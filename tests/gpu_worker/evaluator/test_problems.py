"""Evaluations of problem types: given texts are scored, answers are held to their form."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest

from experiments.problem_file import PROBLEM_FILE, Problem
from experiments.problem_results import calibrate_labels, score_problem_file
from gpu_worker.evaluator.job import evaluate
from gpu_worker.trainer.events import Events
from gpu_worker.trainer.stop import StopFlag
from tests.gpu_worker.evaluator.test_evaluator import answers_of, write_adapter
from tests.tiny_model import make_tiny_model

pytestmark = pytest.mark.slow
LABELS = ("Card", "Card lost", "Kündigung")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def adapter(model: Path, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("adapter") / "adapter"
    write_adapter(model, folder)
    return folder


def job_of(folder: Path, model: Path, adapter: Path, problem: Problem, rows: list[dict]) -> Path:
    """A job folder with held-out rows and an adapter that has learned a problem."""
    (folder / "data").mkdir()
    (folder / "data" / "heldout.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "adapter").mkdir()
    for path in adapter.iterdir():
        (folder / "adapter" / path.name).write_bytes(path.read_bytes())
    (folder / "adapter" / PROBLEM_FILE).write_text(problem.to_json())
    spec = {
        "base_model": {"path": str(model)},
        "evaluation": {"rows": 5, "max_new_tokens": 30, "seed": 1},
        "hyperparameters": {"problem_type": problem.problem_type, "max_length": 32},
    }
    (folder / "spec.json").write_text(json.dumps(spec))
    return folder


def row(number: int, prompt: str, answer: str, **more: str) -> dict:
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return {"row": number, "messages": messages, **more}


def measured(job: Path) -> tuple[list[dict], dict]:
    """Run the evaluator; return the scored rows as it wrote them, and the figures that follow."""
    evaluate(job, Events(io.StringIO()), StopFlag())
    written = json.loads((job / "evaluation" / PROBLEM_FILE).read_text())
    report = score_problem_file(job / "evaluation" / PROBLEM_FILE, answers_of(job))
    assert report is not None
    return written["rows"], report.to_dict()


def test_every_label_gets_a_probability_and_every_answer_is_a_label(tmp_path, model, adapter):
    problem = Problem("classification", labels=LABELS)
    rows = [row(0, f"Ticket {n}", LABELS[n % 3]) for n in range(8)]  # rows that were added by hand have no line
    rows = [one | {"row": n} for n, one in enumerate(rows)]
    job = job_of(tmp_path, model, adapter, problem, rows)
    others = [row(100 + n, f"Other ticket {n}", LABELS[n % 3]) for n in range(7)]
    (job / "data" / "validation.jsonl").write_text("".join(json.dumps(one) + "\n" for one in [*rows, *others]))
    scored, report = measured(job)
    assert len(scored) == 5
    learned = json.loads((job / "evaluation" / PROBLEM_FILE).read_text())["calibration"]
    assert (learned["labels"], len(learned["rows"])) == (list(LABELS), 5)
    assert 0.05 <= learned["temperature"] <= 20
    trusted = calibrate_labels(job / "evaluation" / PROBLEM_FILE, answers_of(job))
    assert (trusted.name, trusted.temperature, trusted.rows) == ("label", learned["temperature"], 5)
    for one in scored:
        for subject in ("tuned", "untuned"):
            assert sum(one["scores"][subject]) == pytest.approx(1)
        assert one["scores"]["tuned"] != one["scores"]["untuned"]
    assert {answer[subject] for answer in answers_of(tmp_path) for subject in ("tuned", "untuned")} <= set(LABELS)
    assert [figure["name"] for figure in report["figures"]] == ["accuracy", "macro_f1", "log_loss", "auc"]


def test_numbers_are_answered_as_numbers(tmp_path, model, adapter):
    rows = [row(n, f"Ticket {n}", str(n / 2)) for n in range(5)]
    _, report = measured(job_of(tmp_path, model, adapter, Problem("regression", decimals=1), rows))
    assert all(re.fullmatch(r"[0-9]{1,12}(\.[0-9])?", answer["tuned"]) for answer in answers_of(tmp_path))
    assert {figure["name"]: figure["tuned"] for figure in report["figures"]}["unreadable"] == 0


def test_texts_are_scored_whole_and_in_pieces_alike(tmp_path, model, adapter):
    from datasets_app.rendering import ChatRenderer
    from tests.gpu_worker.engine.test_likelihood import reference

    texts = ["Short.", "A text that is much longer than a piece, so it is learned and measured in several. " * 2]
    rows = [row(n, text, "") for n, text in enumerate(texts)]
    scored, report = measured(job_of(tmp_path, model, adapter, Problem("pretraining"), rows))
    renderer = ChatRenderer.load(model)
    for one, text in zip(scored, texts, strict=True):
        ids = [*renderer.encode(text), renderer.eos_id]
        assert one["scores"]["untuned"][1] == len(ids) - 1  # every token but the first, once
    ids = [*renderer.encode(texts[0]), renderer.eos_id]
    expected = sum(reference(model, None, ids[:1], ids[1:]))
    assert scored[0]["scores"]["untuned"][0] == pytest.approx(expected, abs=1e-3)
    assert [figure["name"] for figure in report["figures"]] == ["loss", "perplexity"]


def test_both_answers_of_a_preference_are_scored(tmp_path, model, adapter):
    rows = [row(n, f"Ticket {n}", "a good answer", rejected="bad") for n in range(3)]
    scored, report = measured(job_of(tmp_path, model, adapter, Problem("preference", loss="sigmoid", beta=0.1), rows))
    assert all(len(one["scores"][subject]) == 2 for one in scored for subject in ("tuned", "untuned"))
    assert report["figures"][0]["name"] == "reward_margin"
