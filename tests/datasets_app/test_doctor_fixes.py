"""One-click fixes: what each does to the rows, several at once, and that the doctor finds less afterwards."""

from __future__ import annotations

import json

import pytest

from datasets_app import services as dataset_services
from datasets_app import store, tasks
from datasets_app.doctor_reports import lifecycle, services
from datasets_app.models import DoctorReport, Split
from portal.errors import InvalidInput
from portal.rls import team_scope
from tests.datasets_app.doctor_versions import examined
from tests.ready import write_csv

pytestmark = pytest.mark.django_db


def answer(service: str, urgency: str = "Low") -> str:
    return json.dumps({"service": service, "urgency": urgency})


SERVICES = ("Network", "Printer", "Wiki")
GOOD = [
    (f"{word} {number} does not work in room {number * 37}", answer(word, ("Low", "High")[number % 2]))
    for number in range(20)
    for word in SERVICES
]
TRAIN = [
    *GOOD,
    GOOD[0],  # repeated
    ("Which door is it?", answer("Wiki")),
    ("which  door is it?", answer("Wiki")),  # repeated but for its letter case
    ("Which door is it?", answer("Printer")),  # contradicts
    ("Net is away", answer("network")),  # misspelt label
    ("Keys are swapped", '{"urgency":"Low","service":"Wiki"}'),
    ("Asked in both", answer("Wiki")),  # leaks
    ("Write to mary@example.com or to mary@example.com and bob@example.org", answer("Wiki")),  # personal data
    ("Her address is MARY@example.com too", answer("Printer")),
    ("Call +7 912 345-67-89 about the toner", answer("Printer")),
]
VALIDATION = [("asked in both", answer("Wiki")), ("Only here", answer("Printer"))]


@pytest.fixture
def report(team, actor, base_model, tmp_path) -> DoctorReport:
    """The ready report of a version with planted faults."""
    files = {Split.TRAIN: TRAIN, Split.VALIDATION: VALIDATION}
    paths = {split: write_csv(tmp_path / f"{split.value}.csv", rows) for split, rows in files.items()}
    with team_scope(team.pk):
        version = dataset_services.import_files(team=team, actor=actor, name="Faulty", files=paths)
    return examined(version)


def fixed(report: DoctorReport, actor, **chosen: str) -> DoctorReport:
    """Apply fixes and return the report on the new version."""
    with team_scope(report.team_id):
        version = services.apply_fixes(report=report, actor=actor, chosen=chosen)
    return examined(version)


def counts(report: DoctorReport) -> dict[str, int]:
    return {one["code"]: one["count"] for one in report.report["findings"]}


def rows_of(report: DoctorReport, split: str = "train") -> list[tuple[str, str]]:
    return [(row.prompt, row.answer) for row in store.read_rows(report.version.rows_path(split))]


def test_what_is_planted_is_found(report):
    assert counts(report) | {"duplicate": 2, "conflict": 1, "misspelt_label": 1, "key_order": 1, "leak": 1} == counts(
        report
    )


def test_repeated_rows_go_and_the_first_stays(report, actor):
    after = fixed(report, actor, duplicate="exclude")
    assert "duplicate" not in counts(after)
    assert [prompt for prompt, _answer in rows_of(after)].count(GOOD[0][0]) == 1
    assert len(rows_of(after)) == len(TRAIN) - 2
    assert after.version.changes == [{"op": "exclude_found", "report": str(report.pk), "code": "duplicate"}]


def test_contradictions_are_settled_by_the_usual_answer_or_all_go(report, actor):
    usual = fixed(report, actor, conflict="keep_usual")
    doors = [answer for prompt, answer in rows_of(usual) if "door" in prompt]
    assert doors == [answer("Wiki"), answer("Wiki")]
    none = fixed(report, actor, conflict="exclude_all")
    assert [prompt for prompt, _answer in rows_of(none) if "door" in prompt] == []


def test_leaks_leave_training_or_the_held_out_rows(report, actor):
    training = fixed(report, actor, leak="exclude_training")
    assert "leak" not in counts(training)
    assert (training.version.train_rows, training.version.validation_rows) == (len(TRAIN) - 1, 2)
    held_out = fixed(report, actor, leak="exclude_held_out")
    assert "leak" not in counts(held_out)
    assert (held_out.version.train_rows, held_out.version.validation_rows) == (len(TRAIN), 1)


def test_a_new_split_keeps_alike_rows_together(report, actor):
    after = fixed(report, actor, leak="resplit", duplicate="exclude")
    assert [change["op"] for change in after.version.changes] == ["exclude_found", "resplit"]
    divided = after.version.changes[1]["options"]
    assert divided["validation_share"] != report.version.options["validation_share"]
    assert {name: after.version.options[name] for name in divided} == divided
    assert "leak" not in counts(after)
    assert after.version.validation_rows > 0


def test_labels_and_keys_are_written_as_they_are_meant(report, actor):
    after = fixed(report, actor, misspelt_label="rename", key_order="order")
    answers = dict(rows_of(after))
    assert answers["Net is away"] == answer("Network")
    assert answers["Keys are swapped"] == '{"service":"Wiki","urgency":"Low"}'  # in its own style
    assert not {"misspelt_label", "key_order"} & set(counts(after))


