"""What the API tells about datasets, and what it takes to import one."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from django.utils.translation import gettext_lazy as _
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from datasets_app import arrivals, reports
from datasets_app.models import Dataset, DatasetVersion, RemoteFetch, ResumableUpload, SourceFile, Split
from datasets_app.readers import ENCODINGS
from datasets_app.rows import CanonicalRow
from datasets_app.sources import Upload
from portal.errors import InvalidInput


class SourceFileSerializer(serializers.ModelSerializer[SourceFile]):
    """An uploaded file of a version."""

    origin = serializers.DictField(read_only=True, help_text="Of what was fetched: kind, address, revision, files.")

    class Meta:
        model = SourceFile
        fields = (
            "id",
            "split",
            "name",
            "kind",
            "encoding",
            "delimiter",
            "columns",
            "size_bytes",
            "sha256",
            "origin",
            "container",
            "part",
            "parts",
        )
        read_only_fields = fields


class FaultSerializer(serializers.Serializer[dict[str, object]]):
    """A faulty row: where it is and what is wrong."""

    file = serializers.CharField()
    split = serializers.ChoiceField(choices=Split.choices)
    line = serializers.IntegerField(help_text="Line of the file on which the row begins; the header is line 1.")
    column = serializers.CharField(allow_null=True)
    code = serializers.CharField()
    message = serializers.CharField()


class AnswerFieldSerializer(serializers.Serializer[dict[str, object]]):
    """One key of the JSON answers; a closed one is chosen from few values."""

    name = serializers.CharField()
    closed = serializers.BooleanField()
    values = serializers.ListField(child=serializers.CharField())
    counts = serializers.ListField(child=serializers.IntegerField())
    share = serializers.FloatField(help_text="Share of the JSON answers that have the key.")


class ReportSerializer(serializers.Serializer[dict[str, Any]]):
    """What an import found."""

    error = serializers.SerializerMethodField()
    fault_count = serializers.IntegerField(default=0)
    faults = serializers.SerializerMethodField()
    warnings = serializers.SerializerMethodField()
    answer_fields = AnswerFieldSerializer(many=True, default=list, source="fields")

    def get_error(self, report: dict[str, Any]) -> str:
        """Why the import failed, or an empty text."""
        return reports.error_in_words(report)

    @extend_schema_field(FaultSerializer(many=True))
    def get_faults(self, report: dict[str, Any]) -> list[dict[str, object]]:
        """The first faulty rows."""
        return [reports.fault_in_words(fault) for fault in report.get("faults", [])[:100]]

    def get_warnings(self, report: dict[str, Any]) -> list[str]:
        """Repetitions, contradictions and rows shared between splits."""
        return reports.warnings_in_words(report)


class VersionSerializer(serializers.ModelSerializer[DatasetVersion]):
    """One version of a dataset: immutable once it is ready."""

    dataset_name = serializers.CharField(source="dataset.name", read_only=True)

    class Meta:
        model = DatasetVersion
        fields: tuple[str, ...] = (
            "id",
            "dataset",
            "dataset_name",
            "number",
            "parent",
            "note",
            "status",
            "train_rows",
            "validation_rows",
            "test_rows",
            "size_bytes",
            "content_hash",
            "rows_done",
            "created_at",
            "ready_at",
        )
        read_only_fields: tuple[str, ...] = fields


class FetchSerializer(serializers.Serializer[RemoteFetch]):
    """The files of a version on their way from elsewhere."""

    kind = serializers.CharField(source="source.kind")
    status = serializers.ChoiceField(choices=RemoteFetch.Status.choices)
    bytes_done = serializers.IntegerField()
    bytes_total = serializers.IntegerField(allow_null=True)
    error = serializers.CharField(help_text="Why the files did not come, or an empty text.")
    error_code = serializers.CharField()


class VersionDetailSerializer(VersionSerializer):
    """A version with its files, its mapping and what the import found."""

    report = ReportSerializer(read_only=True)
    sources = SourceFileSerializer(many=True, read_only=True)
    mapping = serializers.DictField(read_only=True)
    options = serializers.DictField(read_only=True)
    fetch = FetchSerializer(read_only=True, allow_null=True)
    changes = serializers.ListField(child=serializers.DictField(), read_only=True)

    class Meta(VersionSerializer.Meta):
        fields = (*VersionSerializer.Meta.fields, "mapping", "options", "fetch", "changes", "sources", "report")
        read_only_fields = fields


class DatasetSerializer(serializers.ModelSerializer[Dataset]):
    """A named collection of examples with its versions, the newest first."""

    versions = VersionSerializer(many=True, read_only=True)

    class Meta:
        model = Dataset
        fields = ("id", "name", "description", "created_at", "versions")
        read_only_fields = fields


class RowSerializer(serializers.Serializer[CanonicalRow]):
    """One conversation; its last message is the answer to learn."""

    id = serializers.IntegerField(help_text="Names the row in all versions of the dataset.")
    row = serializers.IntegerField(help_text="Line of the source file on which the row begins; 0 if it was added here.")
    messages = serializers.ListField(child=serializers.DictField(child=serializers.CharField()))


class VersionImportSerializer(serializers.Serializer[Any]):
    """The files of a new version (multipart/form-data), or a source elsewhere that they are fetched from."""

    file = serializers.FileField(required=False, allow_empty_file=True, help_text="The same as train_file.")
    train_file = serializers.FileField(
        required=False,
        allow_empty_file=True,
        help_text="CSV, TSV, JSON Lines, a JSON array, XLSX, Parquet, or a ZIP or gzip of these.",
    )
    validation_file = serializers.FileField(required=False, allow_empty_file=True)
    test_file = serializers.FileField(required=False, allow_empty_file=True)
    train_upload = serializers.UUIDField(
        required=False, help_text="Instead of the file: the id of an upload in parts (tus, /api/uploads/)."
    )
    validation_upload = serializers.UUIDField(required=False)
    test_upload = serializers.UUIDField(required=False)
    source = serializers.JSONField(  # type: ignore[assignment]
        required=False,
        help_text='Instead of files: {"kind": "url", "url": …}; {"kind": "s3", "bucket", "key", "region", "endpoint", '
        '"secret"}; {"kind": "azure", "account", "container", "blob", "endpoint", "secret"}; {"kind": "huggingface", '
        '"dataset", "config", "split", "revision", "secret"}; {"kind": "kaggle", "dataset", "file", "version", '
        '"secret"}. `secret` names a secret of the team.',
    )
    mapping = serializers.JSONField(
        required=False,
        help_text='Which columns become prompt and answer, e.g. {"prompt": "text", "response": "label"} or '
        '{"messages": "messages"}; further: system, system_prompt, template, json_answers, rejected '
        "(a worse answer, for preferences); "
        '{"text": "body"} for texts without answers. Guessed if left out.',
    )
    options = serializers.JSONField(
        required=False,
        help_text='{"skip_faulty": false, "validation_share": 0.1, "test_share": 0.1, "seed": 1, '
        '"split_by": "random" or "time", "stratify": "auto", "none" or a field of the answers, '
        '"keep_together": "near", "exact" or "none"}; '
        "all but skip_faulty matter only if nothing but a training file is sent.",
    )
    encoding = serializers.ChoiceField(
        choices=ENCODINGS, required=False, help_text="Of all files; found out if left out, never guessed."
    )
    delimiter = serializers.ChoiceField(
        choices=[",", ";", "\t", "|"], required=False, help_text="Of all files; found out if left out."
    )
    part = serializers.CharField(
        max_length=255, required=False, help_text="The sheet or the file inside the training file; see `parts`."
    )

    def validate_mapping(self, mapping: object) -> object:
        return _object(mapping)

    def validate_source(self, source: object) -> object:
        return _object(source)

    def validate_options(self, options: object) -> object:
        return _object(options)

    def refuse_files(self) -> None:
        """Raise InvalidInput if files are sent beside a source."""
        kinds = ("file", "upload")
        names = {"file", *(f"{split.value}_{kind}" for split in Split for kind in kinds)}
        if names & set(self.validated_data):
            raise InvalidInput(str(_("Send either files or a source, not both.")), param="source")

    def files(self, own: QuerySet[ResumableUpload]) -> dict[Split, Upload]:
        """Return the files by split, those in parts out of the caller's `own` ones.

        Raises: InvalidInput if a file is sent twice, or an upload is not complete or not the caller's.
        """
        sent = self.validated_data
        if "file" in sent and "train_file" in sent:
            raise InvalidInput(str(_("Send the training file once: as 'file' or as 'train_file'.")), param="file")
        found: dict[Split, Upload | None] = {split: sent.get(f"{split.value}_file") for split in Split}
        found[Split.TRAIN] = found[Split.TRAIN] or sent.get("file")
        for split in Split:
            name = f"{split.value}_upload"
            if name in sent:
                if found[split] is not None:
                    raise InvalidInput(str(_("Send each file once: as a file or as an upload.")), param=name)
                found[split] = arrivals.complete(own, sent[name], param=name)
        return {split: content for split, content in found.items() if content is not None}


class DatasetImportSerializer(VersionImportSerializer):
    """A new dataset and the files of its first version (multipart/form-data)."""

    name = serializers.CharField(max_length=120)
    description = serializers.CharField(max_length=2000, required=False, default="", allow_blank=True)


@extend_schema_field(OpenApiTypes.OBJECT)
def _object(value: object) -> object:
    if not isinstance(value, dict):
        raise serializers.ValidationError(_("Send a JSON object."))
    return value
