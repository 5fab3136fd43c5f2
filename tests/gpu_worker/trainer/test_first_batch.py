"""What the model learns from, token by token, and the figures beside the loss."""

import time

import pytest

from datasets_app.learned_rows import EncodedRow
from datasets_app.rendering import ChatRenderer
from gpu_worker.trainer.first_batch import MOST_ROWS, SHOWN_TOKENS, describe_rows
from gpu_worker.trainer.machine_load import MachineLoad
from gpu_worker.trainer.rows import encode_file
from gpu_worker.trainer.spec import read_spec
from tests.gpu_worker.trainer.jobs import only, run_here, ticket_rows, write_job


def encoded(job, renderer) -> tuple[EncodedRow, ...]:
    return encode_file(job.train_rows, renderer, read_spec(job).hyperparameters).rows


@pytest.fixture
def job(tmp_path, base_model):
    return write_job(tmp_path / "job", base_model, train=ticket_rows(20), batch_size=10, epochs=1)


def test_the_first_batch_is_told_once_with_every_label(job, renderer):
    _code, events = run_here(job)
    rows = only(events, "first_batch")["rows"]
    assert len(rows) == MOST_ROWS
    known = {
        (renderer.decode(row.token_ids[: row.prompt_length], False), row.label_tokens) for row in encoded(job, renderer)
    }
    for row in rows:
        text = "".join(text for text, _tokens in row["given"])
        assert (text, row["learned_tokens"]) in known
        assert sum(tokens for _text, tokens in row["learned"]) == row["learned_tokens"]
        assert sum(tokens for _text, tokens in row["given"]) == row["given_tokens"]


def test_a_resumed_run_does_not_tell_it_again(job):
    run_here(job)
    spec = (job.root / "spec.json").read_text()
    (job.root / "spec.json").write_text(spec.replace('"resume": false', '"resume": true'))
    _code, again = run_here(job)
    assert [event["event"] for event in again].count("first_batch") == 0
    assert only(again, "started")["resumed_from_step"]


@pytest.mark.parametrize("text", ["naïve café — 漢字 🙂 end", "  two  spaces\nand a line", "x"])
def test_pieces_make_up_the_text_of_any_alphabet(renderer: ChatRenderer, text):
    ids = tuple(renderer.encode(text))
    (row,) = describe_rows([EncodedRow((*ids, *ids), len(ids))], renderer)
    assert "".join(piece for piece, _tokens in row["given"]) == text
    assert sum(tokens for _piece, tokens in row["given"]) == len(ids)
    assert not row["is_cut"]


def test_long_rows_are_cut_in_the_middle_and_counted_whole(renderer: ChatRenderer):
    ids = tuple(renderer.encode("word " * 2000))
    (row,) = describe_rows([EncodedRow((*ids, *ids[:3]), len(ids))], renderer)
    assert row["is_cut"]
    assert row["given_tokens"] == sum(tokens for _piece, tokens in row["given"]) == len(ids)
    assert len(row["given"]) <= SHOWN_TOKENS + 1


@pytest.mark.slow
def test_padding_is_reported_by_the_way_that_pads(tmp_path, base_model):
    chosen = {"train": ticket_rows(12), "epochs": 1, "micro_batch_size": 8, "group_by_length": False}
    padded, packed = (
        [event for event in run_here(write_job(tmp_path / path, base_model, path=path, **chosen))[1] if "loss" in event]
        for path in ("general", "auto")
    )
    assert all(0 < event["padding_share"] < 1 for event in padded)
    assert all(0 <= event["padding_share"] < 0.1 for event in packed), "no more than fills up the step"
    assert all(0 <= event["cpu_share"] <= 1 for event in packed)


def test_a_busy_moment_counts_and_an_idle_one_does_not():
    load = MachineLoad("cpu")
    until = time.process_time() + 0.05
    while time.process_time() < until:
        pass
    busy = load.since_last_asked()["cpu_share"]
    time.sleep(0.1)
    assert load.since_last_asked()["cpu_share"] < busy
