"""Rows are encoded once; whatever decides their tokens makes them be encoded again."""

import pytest

from gpu_worker.trainer import problems, token_cache
from tests.gpu_worker.trainer.jobs import losses, run_here, ticket_rows, write_job


@pytest.fixture
def encodings(monkeypatch):
    """How often rows were really encoded."""
    seen, real = [], problems.encode
    monkeypatch.setattr(
        problems, "encode", lambda path, *rest, **more: seen.append(path.name) or real(path, *rest, **more)
    )
    return seen


@pytest.fixture
def train(tmp_path, base_model):
    """Run one step in one and the same job folder; return the losses."""

    def train(rows=None, **chosen):
        chosen = {"max_steps": 1, "max_length": 400, "validation_rows": 3} | chosen
        rows = rows or ticket_rows(6)
        job = write_job(tmp_path / "job", base_model, train=rows, validation=ticket_rows(5, seed=1), **chosen)
        return losses(run_here(job)[1])

    return train


def test_the_second_run_finds_what_the_first_encoded(train, encodings, tmp_path):
    first = train()
    assert encodings == ["train.jsonl", "validation.jsonl"]
    assert train(learning_rate=1e-3) == first
    assert len(encodings) == 2
    assert len(list((tmp_path / "job" / "tokens").iterdir())) == 2


@pytest.mark.parametrize("changes", [{"max_length": 60}, {"rows": ticket_rows(6, seed=3)}, {"validation_rows": 4}])
def test_what_decides_the_tokens_is_never_taken_from_before(train, encodings, changes):
    train()
    train(**changes)
    assert len(encodings) > 2


@pytest.mark.parametrize("content", [b"", b"half a file"])
def test_a_damaged_file_is_made_again(train, encodings, tmp_path, content):
    first = train()
    for path in (tmp_path / "job" / "tokens").iterdir():
        path.write_bytes(content)
    assert train() == first
    assert len(encodings) == 4


def test_counts_and_rows_come_back_as_they_were(tmp_path):
    from datasets_app.learned_rows import EncodedRow
    from gpu_worker.trainer.rows import EncodedRows

    encoded = EncodedRows((EncodedRow((5, 6, 7), 1), EncodedRow((8, 9), 1)), truncated=3, skipped=2)
    assert token_cache.cached(tmp_path / "tokens", "name", lambda: encoded) == encoded
    assert token_cache.cached(tmp_path / "tokens", "name", lambda: pytest.fail("it is there")) == encoded
