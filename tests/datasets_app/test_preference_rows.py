"""Rows with a worse answer and rows without any: mapped, stored, hashed, exported; older versions stay as they are."""

import json

import pyarrow.parquet as pq
import pytest

from datasets_app import services, store, tasks
from datasets_app.doctor import pii
from datasets_app.mapping import Mapping, MappingError, guess_mapping
from datasets_app.models import DoctorReport, Split
from datasets_app.preview import as_seen
from datasets_app.readers import Record, RowFault
from datasets_app.rows import CanonicalRow, row_digest, to_row
from datasets_app.store import RowsHash, read_jsonl, read_rows, write_rows
from portal.rls import all_teams, team_scope
from tests.datasets_app.test_downloads import body, fresh, imported, upload

PAIRS = Mapping(prompt="q", response="chosen", rejected="rejected")
BEFORE = "14bbe260cb61587fb54a7a8de02f9b3865296515a1c7d875025ffe38d97f6b97"


def made(mapping=PAIRS, **values):
    return to_row(Record(2, values), mapping)


def pair(number: int, rejected: str = "No.") -> CanonicalRow:
    messages = ({"role": "user", "content": f"Q{number}"}, {"role": "assistant", "content": "Yes."})
    return CanonicalRow(number + 1, messages, number, rejected=rejected)


def test_the_hash_of_rows_from_before_is_the_same():
    said = [{"role": r, "content": c} for r, c in (("system", "s"), ("user", "Hi"), ("assistant", "there"))]
    assert row_digest(said).hex() == BEFORE
    assert row_digest(said, "").hex() == BEFORE
    assert row_digest(said, "worse").hex() != BEFORE


def test_a_worse_answer_is_taken_from_its_column_and_has_to_be_another_one():
    row = made(q="Hi", chosen="Hello.", rejected=" Go away! ")
    assert (row.answer, row.rejected) == ("Hello.", "Go away!")
    for rejected, code in (
        ("", "empty_answer"),
        ("Hello.", "rejected_is_answer"),
        ("\0", "nul"),
        ("\ud800", "surrogate"),
    ):
        fault = made(q="Hi", chosen="Hello.", rejected=rejected)
        assert isinstance(fault, RowFault)
        assert (fault.column, fault.code) == ("rejected", code)
        assert fault.sentence(str)


def test_columns_of_preferences_are_guessed():
    records = [Record(n, {"prompt": "What?", "chosen": "This.", "rejected": "That."}) for n in range(3)]
    assert guess_mapping(["prompt", "chosen", "rejected"], records) == Mapping(
        prompt="prompt", response="chosen", rejected="rejected"
    )


def conversation(answer: str, asked: str = "And now?") -> list[dict[str, str]]:
    earlier = [("system", "Be short."), ("user", "Hi"), ("assistant", "Hello."), ("user", asked), ("assistant", answer)]
    return [{"role": role, "content": text} for role, text in earlier]


def test_both_answers_may_be_lists_of_messages():
    columns = ["chosen", "rejected"]
    records = [Record(n, {"chosen": conversation("Yes."), "rejected": conversation("No.")}) for n in range(3)]
    mapping = guess_mapping(columns, records)
    assert mapping == Mapping(messages="chosen", rejected="rejected")
    mapping.validate(columns)
    alone = [{"role": "assistant", "content": "No."}]
    for worse in (conversation("No."), conversation("No.")[1:], alone, json.dumps(alone), "No."):
        row = to_row(Record(2, {"chosen": conversation("Yes."), "rejected": worse}), mapping)
        assert (row.answer, row.rejected, len(row.messages)) == ("Yes.", "No.", 5)
    for worse, code in (
        (conversation("No.", asked="What else?"), "rejected_asks_else"),
        (conversation("Yes."), "rejected_is_answer"),
        (conversation("No.")[:-1], "bad_roles"),
        ([], "bad_messages"),
        ([{"role": "assistant"}], "bad_messages"),
    ):
        fault = to_row(Record(2, {"chosen": conversation("Yes."), "rejected": worse}), mapping)
        assert (fault.column, fault.code) == ("rejected", code)

    arrays = [Record(n, {"question": "Which?", "answer": '["VPN", "Mail"]'}) for n in range(3)]
    assert guess_mapping(["question", "answer"], arrays).response == "answer", "a JSON array is no conversation"


@pytest.mark.parametrize(
    ("mapping", "code"),
    [
        (Mapping(text="q", response="chosen"), "text_and_columns"),
        (Mapping(text="q", system_prompt="Be kind."), "text_and_columns"),
        (Mapping(prompt="q", response="chosen", rejected="chosen"), "rejected_is_text"),
        (Mapping(prompt="q", response="chosen", rejected="other"), "column_missing"),
    ],
)
def test_columns_that_contradict_each_other_are_refused(mapping, code):
    with pytest.raises(MappingError) as caught:
        mapping.validate(["q", "chosen", "rejected"])
    assert caught.value.code == code
    assert caught.value.sentence(str)


