"""What people and programs may do with datasets. Refused means that nothing is left: no row and no file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Final, cast

from django.db import IntegrityError, transaction
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from datasets_app import conversion, sources
from datasets_app.conversion import FaultyRows, Source, SourceRefused
from datasets_app.derive import next_number
from datasets_app.lifecycle import IMPORTS
from datasets_app.mapping import Mapping as ColumnMapping
from datasets_app.mapping import MappingError
from datasets_app.models import Dataset, DatasetVersion, ResumableUpload, SourceFile, Split
from datasets_app.names import clean_name
from datasets_app.options import ImportOptions
from datasets_app.readers import FileRefused
from datasets_app.reports import fault_in_words
from datasets_app.sources import FetchedFile, Reading, Upload
from datasets_app.unpacking import limits
from portal import audit, quotas, usage
from portal.actors import Actor
from portal.errors import IllegalTransition, InvalidInput, InvalidSource
from portal.models import Quota, Team

# As many faulty rows as an answer names; the count of all of them is in its first sentence.
MAX_DETAILS: Final = 100
Status = DatasetVersion.Status


@transaction.atomic
def start_import(
    *,
    team: Team,
    actor: Actor,
    name: str,
    files: Mapping[Split, Upload],
    description: str = "",
    dataset: Dataset | None = None,
) -> DatasetVersion:
    """Store the uploaded files of a new dataset, or of a new version of `dataset`, and look at them: a DRAFT.

    Raises: InvalidInput for a bad or taken name or a missing training file; TooLarge; InvalidSource; QuotaExceeded.
    """
    with _stored(team, actor, name, files, description, dataset) as version:
        _require_storage(team, files, stored=True)
    return version


@contextmanager
def _stored(
    team: Team,
    actor: Actor,
    name: str,
    files: Mapping[Split, Upload],
    description: str,
    dataset: Dataset | None,
) -> Iterator[DatasetVersion]:
    """Store the files for the block; if it fails, no file is left."""
    if files.get(Split.TRAIN) is None:
        raise InvalidInput(_("Choose a training file."), param=sources.param_of(Split.TRAIN), code="file_missing")
    _require_storage(team, files, stored=False)
    if dataset is None:
        dataset = _new_dataset(team, actor, name, description)
    version = team.datasetversions.create(
        dataset=dataset, number=_next_number(dataset), created_by=actor.user, status=Status.DRAFT
    )
    with sources.folder_or_nothing(version.folder):
        sources.store_all(version, files)
        audit.record(team, actor, "dataset.uploaded", version, files=len(files))
        yield version


@transaction.atomic
def new_version(
    *, team: Team, actor: Actor, name: str, description: str, dataset: Dataset | None, status: str
) -> DatasetVersion:
    """Make a version without files yet, of a new dataset or of `dataset`. Raises: InvalidInput for the name."""
    dataset = dataset or _new_dataset(team, actor, name, description)
    version: DatasetVersion = team.datasetversions.create(
        dataset=dataset, number=_next_number(dataset), created_by=actor.user, status=status
    )
    return version


def begin_fetched(*, version: DatasetVersion, actor: Actor, begin: Mapping[str, object]) -> None:
    """Begin the import of a version whose files have just come, as was ordered with them.

    Raises: InvalidInput, InvalidSource.
    """
    reading = Reading(**cast("dict[str, str]", begin.get("reading") or {}))
    stored = {Split(source.split): source for source in sources.in_order(version)}
    for source in stored.values():
        sources.read_as(source, _for_split(reading, source))
    ordered = begin.get("mapping")
    mapping = ColumnMapping.from_dict(ordered) if ordered else sources.guess(stored[Split.TRAIN])
    begin_import(
        version=version, actor=actor, mapping=mapping, options=cast("Mapping[str, object]", begin.get("options") or {})
    )


def _require_storage(team: Team, files: Mapping[Split, Upload], *, stored: bool) -> None:
    """Make sure that the files fit into the team's storage. Raises: QuotaExceeded.

    Before they are stored this is a first look, so that nothing is read in vain and nobody waits; the last word is
    spoken with the team locked, just before the transaction ends.
    """
    # What came in parts is counted since its first part; it is handed over before the last word is spoken.
    counted = [content for content in files.values() if stored or not isinstance(content, ResumableUpload)]
    own = [content for content in counted if not (isinstance(content, FetchedFile) and content.counted_as)]
    adding = sum(map(sources.size_bytes, own))

    def others() -> int:
        return usage.storage_bytes(team) - (adding if stored else 0)

    quotas.require_room(team, Quota.STORAGE_BYTES, others, adding=adding, lock=stored)


def _new_dataset(team: Team, actor: Actor, name: str, description: str) -> Dataset:
    try:
        with transaction.atomic():
            return team.datasets.create(
                name=clean_name(name), description=description.replace("\0", "").strip()[:2000], created_by=actor.user
            )
    except IntegrityError:
        raise InvalidInput(
            _("There is already a dataset named “%(name)s”. Choose another name, or add a version to that dataset.")
            % {"name": name.strip()},
            param="name",
            code="name_taken",
        ) from None


def _next_number(dataset: Dataset) -> int:
    # The lock makes two uploads of the same dataset take turns, so that each gets a number of its own.
    dataset.team.datasets.select_for_update().get(pk=dataset.pk)
    return next_number(dataset)


@transaction.atomic
def begin_import(
    *,
    version: DatasetVersion,
    actor: Actor,
    mapping: ColumnMapping,
    options: Mapping[str, object] | ImportOptions | None = None,
    readings: Mapping[Split, Reading] | None = None,
) -> DatasetVersion:
    """Freeze how a DRAFT (or FAILED) version is to be read and mapped, and queue its import: IMPORTING.

    Raises: IllegalTransition in another state; InvalidInput for mapping, encoding and options; InvalidSource.
    """
    versions = version.team.datasetversions.select_related("team", "dataset")
    version = versions.select_for_update(of=("self",)).get(pk=version.pk)
    if version.status not in (Status.DRAFT, Status.FAILED) or version.is_derived:
        raise IllegalTransition(_("This version is being imported or is ready already."), code="already_imported")
    chosen = options if isinstance(options, ImportOptions) else ImportOptions.from_dict(options or {})
    stored = sources.in_order(version)
    before = sum(source.unpacked_bytes for source in stored)
    for source in stored:
        _prepare(source, mapping, (readings or {}).get(Split(source.split)))
    _require_more(version.team, sum(source.unpacked_bytes for source in stored) - before)
    version.mapping, version.options = mapping.to_dict(), chosen.to_dict()
    version.status, version.report, version.claim, version.attempts = Status.IMPORTING, {}, None, 0
    version.rows_done = version.bytes_done = 0
    version.heartbeat_at = timezone.now()
    version.save()
    audit.record(version.team, actor, "dataset.import_started", version, skip_faulty=chosen.skip_faulty)
    IMPORTS.enqueue(version.pk)
    return version


def _require_more(team: Team, more: int) -> None:
    """Make sure that the storage has room for what other parts take more than those before. Raises: QuotaExceeded."""
    if more > 0:
        quotas.require_room(team, Quota.STORAGE_BYTES, lambda: usage.storage_bytes(team) - more, adding=more)


def _prepare(source: SourceFile, mapping: ColumnMapping, reading: Reading | None) -> None:
    """Fix how a source is read, and make sure that it has the columns that the mapping names."""
    if reading is not None:
        sources.read_as(source, reading)
    if not source.encoding:
        raise _undecided(source)
    try:
        mapping.validate(source.columns)
    except MappingError as error:
        message = error.sentence(_)
        if source.split != Split.TRAIN:
            message = _("“%(file)s”: %(sentence)s") % {"file": source.name, "sentence": message}
        raise InvalidInput(message, param="mapping", code=error.code) from None


def _undecided(source: SourceFile) -> Exception:
    try:
        sources.open_source(source)
    except FileRefused as error:
        return sources.refusal(error, source)
    return IllegalTransition(_("Choose the encoding of “%(file)s”.") % {"file": source.name})


@transaction.atomic
def import_files(
    *,
    team: Team,
    actor: Actor,
    name: str,
    files: Mapping[Split, Upload],
    mapping: ColumnMapping | None = None,
    options: Mapping[str, object] | ImportOptions | None = None,
    reading: Reading | None = None,
    description: str = "",
    dataset: Dataset | None = None,
) -> DatasetVersion:
    """Upload, check every row and begin the import, all in one; an unset mapping is guessed from the training file.

    Raises: as start_import and begin_import; InvalidSource with the faulty rows in `details`.
    """
    chosen = options if isinstance(options, ImportOptions) else ImportOptions.from_dict(options or {})
    with _stored(team, actor, name, files, description, dataset) as version:
        stored = {Split(source.split): source for source in sources.in_order(version)}
        if reading:
            for source in stored.values():
                sources.read_as(source, _for_split(reading, source))
        mapping = mapping or sources.guess(stored[Split.TRAIN])
        version = begin_import(version=version, actor=actor, mapping=mapping, options=chosen)
        _refuse_faulty(stored, mapping, chosen)
        _require_storage(team, files, stored=True)
    return version


def _for_split(reading: Reading, source: SourceFile) -> Reading:
    """Return how one of several files is to be read where one reading was given for all: a part is of the first."""
    return reading if source.split == Split.TRAIN else replace(reading, part="")


def _refuse_faulty(stored: Mapping[Split, SourceFile], mapping: ColumnMapping, options: ImportOptions) -> None:
    """Read all sources once. Raises: InvalidSource if the worker would only fail."""
    jobs = [
        Source(split, one.name, one.path, one.encoding, one.delimiter, one.text_bytes, one.counts_rows)
        for split, one in stored.items()
    ]
    try:
        rows, _faults = conversion.check(
            jobs, mapping, skip_faulty=options.skip_faulty, limits=limits(), beat=lambda rows, size: None
        )
    except SourceRefused as refused:
        raise sources.refusal(refused.error, stored[Split(refused.source.split)]) from None
    except FaultyRows as found:
        raise _faulty(found.faults) from None
    if not rows[Split.TRAIN.value]:
        raise InvalidSource(
            _("No row of “%(file)s” can be used. Look at the faults, repair the file and try again.")
            % {"file": stored[Split.TRAIN].name},
            param=sources.param_of(Split.TRAIN),
            code="no_good_rows",
        )


def _faulty(faults: conversion.Faults) -> InvalidSource:
    details = [fault_in_words(fault) for fault in faults.shown[:MAX_DETAILS]]
    first = details[0]
    message = _("“%(file)s”: %(sentence)s") % {"file": first["file"], "sentence": first["message"]}
    if others := faults.count - 1:
        message += " " + ngettext("%(count)d more row is faulty.", "%(count)d more rows are faulty.", others) % {
            "count": others
        }
    param = sources.param_of(str(first["split"]))
    return InvalidSource(message, param=param, code="faulty_rows", details=details)
