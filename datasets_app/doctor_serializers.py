"""What the API tells about the doctor's reports and the schema of answers."""

from __future__ import annotations

from typing import Any

from django.utils.translation import gettext as _
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from datasets_app.answer_schemas.words import as_document
from datasets_app.doctor import sentences
from datasets_app.doctor.report import Finding
from datasets_app.doctor_reports import display
from datasets_app.doctor_reports.fixes import VERDICTS, Fix, fixes_of
from datasets_app.models import AnswerSchema, DoctorReport


class FixSerializer(serializers.Serializer[Fix]):
    """One way to mend a finding."""

    name = serializers.CharField()
    label = serializers.CharField()  # type: ignore[assignment]


class FindingExampleSerializer(serializers.Serializer[Any]):
    """One row of a finding: its place and what is to be said of it, without its text."""

    id = serializers.IntegerField(help_text="Number of the row within its dataset.")
    split = serializers.CharField()
    row = serializers.IntegerField(help_text="Line of the source.")
    field = serializers.CharField(help_text="Key of the answer, or empty.")
    detail = serializers.CharField()


class FindingSerializer(serializers.Serializer[Finding]):
    """One finding: how many rows have it, what it means, what to do, and the fixes that can be asked for."""

    code = serializers.CharField()
    severity = serializers.ChoiceField(choices=["error", "warning", "info"])
    count = serializers.IntegerField()
    title = serializers.SerializerMethodField()
    meaning = serializers.SerializerMethodField()
    advice = serializers.SerializerMethodField()
    fixes = serializers.SerializerMethodField()
    examples = serializers.SerializerMethodField()

    def get_title(self, finding: Finding) -> str:
        """The heading."""
        return sentences.title(finding, _)

    def get_meaning(self, finding: Finding) -> str:
        """What it means for training."""
        return sentences.meaning(finding, _)

    def get_advice(self, finding: Finding) -> str:
        """What to do about it."""
        return sentences.advice(finding, _)

    @extend_schema_field(FixSerializer(many=True))
    def get_fixes(self, finding: Finding) -> list[dict[str, str]]:
        """What can be sent as a fix."""
        return [{"name": one.name, "label": one.label} for one in fixes_of(finding)]

    @extend_schema_field(FindingExampleSerializer(many=True))
    def get_examples(self, finding: Finding) -> list[dict[str, object]]:
        """The first rows."""
        return [
            {"id": one.id, "split": one.split, "row": one.row, "field": one.field}
            | {"detail": sentences.detail(finding, one, _)}
            for one in finding.examples
        ]


class DoctorReportSerializer(serializers.ModelSerializer[DoctorReport]):
    """An examination of a version: how far it is, and what it found once it is ready."""

    base_model = serializers.SlugRelatedField[Any](slug_field="slug", read_only=True)
    error = serializers.SerializerMethodField()
    verdict = serializers.SerializerMethodField()
    findings = serializers.SerializerMethodField()
    figures = serializers.SerializerMethodField(
        help_text="rows, balance, tokens, languages and timings as they were found"
    )

    class Meta:
        model = DoctorReport
        fields = (
            "id",
            "version",
            "base_model",
            "status",
            "progress",
            "error",
            "verdict",
            "findings",
            "figures",
            "created_at",
            "ended_at",
        )
        read_only_fields = fields

    def get_error(self, report: DoctorReport) -> str:
        """Why it failed, or an empty text."""
        return display.failure_in_words(report) if report.status == DoctorReport.Status.FAILED else ""

    def get_verdict(self, report: DoctorReport) -> str:
        """The report in one sentence, empty until it is ready."""
        found = display.stored_report(report)
        return display.verdict_of(found.findings)[1] if found else ""

    @extend_schema_field(FindingSerializer(many=True))
    def get_findings(self, report: DoctorReport) -> Any:
        """The findings, the grave ones first."""
        found = display.stored_report(report)
        return FindingSerializer(list(found.findings), many=True).data if found else []  # type: ignore[arg-type]

    @extend_schema_field(OpenApiTypes.OBJECT)
    def get_figures(self, report: DoctorReport) -> dict[str, object]:
        """The figures."""
        return {name: report.report.get(name) for name in ("rows", "balance", "tokens", "languages", "timings")}


class DoctorStartSerializer(serializers.Serializer[Any]):
    """What an examination is to look for; everything may be left out."""

    base_model = serializers.CharField(required=False, default="", help_text="Slug of the one whose tokens count.")
    options = serializers.DictField(required=False, default=dict, help_text='{"max_length": 1024, "rare_below": 5}')


class DoctorFixesSerializer(serializers.Serializer[Any]):
    """The fixes to apply, all of them in one new version."""

    report = serializers.UUIDField(help_text="The report that the fixes are of; a newer one refuses them.")
    fixes = serializers.DictField(
        child=serializers.CharField(), required=False, default=dict, help_text='By finding: {"duplicate": "exclude"}.'
    )
    labels = serializers.DictField(
        child=serializers.ChoiceField(choices=VERDICTS),
        required=False,
        default=dict,
        help_text='What becomes of rows of "label_error", by the number of the row: {"17": "accept"}.',
    )
    note = serializers.CharField(required=False, default="", allow_blank=True, max_length=300)

    def validate_labels(self, labels: dict[str, str]) -> dict[int, str]:
        """Return the verdicts by number."""
        if not all(row.isdecimal() and row.isascii() and len(row) < 17 for row in labels):
            raise serializers.ValidationError(_("The keys must be numbers of rows."))
        return {int(row): verdict for row, verdict in labels.items()}


class AnswerSchemaSerializer(serializers.ModelSerializer[AnswerSchema]):
    """The schema of a version's answers, as a JSON Schema document (draft 2020-12)."""

    revision = serializers.IntegerField(source="number", read_only=True)
    schema = serializers.SerializerMethodField()

    class Meta:
        model = AnswerSchema
        fields = ("version", "revision", "origin", "schema", "created_at")
        read_only_fields = fields

    @extend_schema_field(OpenApiTypes.OBJECT)
    def get_schema(self, revision: AnswerSchema) -> dict[str, object]:
        """The document."""
        return as_document(revision.schema, str(revision.version))


class AnswerSchemaEditSerializer(serializers.Serializer[Any]):
    """A new revision of a schema."""

    based_on = serializers.IntegerField(min_value=1, help_text="The revision that was edited; a newer one refuses.")
    schema = serializers.DictField(help_text="JSON Schema of the words that GET shows.")
