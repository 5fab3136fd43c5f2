"""Datasets and their versions: a version never changes once it is ready."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Self, TypeVar

from django.db import models
from django.utils.translation import gettext_lazy as _

from portal.models import BaseModel, ServiceAccount, User
from portal.ordered_json import OrderedJSONField
from portal.scoping import TeamOwned


class Split(models.TextChoices):
    """What a row is for; the trainer never reads test rows."""

    TRAIN = "train", _("Training")
    VALIDATION = "validation", _("Validation")
    TEST = "test", _("Test")


Row = TypeVar("Row", bound=models.Model)


class LivingRows(models.Manager[Row]):
    """Rows that nobody deleted: what every page, API and task works with."""

    def get_queryset(self) -> models.QuerySet[Row]:
        """Leave out what waits in the list of deleted things."""
        return super().get_queryset().filter(deleted_at=None)


class Deletable(TeamOwned):
    """A row that is hidden when it is deleted, and kept for a while, so that it can be brought back.

    `team.datasets` and its like show living rows only; `team.datasets(manager="with_deleted")` shows all.
    """

    deleted_at = models.DateTimeField(null=True, editable=False)
    deleted_by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+", null=True, editable=False)

    unscoped: ClassVar[models.Manager[Self]] = LivingRows()
    with_deleted: ClassVar[models.Manager[Self]] = models.Manager()

    class Meta(TeamOwned.Meta):
        abstract = True
        default_manager_name = "unscoped"


class Dataset(Deletable):
    """A named collection of examples; its content lives in versions."""

    name = models.CharField(_("name"), max_length=120)
    description = models.TextField(_("description"), blank=True, max_length=2000)
    created_by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+", null=True)
    created_at = models.DateTimeField(auto_now_add=True)
    last_row_id = models.PositiveBigIntegerField(default=0, help_text="the highest number given to an added row")

    class Meta(Deletable.Meta):
        ordering = ["-created_at"]
        constraints = [
            # A deleted dataset gives its name free.
            models.UniqueConstraint(
                fields=["team", "name"], condition=models.Q(deleted_at=None), name="dataset_name_unique_in_team"
            )
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def latest_ready(self) -> DatasetVersion | None:
        """The newest version that can be trained on, if there is one."""
        return self.versions.filter(status=DatasetVersion.Status.READY).order_by("-number").first()


class DatasetVersion(Deletable):
    """One immutable content of a dataset, from uploaded files or from a parent version, to canonical rows.

    FETCHING (files come from elsewhere, see RemoteFetch) → DRAFT (files are here, columns to be mapped) → IMPORTING
    → READY, or FAILED with a report of the faulty rows.
    A version that is derived from a parent has no files of its own and begins as IMPORTING.
    """

    class Status(models.TextChoices):
        FETCHING = "fetching", _("Fetching")
        DRAFT = "draft", _("Draft")
        IMPORTING = "importing", _("Importing")
        READY = "ready", _("Ready")
        FAILED = "failed", _("Failed")

    dataset = models.ForeignKey(Dataset, on_delete=models.CASCADE, related_name="versions")
    number = models.PositiveIntegerField()
    status = models.CharField(max_length=12, choices=Status.choices, default=Status.DRAFT)
    parent = models.ForeignKey("self", on_delete=models.SET_NULL, related_name="children", null=True)
    changes = models.JSONField(default=list, help_text="operations that make it from the parent, see operations/")
    note = models.CharField(_("note"), max_length=300, blank=True)
    mapping = models.JSONField(default=dict, help_text="datasets_app.mapping.Mapping.to_dict()")
    options = models.JSONField(default=dict, help_text="skip_faulty, split shares and seed")
    report = models.JSONField(default=dict, help_text="faults with line, column, code and message; warnings; fields")
    train_rows = models.PositiveIntegerField(default=0)
    validation_rows = models.PositiveIntegerField(default=0)
    test_rows = models.PositiveIntegerField(default=0)
    size_bytes = models.PositiveBigIntegerField(default=0)
    content_hash = models.CharField(max_length=64, blank=True)
    rows_done = models.PositiveIntegerField(default=0, help_text="progress of the import")
    bytes_done = models.PositiveBigIntegerField(default=0)
    attempts = models.PositiveSmallIntegerField(default=0, help_text="counted before the work, against poison files")
    heartbeat_at = models.DateTimeField(null=True)
    claim = models.UUIDField(null=True, help_text="of the importing worker; one with another claim must stop")
    created_by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+", null=True)
    created_at = models.DateTimeField(auto_now_add=True)
    ready_at = models.DateTimeField(null=True)

    class Meta(Deletable.Meta):
        ordering = ["-number"]
        constraints = [models.UniqueConstraint(fields=["dataset", "number"], name="version_number_unique_in_dataset")]

    def __str__(self) -> str:
        return f"{self.dataset} v{self.number}"

    @property
    def folder(self) -> Path:
        """Where the source files and the canonical rows lie."""
        return self.team.folder / "datasets" / str(self.pk)

    def rows_path(self, split: Split | str) -> Path:
        """Return the file with the canonical rows of a split (see `store`); it exists if the split has rows."""
        return self.folder / f"{Split(split).value}.parquet"

    def export_path(self, split: Split | str) -> Path:
        """Return where the rows of a split lie as JSON lines once a run has needed them (see `exported`)."""
        return self.folder / "exports" / f"{Split(split).value}.jsonl"

    def row_count(self, split: Split | str) -> int:
        """Return the number of rows of a split."""
        return int(getattr(self, f"{Split(split).value}_rows"))

    @property
    def short_name(self) -> str:
        """The version beside the name of its dataset: v3."""
        return f"v{self.number}"

    @property
    def is_derived(self) -> bool:
        """Whether it was made from another version instead of from files."""
        return bool(self.changes)

    @property
    def total_rows(self) -> int:
        """All rows of all splits."""
        return self.train_rows + self.validation_rows + self.test_rows


class SourceFile(TeamOwned):
    """One uploaded file of a version. Its name is only ever shown, never used as a path."""

    version = models.ForeignKey(DatasetVersion, on_delete=models.CASCADE, related_name="sources")
    split = models.CharField(max_length=12, choices=Split.choices, default=Split.TRAIN)
    name = models.CharField(max_length=255)
    kind = models.CharField(max_length=10)
    encoding = models.CharField(max_length=20, blank=True, help_text="empty until a person chooses one of several")
    delimiter = models.CharField(max_length=4, blank=True)
    columns = models.JSONField(default=list)
    encoding_doubts = models.JSONField(
        default=dict, help_text="bad_lines, first_bad_line and candidates with previews; empty if plainly UTF-8"
    )
    size_bytes = models.PositiveBigIntegerField()
    sha256 = models.CharField(max_length=64)
    container = models.CharField(max_length=10, blank=True, help_text="xlsx, parquet, zip, gzip, json; empty for text")
    part = models.CharField(max_length=255, blank=True, help_text="the sheet or member that is read")
    parts = models.JSONField(default=list, help_text="all sheets or members to choose from")
    is_text = models.BooleanField(default=True, help_text="text with an encoding; not a sheet or Parquet")
    unpacked_bytes = models.PositiveBigIntegerField(default=0)
    origin = models.JSONField(default=dict, help_text="kind, address, revision and files of what was fetched")
    counted_as = models.UUIDField(
        null=True, help_text="of the file under /v1 whose bytes these are; while it is there, they are counted there"
    )
    within = models.ForeignKey(
        "self", on_delete=models.CASCADE, null=True, related_name="inner", help_text="the upload this one came in"
    )

    class Meta(TeamOwned.Meta):
        ordering = ["split", "name"]
        constraints = [models.UniqueConstraint(fields=["version", "split"], name="one_source_per_split")]

    def __str__(self) -> str:
        return self.name

    @property
    def upload_path(self) -> Path:
        """Where the bytes lie as they were uploaded, under a name of our own."""
        return self.version.folder / f"source-{self.within_id or self.pk}.bin"

    @property
    def path(self) -> Path:
        """Where the text lies that is read: the upload itself, or what was unpacked from it."""
        return self.path_of(self.part) if self.container else self.upload_path

    def path_of(self, part: str) -> Path:
        """Return where a part of a container lies once it is unpacked."""
        number = self.parts.index(part) if part in self.parts else 0
        return self.version.folder / f"source-{self.pk}.{number}.txt"

    @property
    def text_bytes(self) -> int:
        """The size of the text that is read."""
        return self.unpacked_bytes if self.container else self.size_bytes

    @property
    def counts_rows(self) -> bool:
        """Whether places in it are numbered by rows: sheets, Parquet files and JSON arrays have no lines."""
        return bool(self.container) and not self.is_text


class ResumableUpload(TeamOwned):
    """A file that comes in parts. It belongs to whoever began it, until an import takes it over or its time is up."""

    name = models.CharField(max_length=255)
    size_bytes = models.PositiveBigIntegerField(help_text="as announced; counted against the storage from the start")
    expected_sha256 = models.CharField(max_length=64, blank=True, help_text="as announced by the sender, if at all")
    sha256 = models.CharField(max_length=64, blank=True, help_text="of what came; empty until it is complete")
    created_by = models.ForeignKey(User, on_delete=models.CASCADE, related_name="+", null=True)
    service_account = models.ForeignKey(ServiceAccount, on_delete=models.CASCADE, related_name="+", null=True)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField()

    class Meta(TeamOwned.Meta):
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return self.name

    @property
    def path(self) -> Path:
        """Where the parts are put together, under a name of our own."""
        return self.team.folder / "uploads" / f"{self.pk}.bin"

    @property
    def received_bytes(self) -> int:
        """How much is there: the file on disk is the truth."""
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def is_complete(self) -> bool:
        """Whether all bytes came and were hashed."""
        return bool(self.sha256)

    @property
    def percent(self) -> int:
        """How much of the file is there."""
        return 100 * self.received_bytes // self.size_bytes


class RemoteFetch(TeamOwned):
    """The files of a version on their way from elsewhere: QUEUED → RUNNING → DONE, or FAILED and perhaps tried again.

    What is kept of the source holds no credential but the query of an address, which goes when the files are here.
    """

    class Status(models.TextChoices):
        QUEUED = "queued", _("Queued")
        RUNNING = "running", _("Running")
        DONE = "done", _("Done")
        FAILED = "failed", _("Failed")

    version = models.OneToOneField(DatasetVersion, on_delete=models.CASCADE, related_name="fetch")
    source = models.JSONField(help_text="datasets_app.remote.spec.read_source()")
    begin = models.JSONField(null=True, help_text="mapping, options and reading to import with as soon as it is here")
    status = models.CharField(max_length=12, choices=Status.choices, default=Status.QUEUED)
    error = models.TextField(blank=True, help_text="a sentence for people")
    error_code = models.CharField(max_length=40, blank=True)
    bytes_done = models.PositiveBigIntegerField(default=0)
    bytes_total = models.PositiveBigIntegerField(null=True)
    attempts = models.PositiveSmallIntegerField(default=0, help_text="counted before the work")
    heartbeat_at = models.DateTimeField(null=True)
    claim = models.UUIDField(null=True, help_text="of the fetching worker; one with another claim must stop")
    created_by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+", null=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta(TeamOwned.Meta):
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return f"{self.source.get('kind', '')} → {self.version_id}"


class RowChange(TeamOwned):
    """What is to become of one row of a ready version; waits until somebody saves all changes as a new version."""

    version = models.ForeignKey(DatasetVersion, on_delete=models.CASCADE, related_name="row_changes")
    row_id = models.PositiveBigIntegerField()
    split = models.CharField(max_length=12, choices=Split.choices, help_text="where the row stands in the version")
    is_excluded = models.BooleanField(default=False)
    moved_to = models.CharField(max_length=12, choices=Split.choices, blank=True)
    texts = models.JSONField(default=dict, help_text="those of prompt, answer and system that are written anew")
    changed_by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+", null=True)
    changed_at = models.DateTimeField(auto_now=True)

    class Meta(TeamOwned.Meta):
        ordering = ["row_id"]
        constraints = [models.UniqueConstraint(fields=["version", "row_id"], name="one_change_per_row")]

    def __str__(self) -> str:
        return f"row {self.row_id} of {self.version_id}"


class DoctorReport(TeamOwned):
    """One examination of a version's rows by the dataset doctor: QUEUED → RUNNING → READY, FAILED or CANCELLED.

    The newest READY one of a version counts; a version has at most one that is not over.
    """

    class Status(models.TextChoices):
        QUEUED = "queued", _("Queued")
        RUNNING = "running", _("Running")
        READY = "ready", _("Ready")
        FAILED = "failed", _("Failed")
        CANCELLED = "cancelled", _("Cancelled")

    OPEN = (Status.QUEUED, Status.RUNNING)

    version = models.ForeignKey(DatasetVersion, on_delete=models.CASCADE, related_name="doctor_reports")
    base_model = models.ForeignKey(BaseModel, on_delete=models.SET_NULL, related_name="+", null=True)
    status = models.CharField(max_length=12, choices=Status.choices, default=Status.QUEUED)
    options = OrderedJSONField(default=dict, help_text="datasets_app.doctor.options.Options.to_dict()")
    progress = models.PositiveSmallIntegerField(default=0, help_text="per cent of the work that is done")
    report = OrderedJSONField(default=dict, help_text="datasets_app.doctor.report.Report.to_dict()")
    error = models.JSONField(default=dict, help_text="code and params of why it failed")
    attempts = models.PositiveSmallIntegerField(default=0, help_text="counted before the work, against poison rows")
    heartbeat_at = models.DateTimeField(null=True)
    claim = models.UUIDField(null=True, help_text="of the worker at it; one with another claim must stop")
    created_by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+", null=True)
    created_at = models.DateTimeField(auto_now_add=True)
    ended_at = models.DateTimeField(null=True)

    class Meta(TeamOwned.Meta):
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["version"],
                condition=models.Q(status__in=["queued", "running"]),
                name="one_open_doctor_report_per_version",
            )
        ]

    def __str__(self) -> str:
        return f"{self.version}"

    @property
    def folder(self) -> Path:
        """Where the ids of the rows of each finding lie; it goes with the version's folder."""
        return self.version.folder / "doctor" / str(self.pk)

    @property
    def is_open(self) -> bool:
        """Whether it waits or is worked on."""
        return self.status in self.OPEN


