"""Bad input: each is refused with a sentence that says what, where and what to do, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from datasets_app import services
from datasets_app.mapping import Mapping
from datasets_app.models import Dataset, DatasetVersion, SourceFile, Split
from portal.errors import InvalidInput, InvalidSource, PortalError, TooLarge
from portal.rls import team_scope
from tests.datasets_app.files import csv_bytes, csv_upload, tickets, upload, zip_bytes


@pytest.fixture
def refused(team, actor, settings) -> Callable[..., PortalError]:
    """Return a function that imports, expects a refusal, and makes sure that no row and no file is left."""

    def attempt(content: bytes, **options) -> PortalError:
        files = options.pop("files", None) or {Split.TRAIN: upload(content)}
        with team_scope(team.pk):
            with pytest.raises(PortalError) as caught:
                services.import_files(team=team, actor=actor, name="Tickets", files=files, **options)
            assert not Dataset.unscoped.exists()
            assert not DatasetVersion.unscoped.exists()
            assert not SourceFile.unscoped.exists()
        assert [path for path in (Path(settings.DATA_DIR) / "teams").rglob("*") if path.is_file()] == []
        return caught.value

    return attempt


def test_wrong_column_in_the_mapping(refused):
    error = refused(csv_bytes(tickets(3)), mapping=Mapping(prompt="question", response="response"))
    assert isinstance(error, InvalidInput)
    assert (error.param, error.code) == ("mapping", "column_missing")
    assert error.message == "The column “question” is not in the file. Its columns are: prompt, response."


def test_empty_file(refused):
    error = refused(b"")
    assert error.code == "empty_file"
    assert error.param == "train_file"
    assert error.message.startswith("“tickets.csv”: The file is empty.")


def test_header_only(refused):
    error = refused(b"prompt,response\n")
    assert error.code == "no_rows"
    assert "a header but no rows" in error.message


def test_broken_quotes(refused):
    error = refused(b'prompt,response\nfirst,answer\n"never closed,answer\nlast,answer\n')
    assert error.code == "faulty_rows"
    assert error.details[0]["line"] == 3
    assert error.details[0]["code"] == "bad_quotes"
    assert error.message.startswith("“tickets.csv”: Line 3")


def test_not_utf8(refused):
    error = refused(csv_bytes([("Не могу войти", "Доступ")] * 3, encoding="cp1251"))
    assert isinstance(error, InvalidSource)
    assert error.code == "encoding_unknown"
    assert "line 2" in error.message
    assert "cp1251" in error.message


def test_single_bad_byte_names_its_line(refused):
    content = csv_bytes(tickets(200)).replace(b"Ticket 150:", b"Ticket \xff150:")
    error = refused(content)
    assert (error.details[0]["line"], error.details[0]["column"], error.details[0]["code"]) == (
        152, "prompt", "bad_byte",
    )  # fmt: skip


def test_cell_of_100_megabytes(refused):
    error = refused(b"prompt,response\nshort,answer\n" + b"x" * 100 * 1024 * 1024 + b",answer\n")
    assert error.code == "faulty_rows"
    assert error.details[0]["line"] == 3
    assert error.details[0]["code"] in ("row_too_long", "cell_too_long")


def test_zip_without_a_table(refused):
    error = refused(zip_bytes())
    assert error.code == "archive_no_table"
    assert "The archive holds no table" in error.message


def test_empty_answers(refused):
    error = refused(csv_bytes([("first", "answer"), ("second", ""), ("third", "  "), ("fourth", "answer")]))
    assert error.code == "faulty_rows"
    assert [(one["line"], one["column"], one["code"]) for one in error.details] == [
        (3, "response", "empty_answer"),
        (4, "response", "empty_answer"),
    ]
    assert error.message == (
        "“tickets.csv”: Line 3, column “response”: the answer is empty. "
        "Fill it in or delete the row. 1 more row is faulty."
    )


def test_mapping_that_cannot_be_guessed(refused):
    error = refused(csv_bytes([("a",), ("b",)], header=("text",)))
    assert isinstance(error, InvalidInput)
    assert error.param == "mapping"
    assert "Its columns are: text." in error.message or "Choose one of: text." in error.message


def test_file_over_the_limit(refused, settings):
    settings.MAX_UPLOAD_BYTES = 1000
    error = refused(csv_bytes(tickets(100)))
    assert isinstance(error, TooLarge)
    assert error.status == 413
    assert "the limit is 1000" in error.message


def test_missing_training_file(refused):
    error = refused(b"", files={Split.TEST: csv_upload(tickets(3))})
    assert (error.param, error.code) == ("train_file", "file_missing")


def test_the_file_to_blame_is_named(refused):
    files = {Split.TRAIN: csv_upload(tickets(5)), Split.TEST: upload(b"a,b\n1,2\n", "held out.csv")}
    error = refused(b"", files=files)
    assert error.code == "column_missing"
    assert error.message.startswith("“held out.csv”: The column “prompt”")


def test_faults_of_every_file_are_listed(refused):
    files = {
        Split.TRAIN: csv_upload([("first", "answer"), ("", "answer")]),
        Split.TEST: csv_upload([("first", "")], "test.csv"),
    }
    error = refused(b"", files=files)
    assert [(one["file"], one["split"], one["line"], one["code"]) for one in error.details] == [
        ("tickets.csv", "train", 3, "empty_prompt"),
        ("test.csv", "test", 2, "empty_answer"),
    ]


def test_only_the_first_hundred_faults_are_listed(refused):
    error = refused(csv_bytes([("question", "answer"), *[("question", "")] * 250]))
    assert len(error.details) == services.MAX_DETAILS
    assert error.message.endswith("249 more rows are faulty.")


@pytest.mark.parametrize("name", ["", "   ", "x" * 121, "nul\0", "esc\x1b[0m"])
def test_bad_names(team, actor, scoped, name, settings):
    with pytest.raises(InvalidInput) as caught:
        services.import_files(team=team, actor=actor, name=name, files={Split.TRAIN: csv_upload(tickets(3))})
    assert caught.value.param == "name"
    assert not (Path(settings.DATA_DIR) / "teams").exists()


def test_duplicate_name(team, other_team, actor, charlie, scoped):
    services.import_files(team=team, actor=actor, name="Tickets", files={Split.TRAIN: csv_upload(tickets(3))})
    with pytest.raises(InvalidInput, match="already a dataset named “Tickets”") as caught:
        services.import_files(team=team, actor=actor, name=" Tickets ", files={Split.TRAIN: csv_upload(tickets(3))})
    assert (caught.value.param, caught.value.code) == ("name", "name_taken")
    assert Dataset.unscoped.count() == 1
    with team_scope(other_team.pk):  # names of different teams never meet
        services.import_files(team=other_team, actor=actor, name="Tickets", files={Split.TRAIN: csv_upload(tickets(3))})