def test_personal_data_are_masked_with_the_same_names_or_their_rows_go(report, actor, client_for, alice, bob):
    after = fixed(report, actor, pii_email="mask", pii_phone="drop")
    prompts = [prompt for prompt, _answer in rows_of(after)]
    assert "Write to [EMAIL_1] or to [EMAIL_1] and [EMAIL_2]" in prompts
    assert "Her address is [EMAIL_1] too" in prompts
    assert not [prompt for prompt in prompts if "toner" in prompt]
    assert not {"pii_email", "pii_phone"} & set(counts(after))
    with team_scope(report.team_id):
        decided = {one.kind: (one.choice, one.made_id) for one in report.version.personal_data_decisions.all()}
    assert decided == {"email": ("mask", after.version_id), "phone": ("drop", after.version_id)}
    address = f"/t/{report.team.slug}/dataset-versions/{after.version_id}/doctor/"
    assert "Mended since version 1" in client_for(bob).get(address).content.decode()


def test_keeping_personal_data_is_noted_and_makes_no_version(report, actor, client_for, bob):
    with team_scope(report.team_id):
        assert services.apply_fixes(report=report, actor=actor, chosen={"pii_email": "keep"}) is None
        assert report.version.dataset.versions.count() == 1
    page = client_for(bob).get(f"/t/{report.team.slug}/dataset-versions/{report.version_id}/doctor/")
    assert "Decided: Keep, by Alice" in page.content.decode()


def test_only_editors_see_personal_data_and_only_when_they_ask(report, client_for, alice, bob):
    address = f"/t/{report.team.slug}/dataset-versions/{report.version_id}/doctor/"
    for browser, path in ((client_for(alice), ""), (client_for(bob), ""), (client_for(bob), "?raw=1")):
        page = browser.get(address + path).content.decode()
        assert "[email]" in page
        assert "mary@example.com" not in page.lower()
    assert "mary@example.com" in client_for(alice).get(f"{address}?raw=1").content.decode()


def test_all_rows_of_a_finding_are_listed(report, client_for, bob):
    address = f"/t/{report.team.slug}/dataset-versions/{report.version_id}/doctor/findings"
    page = client_for(bob).get(f"{address}/near_duplicate/?page=2").content.decode()
    assert page.count("room") == 20
    assert "[email]" in client_for(bob).get(f"{address}/pii_email/?raw=1").content.decode()
    assert client_for(bob).get(f"{address}/nothing/").status_code == 404


def test_several_fixes_make_one_version(report, actor):
    with team_scope(report.team_id):
        before = report.version.dataset.versions.count()
    after = fixed(report, actor, misspelt_label="rename", duplicate="exclude", leak="exclude_training")
    with team_scope(report.team_id):
        assert report.version.dataset.versions.count() == before + 1
    assert [change["op"] for change in after.version.changes] == ["exclude_found", "exclude_found", "rename_value"]
    assert not {"misspelt_label", "duplicate", "leak"} & set(counts(after))
    assert counts(report)["duplicate"] == 2  # the version itself stays as it was


@pytest.mark.parametrize(
    ("chosen", "words"),
    [({}, "at least one fix"), ({"duplicate": "burn"}, "no fix 'burn'"), ({"nothing": "exclude"}, "for 'nothing'")],
)
def test_what_is_not_offered_is_refused(report, actor, chosen, words):
    with team_scope(report.team_id), pytest.raises(InvalidInput, match=words):
        services.apply_fixes(report=report, actor=actor, chosen=chosen)


def test_the_page_shows_findings_and_applies_fixes(report, client_for, alice, bob):
    address = f"/t/{report.team.slug}/dataset-versions/{report.version_id}/doctor/"
    page = client_for(bob).get(address).content.decode()
    assert "Repeated rows: 2" in page
    assert "Which door is it?" in page
    assert "fix-duplicate" not in page
    browser = client_for(alice)
    assert "fix-duplicate" in browser.get(address).content.decode()
    sent = {"report": str(report.pk), "fix-duplicate": "exclude", "fix-leak": ""}
    answered = browser.post(f"{address}fix/", sent, follow=True)
    assert "Version 2 is being made" in answered.content.decode()
    old = browser.post(f"{address}fix/", sent | {"report": "0"}, follow=True)
    assert "There is a newer report" in old.content.decode()
    nothing = browser.post(f"{address}fix/", {"report": str(report.pk)}, follow=True)
    assert "Choose at least one fix" in nothing.content.decode()


def test_a_newer_report_counts(report, actor):
    with team_scope(report.team_id):
        again = services.start_report(version=report.version, actor=actor, options={"max_length": 16})
    tasks.examine_version(str(again.pk))
    with team_scope(report.team_id):
        assert lifecycle.newest_report(report.version) == again
        found = DoctorReport.unscoped.get(pk=again.pk).report["findings"]
    assert "too_long" in {one["code"] for one in found}