class PersonalDataDecision(TeamOwned):
    """What somebody decided to do about one kind of personal data in a version; the last decision stands."""

    class Choice(models.TextChoices):
        KEEP = "keep", _("Keep")
        MASK = "mask", _("Mask")
        DROP = "drop", _("Leave the rows out")

    version = models.ForeignKey(DatasetVersion, on_delete=models.CASCADE, related_name="personal_data_decisions")
    kind = models.CharField(max_length=20, help_text="one of datasets_app.doctor.pii.KINDS")
    choice = models.CharField(max_length=4, choices=Choice.choices)
    made = models.ForeignKey(DatasetVersion, on_delete=models.SET_NULL, related_name="+", null=True)
    decided_by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+", null=True)
    decided_at = models.DateTimeField(auto_now=True)

    class Meta(TeamOwned.Meta):
        ordering = ["kind"]
        constraints = [models.UniqueConstraint(fields=["version", "kind"], name="one_decision_per_kind")]

    def __str__(self) -> str:
        return f"{self.kind}: {self.get_choice_display()}"


class AnswerSchema(TeamOwned):
    """One revision of the schema that a version's answers follow, as JSON Schema; the highest number counts.

    Revision 1 is what the doctor inferred. An edit adds a revision and changes no row; a version that is made from
    another one begins with the parent's revision that a person edited.
    """

    class Origin(models.TextChoices):
        INFERRED = "inferred", _("Inferred")
        EDITED = "edited", _("Edited")
        INHERITED = "inherited", _("Taken from the parent version")

    version = models.ForeignKey(DatasetVersion, on_delete=models.CASCADE, related_name="schemas")
    number = models.PositiveIntegerField()
    origin = models.CharField(max_length=10, choices=Origin.choices)
    schema = OrderedJSONField(help_text="JSON Schema of the words in datasets_app.doctor.schema")
    created_by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+", null=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta(TeamOwned.Meta):
        ordering = ["-number"]
        constraints = [models.UniqueConstraint(fields=["version", "number"], name="schema_number_unique_in_version")]

    def __str__(self) -> str:
        return f"{self.version}, {self.number}"
