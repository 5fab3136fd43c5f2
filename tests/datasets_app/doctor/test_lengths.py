"""Token figures are those of the very rows that training makes."""

from typing import Any

import pytest

from datasets_app.doctor.examine import examine
from datasets_app.doctor.lengths import LIMITS
from datasets_app.doctor.options import Options
from datasets_app.rendering import ChatRenderer
from datasets_app.rows import CanonicalRow
from datasets_app.store import export_jsonl, read_rows, write_rows
from experiments.hyperparameters import Hyperparameters
from gpu_worker.trainer.rows import encode_file
from tests.datasets_app.doctor.conftest import good_rows
from tests.tiny_model import make_tiny_model


def test_figures_equal_a_recount(diagnose, tmp_path):
    model = make_tiny_model(tmp_path / "tiny")
    rows = good_rows(300) + [("train", "word " * n, "Да, конечно. " * n) for n in (30, 60, 200, 900, 3000)]
    report = diagnose(rows, tokenizer_folder=model, max_length=100)
    renderer = ChatRenderer.load(model)
    whole = [
        renderer.row(row.messages)
        for split in ("train", "validation")
        for row in read_rows(tmp_path / f"{split}.parquet")
    ]
    lengths = [len(row.token_ids) for row in whole]
    tokens = report.tokens
    assert tokens is not None
    for one in tokens["truncated"]:
        assert one["rows"] == sum(length > one["limit"] for length in lengths)
        assert one["percent"] == round(100 * one["rows"] / len(lengths), 2)
    assert [one["limit"] for one in tokens["truncated"]] == list(LIMITS)
    assert tokens["truncated"][-1]["rows"] > 0
    assert tokens["row"]["sum"] == sum(lengths)
    assert tokens["answer"]["max"] == max(len(row.token_ids) - row.prompt_length for row in whole)
    assert tokens["row"]["percentiles"]["90"] == sorted(lengths)[-(-90 * len(lengths) // 100) - 1]
    assert sum(tokens["histogram"]["counts"]) == len(lengths)
    edges = tokens["histogram"]["edges"]
    assert tokens["histogram"]["counts"][0] == sum(length <= edges[0] for length in lengths)
    too_long = report.finding("too_long")
    assert too_long is not None
    assert too_long.count == sum(length > 100 for length in lengths)


def test_no_tokenizer_no_figures(diagnose):
    assert diagnose(good_rows(60)).tokens is None


def conversation(*speeches: str, unlearned: tuple[int, ...] = ()) -> tuple[dict[str, Any], ...]:
    """User and assistant in turns; the messages at the places `unlearned` have the weight 0."""
    return tuple(
        {"role": ("user", "assistant")[place % 2], "content": text} | ({"weight": 0} if place in unlearned else {})
        for place, text in enumerate(speeches)
    )


SEVERAL = (
    conversation(
        "The printer is broken", "Which of them is it? " * 9, "The one on floor 3", "Hardware", "Thanks", "Ok"
    ),
    conversation("The printer is broken", "Which one?", "The one on floor 3", "Hardware", unlearned=(1,)),
    conversation("Hello", "Good morning"),
)


@pytest.mark.parametrize("retells", [False, True], ids=["one row", "a template that leaves out earlier answers"])
def test_every_answer_that_is_learned_is_counted(tmp_path, retells):
    """As the trainer's own reader makes rows of them."""
    model = make_tiny_model(tmp_path / "tiny")
    if retells:
        template = model / "chat_template.jinja"
        told = "(message['content'] if loop.last or message['role'] != 'assistant' else 'said')"
        template.write_text(template.read_text().replace("message['content']", told))
    rows = [CanonicalRow(number, messages, number) for number, messages in enumerate(SEVERAL, 2)]
    write_rows(tmp_path / "train.parquet", rows)
    export_jsonl(tmp_path / "train.parquet", tmp_path / "train.jsonl")
    trained = encode_file(tmp_path / "train.jsonl", ChatRenderer.load(model), Hyperparameters()).rows
    assert len(trained) == (5 if retells else 3)
    tokens = examine(tmp_path, {"train": tmp_path / "train.parquet"}, model, Options(max_length=100)).tokens
    answers = [end - start for row in trained for start, end in row.learned]
    assert tokens["answer"] == {**tokens["answer"], "sum": sum(answers), "max": max(answers), "min": min(answers)}
    assert tokens["answer"]["mean"] == round(sum(answers) / 5, 1)
    assert tokens["learned"]["sum"] == sum(row.label_tokens for row in trained)
    assert tokens["prompt"]["sum"] + tokens["learned"]["sum"] == sum(row.tokens for row in trained)
    assert tokens["row"]["max"] == max(row.tokens for row in trained)
    assert sum(tokens["histogram"]["counts"]) == len(rows)


def test_preferences_compare_the_last_answer_alone(tmp_path):
    model = make_tiny_model(tmp_path / "tiny")
    write_rows(tmp_path / "train.parquet", [CanonicalRow(2, SEVERAL[0], 1, rejected="No")])
    tokens = examine(tmp_path, {"train": tmp_path / "train.parquet"}, model).tokens
    rendered = ChatRenderer.load(model).row(SEVERAL[0])
    assert tokens["prompt"]["sum"] == rendered.prompt_length
    assert tokens["answer"]["sum"] == len(rendered.token_ids) - rendered.prompt_length
    assert tokens["longest_answers"] == {"train": tokens["answer"]["sum"]}
