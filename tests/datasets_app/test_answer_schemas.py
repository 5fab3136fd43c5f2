"""The schema of answers: inferred, edited in revisions, inherited, renamed with its labels, written as JSON Schema."""

from __future__ import annotations

import json

import pytest

from datasets_app import store
from datasets_app.answer_schemas import revisions
from datasets_app.answer_schemas.origins import current_schema
from datasets_app.answer_schemas.words import DIALECT, checked_schema
from datasets_app.models import AnswerSchema, DatasetVersion, DoctorReport
from datasets_app.views import schemas as pages
from portal.errors import IllegalTransition, InvalidInput
from portal.rls import team_scope
from tests.datasets_app.doctor_versions import examined

pytestmark = pytest.mark.django_db
Origin = AnswerSchema.Origin
INFERRED = {
    "type": "object",
    "properties": {
        "service": {"type": "string", "enum": ["Mail", "Printer", "VPN", "Wiki"]},
        "urgency": {"type": "string", "enum": ["Low", "High"]},
    },
    "required": ["service", "urgency"],
    "additionalProperties": False,
}


@pytest.fixture
def version(team, actor, base_model, ready_version) -> DatasetVersion:
    """A version with an inferred schema and a ready report."""
    with team_scope(team.pk):
        balance = {"service": {"labels": ["Mail", "Printer", "VPN", "Wiki"], "train": [5, 5, 5, 5]}}
        ready_version.doctor_reports.all().delete()
        report = {"rows": {}, "findings": [], "schema": INFERRED, "balance": balance, "tokens": None}
        report |= {"languages": {}, "timings": {}}
        team.doctorreports.create(version=ready_version, status=DoctorReport.Status.READY, report=report)
        ready_version.schemas.all().delete()
        team.answerschemas.create(version=ready_version, number=1, origin=Origin.INFERRED, schema=INFERRED)
    return ready_version


def edited(**service: object) -> dict[str, object]:
    """The inferred schema with other words about the field `service`."""
    properties = {**INFERRED["properties"], "service": {**INFERRED["properties"]["service"], **service}}
    return {**INFERRED, "properties": properties}


def test_an_edit_is_a_new_revision_and_the_doctor_checks_against_it(version, actor, team):
    with team_scope(team.pk):
        made = revisions.edit_schema(version=version, actor=actor, schema=edited(description="Who helps"), based_on=1)
        assert (made.number, made.origin) == (2, Origin.EDITED)
        assert version.schemas.get(number=1).schema == INFERRED
        queued = version.doctor_reports.get(status=DoctorReport.Status.QUEUED)
        assert queued.options["schema"] == made.schema
        with pytest.raises(IllegalTransition, match="revision 2"):
            revisions.edit_schema(version=version, actor=actor, schema=INFERRED, based_on=1)


def test_an_edit_replaces_the_examination_that_is_open(version, actor, team):
    with team_scope(team.pk):
        revisions.edit_schema(version=version, actor=actor, schema=edited(description="One"), based_on=1)
        before = version.doctor_reports.get(status=DoctorReport.Status.QUEUED)
        made = revisions.edit_schema(version=version, actor=actor, schema=edited(description="Two"), based_on=2)
        after = version.doctor_reports.get(status=DoctorReport.Status.QUEUED)
        before.refresh_from_db()
    assert before.status == DoctorReport.Status.CANCELLED
    assert after.options["schema"] == made.schema


