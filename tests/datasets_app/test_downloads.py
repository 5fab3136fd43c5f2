"""Downloads: three kinds of files, harmless in spreadsheets, and the same rows when they are imported again."""

from __future__ import annotations

import csv
import io

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets_app import services, tasks
from datasets_app.models import Split
from datasets_app.readers.own_csv import harmless_cell, restored_cell
from portal.models import AuditEvent
from portal.rls import team_scope
from tests.datasets_app.files import jsonl_bytes, upload
from tests.datasets_app.test_derive import fresh

NASTY = ["=1+1", "+49 30 123", "-5", "@here", "'=already", "''-twice", "'plain", 'say "hi"', "a,b;c", "line\nbreak"]


@given(st.text("'=+-@\t\rab", max_size=6))
def test_harmless_and_back(text):
    cell = harmless_cell(text)
    assert restored_cell(cell) == text
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))


def imported(team, actor, content: bytes, name: str, dataset_name: str):
    with team_scope(team.pk):
        version = services.import_files(
            team=team, actor=actor, name=dataset_name, files={Split.TRAIN: upload(content, name)}
        )
    tasks.import_version(str(version.pk))
    made = fresh(version)
    assert made.status == "ready", made.report
    return made


def body(answer) -> bytes:
    assert answer.status_code == 200
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Disposition"].startswith("attachment; ")
    return answer.getvalue()


@pytest.mark.parametrize("has_turns", [False, True])
def test_csv_comes_back_as_the_same_rows(team, actor, client_for, alice, has_turns):
    rows = []
    for number in range(40):
        turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "=Hello"}] if has_turns else []
        asked = {"role": "user", "content": f"{NASTY[number % 10]} {number}"}
        system = [{"role": "system", "content": "-Be brief"}] if number % 3 else []
        answered = {"role": "assistant", "content": NASTY[(number + 3) % 10]}
        rows.append({"messages": [*system, *turns, asked, answered]})
    first = imported(team, actor, jsonl_bytes(rows), "rows.jsonl", "Nasty")
    content = body(client_for(alice).get(f"/t/service-desk/dataset-versions/{first.pk}/rows/all.csv"))
    cells = [cell for row in csv.reader(io.StringIO(content.decode("utf-8-sig"))) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    again = imported(team, actor, content, "rows.csv", "Again")
    assert again.content_hash == first.content_hash
    assert AuditEvent.objects.get(action="dataset.downloaded").detail == {"split": "all", "kind": "csv"}


def test_files_of_others_are_read_as_they_are(team, actor):
    content = b"prompt,answer\r\n'=1+1,'-x\r\n" * 1 + b"b,c\r\n"
    made = imported(team, actor, content, "theirs.csv", "Theirs")
    assert made.train_rows + made.validation_rows + made.test_rows == 2
    from tests.datasets_app.test_derive import rows_of

    assert "'=1+1" in {prompt for _split, prompt, _answer in rows_of(made).values()}


def test_parquet_is_what_is_stored(ready_version, client_for, alice):
    base = f"/t/service-desk/dataset-versions/{ready_version.pk}/rows/"
    table = pq.read_table(io.BytesIO(body(client_for(alice).get(f"{base}train.parquet"))))
    assert table.num_rows == 20
    assert body(client_for(alice).get(f"{base}validation.jsonl")).count(b"\n") == 4
    for nothing in ("test.csv", "train.exe", "all.parquet", "exam.csv"):
        assert client_for(alice).get(base + nothing).status_code == 404


def test_names_of_any_script_are_encoded(ready_version, client_for, alice, team):
    with team_scope(team.pk):
        team.datasets.update(name='Заявки "2026"/../x')
    answer = client_for(alice).get(f"/t/service-desk/dataset-versions/{ready_version.pk}/rows/train.csv")
    header = answer.headers["Content-Disposition"]
    assert "filename*=utf-8''%D0%B7%D0%B0%D1%8F%D0%B2%D0%BA%D0%B8-2026x-v1-train.csv" in header
    assert "/" not in header.split("''")[1]