def test_pairs_go_through_the_store_and_the_export_unchanged(tmp_path):
    rows = [pair(1), pair(2, "Nein, ü."), pair(3, "")]
    written = write_rows(tmp_path / "train.parquet", rows)
    assert list(read_rows(tmp_path / "train.parquet")) == rows
    store.export_jsonl(tmp_path / "train.parquet", tmp_path / "train.jsonl")
    lines = (tmp_path / "train.jsonl").read_text().splitlines()
    assert [json.loads(line).get("rejected") for line in lines] == ["No.", "Nein, ü.", None]
    known = RowsHash()
    for row in read_jsonl(tmp_path / "train.jsonl"):
        known.add(row.messages, row.rejected)
    assert known.hexdigest() == written.sha256
    assert write_rows(tmp_path / "b.parquet", [pair(1, "Never."), *rows[1:]]).sha256 != written.sha256


def test_a_file_from_before_there_were_preferences_is_read(tmp_path):
    rows = [pair(1, ""), pair(2, "")]
    path = tmp_path / "train.parquet"
    before = write_rows(path, rows).sha256
    table = pq.read_table(path).drop_columns(["rejected"])
    assert "rejected" not in table.schema.names
    pq.write_table(table, path)
    assert list(read_rows(path)) == rows
    assert [row.id for row in store.read_ids(path, [2])] == [2]
    assert store.read_slice(path, 0, 1) == rows[:1]
    assert write_rows(tmp_path / "again.parquet", read_rows(path)).sha256 == before


def test_a_text_is_a_row_without_an_answer(tmp_path):
    row = made(Mapping(text="body"), body=" Once upon a time. ")
    assert (row.prompt, row.answer) == ("Once upon a time.", "")
    assert made(Mapping(text="body"), body=" ").code == "empty_prompt"


@pytest.mark.django_db
def test_the_preview_shows_both_answers_and_a_text_as_learned():
    (seen, text), _model = as_seen([pair(1), made(Mapping(text="body"), body="Once upon a time.")])
    assert seen.rejected == "No."
    assert (text.prompt_text, text.answer_text, text.rejected) == ("", "Once upon a time.", "")


def test_personal_data_in_a_worse_answer_are_found_and_masked():
    row = pair(1, "Write to anna@example.com")
    assert pii.holds(row, ["email"])
    assert pii.mask(row, ["email"], pii.Pseudonyms()).rejected == "Write to [EMAIL_1]"


def serious_findings(version) -> list[str]:
    """What the doctor calls an error."""
    with team_scope(version.team_id):
        (report_id,) = version.doctor_reports.values_list("pk", flat=True)
    tasks.examine_version(str(report_id))
    with all_teams("test"):
        report = DoctorReport.unscoped.get(pk=report_id)
    assert report.status == DoctorReport.Status.READY, report.error
    return [finding["code"] for finding in report.report["findings"] if finding["severity"] == "error"]


@pytest.mark.django_db
def test_preferences_are_imported_examined_divided_anew_and_taken_out_again(team, actor, client_for, alice):
    lines = ["prompt,chosen,rejected", *(f"Question {n}?,Answer {n},Worse {n}" for n in range(40))]
    version = imported(team, actor, "\n".join(lines).encode(), "pairs.csv", "Pairs")
    assert version.mapping["rejected"] == "rejected"
    assert not serious_findings(version)
    worse = {row.rejected for split in ("train", "validation") for row in read_rows(version.rows_path(split))}
    assert len(worse | {row.rejected for row in read_rows(version.rows_path("test"))}) == 40
    page = client_for(alice).get(f"/t/service-desk/dataset-versions/{version.pk}/rows/1/")
    assert "Worse answer" in page.content.decode()
    content = body(client_for(alice).get(f"/t/service-desk/dataset-versions/{version.pk}/rows/all.csv"))
    assert imported(team, actor, content, "rows.csv", "Again").content_hash == version.content_hash


@pytest.mark.django_db
def test_texts_are_imported_examined_and_divided(team, actor):
    lines = [json.dumps({"text": f"Document {n} tells of the {n}th thing."}) for n in range(40)]
    with team_scope(team.pk):
        version = services.import_files(
            team=team,
            actor=actor,
            name="Texts",
            files={Split.TRAIN: upload("\n".join(lines).encode(), "texts.jsonl")},
            mapping=Mapping(text="text"),
        )
    tasks.import_version(str(version.pk))
    version = fresh(version)
    assert not serious_findings(version)
    assert (version.train_rows, version.validation_rows + version.test_rows) == (32, 8)