def test_renamed_labels_are_merged_in_rows_and_in_the_inherited_schema(version, actor, team):
    with team_scope(team.pk):
        revisions.edit_schema(version=version, actor=actor, schema=INFERRED, based_on=1)
        renames = [
            {"field": "service", "from": "VPN", "to": "Network"},
            {"field": "service", "from": "Wiki", "to": "Mail"},
        ]
        made = revisions.rename_labels(version=version, actor=actor, renames=renames)
    report = examined(made)
    services = {json.loads(row.answer)["service"] for row in store.read_rows(report.version.rows_path("train"))}
    assert services == {"Network", "Mail", "Printer"}
    with team_scope(team.pk):
        inherited = current_schema(report.version)
        assert inherited is not None
        assert inherited.origin == Origin.INHERITED
        assert inherited.schema["properties"]["service"]["enum"] == ["Mail", "Printer", "Network"]
        assert report.options["schema"] == inherited.schema


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ([], "schema"),
        ({"type": "string"}, "schema.type"),
        ({"type": "object", "properties": {"a": {"type": "text"}}}, "schema.properties.a.type"),
        ({"type": "object", "properties": {"a": {"enum": []}}}, "schema.properties.a.enum"),
        ({"type": "object", "properties": {"a": {"type": "integer", "enum": ["x"]}}}, "schema.properties.a.enum"),
        ({"type": "object", "properties": {"a": {"pattern": "(a+)+"}}}, "schema.properties.a.pattern"),
        ({"type": "object", "properties": {"a": {"format": "ip"}}}, "schema.properties.a.format"),
        ({"type": "object", "properties": {}, "required": ["a"]}, "schema.required"),
        ({"type": "object", "properties": {"a\0": {}}}, "schema.properties"),
        ({"type": "object", "properties": {"a": {"description": "\ud800"}}}, "schema.properties.a.description"),
    ],
)
def test_what_is_no_schema_is_refused_with_its_place(schema, place):
    with pytest.raises(InvalidInput) as refused:
        checked_schema(schema)
    assert refused.value.param == place


def test_deep_nesting_is_refused_and_heads_of_documents_are_no_matter():
    deep: dict[str, object] = {}
    for _level in range(20):
        deep = {"type": "object", "properties": {"a": deep}}
    with pytest.raises(InvalidInput, match="too deeply"):
        checked_schema(deep)
    assert checked_schema({"$schema": DIALECT, "title": "x", **INFERRED}) == INFERRED


def test_pages(version, team, client_for, alice, bob):
    address = f"/t/{team.slug}/dataset-versions/{version.pk}/schema"
    viewer, editor = client_for(bob), client_for(alice)
    page = viewer.get(f"{address}/").content.decode()
    assert "Printer" in page
    assert "to-0-0" not in page
    document = viewer.get(f"{address}.json")
    assert document.json() == {"$schema": DIALECT, "title": "Tickets v1", **INFERRED}
    assert document.headers["Content-Disposition"].startswith("attachment")
    form = editor.get(f"{address}/edit/").context
    sent = {"based_on": form["based_on"]}
    for one in form["forms"]:
        sent |= {one.add_prefix(name): value for name, value in one.initial.items() if value not in (False, None)}
    sent |= {"f1-description": "Who helps", "f1-nullable": "on", "f2-order": "1", "f1-order": "2"}
    assert editor.post(f"{address}/edit/", sent | {"f1-order": "x"}).status_code == 400
    assert editor.post(f"{address}/edit/", sent).status_code == 302
    with team_scope(team.pk):
        saved = current_schema(version)
    assert saved is not None
    assert list(saved.schema["properties"]) == ["urgency", "service"]
    assert saved.schema["properties"]["service"] == {
        "type": ["string", "null"],
        "enum": ["Mail", "Printer", "VPN", "Wiki", None],
        "description": "Who helps",
    }
    renamed = editor.post(f"{address}/rename/", {"to-0-2": "Network"}, follow=True)
    assert "is being made" in renamed.content.decode()
    with team_scope(team.pk):
        made = DatasetVersion.unscoped.get(parent=version)
    assert made.changes == [{"op": "rename_value", "field": "service", "from": "VPN", "to": "Network"}]
    assert "at least one label" in editor.post(f"{address}/rename/", follow=True).content.decode()


def test_labels_are_named_as_the_report_counts_them(version, team):
    with team_scope(team.pk):
        group = pages._labels(version)[0]
    assert group["labels"][0] == (("to-0-0", "Mail"), 5)
