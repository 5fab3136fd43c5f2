"""The three steps of an import: choose files, say what the columns mean, watch the rows come in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib import messages
from django.forms import BoundField
from django.http import HttpResponse, QueryDict
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST

from datasets_app import arrivals, services, sources
from datasets_app.forms import (
    COLUMN_FIELDS,
    ENCODING_NAMES,
    SHAPES_OF_FIELD,
    DatasetForm,
    FilesForm,
    MappingForm,
    initial_of,
)
from datasets_app.mapping import Mapping as ColumnMapping
from datasets_app.mapping import MappingError
from datasets_app.models import Dataset, DatasetVersion, SourceFile
from datasets_app.options import ImportOptions
from datasets_app.preview import Preview, preview_source
from datasets_app.readers import DataError
from datasets_app.sources import Reading
from datasets_app.views.remote import tabs
from datasets_app.views.versions import show_version
from portal import audit
from portal.access import TeamRequest, team_view
from portal.actors import Actor
from portal.errors import IllegalTransition, PortalError
from portal.models import Role

Status = DatasetVersion.Status


@team_view(role=Role.EDITOR)
def new_dataset(request: TeamRequest) -> HttpResponse:
    """Upload the files of a new dataset."""
    own = arrivals.own(request.team, Actor.of(request))
    return _upload(request, DatasetForm(request.POST or None, request.FILES or None, own=own), dataset=None)


@team_view(role=Role.EDITOR)
def new_version(request: TeamRequest, pk: UUID) -> HttpResponse:
    """Upload the files of a new version of a dataset."""
    dataset = get_object_or_404(request.team.datasets, pk=pk)
    own = arrivals.own(request.team, Actor.of(request))
    return _upload(request, FilesForm(request.POST or None, request.FILES or None, own=own), dataset=dataset)


def _upload(request: TeamRequest, form: FilesForm, dataset: Dataset | None) -> HttpResponse:
    status = 200
    if request.method == "POST":
        sources.refuse_oversize(request)
        version = _stored(request, form, dataset) if form.is_valid() else None
        if version is not None:
            return redirect("datasets:mapping", request.team.slug, version.pk)
        status = 400
    context = {
        "form": form,
        "dataset": dataset,
        "limit_bytes": settings.MAX_DATASET_BYTES,
        "plain_limit_bytes": settings.MAX_UPLOAD_BYTES,
        "arrived": form.arrived(),
        "unfinished": arrivals.own(request.team, Actor.of(request)).filter(sha256=""),
        "tabs": tabs(request, dataset),
    }
    return render(request, "datasets/upload.html", context, status=status)


def _stored(request: TeamRequest, form: FilesForm, dataset: Dataset | None) -> DatasetVersion | None:
    """Store the uploaded files; put a refusal into the form instead."""
    given = form.cleaned_data
    try:
        return services.start_import(
            team=request.team,
            actor=Actor.of(request),
            name=given.get("name", ""),
            description=given.get("description", ""),
            files=form.files_by_split(),
            dataset=dataset,
        )
    except PortalError as error:
        form.add_error(error.param if error.param in form.fields else None, error.message)
        return None


@team_view(role=Role.EDITOR)
def mapping(request: TeamRequest, pk: UUID) -> HttpResponse:
    """Say what the columns mean, with a preview; a POST without `preview` begins the import."""
    version = get_object_or_404(request.team.datasetversions.select_related("dataset", "team"), pk=pk)
    if version.status not in (Status.DRAFT, Status.FAILED) or version.is_derived:
        return show_version(request, version)  # somebody went back after the import had begun
    stored = sources.in_order(version)
    is_final = request.method == "POST" and not {"preview", "rows_from"} & set(request.POST)
    if request.method == "POST":
        form = _posted_form(request.POST, stored, is_final=is_final)
        if form.is_valid() and is_final and _begun(request, form, version):
            return redirect("datasets:version", request.team.slug, pk)
        preview = _preview(form, form.mapping(), start=_number(request.POST.get("rows_from")))
        if not is_final:
            form.errors.clear()  # nothing was submitted yet; the preview says what is missing
    else:
        guessed = _first_mapping(version, stored[0])
        initial = initial_of(guessed, ImportOptions.from_dict(version.options), stored[0].columns)
        form = MappingForm(sources=stored, columns=stored[0].columns, initial=initial)
        preview = _preview(form, guessed)
    if preview.rows:
        audit.read(request.team, Actor.of(request), "dataset.rows_read", version)
    context = {
        "version": version,
        "form": form,
        "readings": [_reading_fields(form, source) for source in stored],
        "preview": preview,
    }
    return render(request, "datasets/mapping.html", context, status=400 if is_final else 200)


def _preview(form: MappingForm, mapping: ColumnMapping, start: int = 0) -> Preview:
    """Return the rows that a form asks for, or what keeps them from being made."""
    source = form.previewed()
    reading = form.reading(source) if form.is_bound else Reading(sources.likely_encoding(source))
    _field, problem = form.mapping_problem() if form.is_bound else (None, "")
    if problem:
        return Preview(problem=problem)
    return preview_source(source, mapping, reading, start=start, model=form.previewed_model())


def _number(sent: str | None) -> int:
    return int(sent) if sent and sent.isascii() and sent.isdigit() and len(sent) < 9 else 0


def _posted_form(posted: QueryDict, stored: Sequence[SourceFile], *, is_final: bool) -> MappingForm:
    train = stored[0]
    part = posted.get("part_train", "")
    reading = Reading(posted.get("encoding_train", ""), posted.get("delimiter_train", ""), part)
    if part and part not in train.parts:
        reading = replace(reading, part="")
    columns = _columns(train, reading)
    # Only a preview may guess anew: an import takes what the person saw, or says that it does not fit.
    answers = posted if is_final else _fitting(posted, train, columns, reading)
    return MappingForm(answers, sources=stored, columns=columns)


def _first_mapping(version: DatasetVersion, train: SourceFile) -> ColumnMapping:
    """Return the mapping that was used last for this dataset if it fits the columns, else a guess."""
    earlier = version.dataset.versions.exclude(mapping={}).order_by("-number").first()
    for candidate in (version, earlier):
        if candidate is not None and candidate.mapping:
            used = ColumnMapping.from_dict(candidate.mapping)
            try:
                used.validate(train.columns)
            except MappingError:
                continue
            return used
    return sources.guess(train)


def _columns(train: SourceFile, reading: Reading) -> Sequence[str]:
    """Return the columns of the training file in another encoding or with another delimiter."""
    try:
        return sources.open_source(train, reading).columns
    except DataError:
        return list(train.columns)


def _fitting(posted: QueryDict, train: SourceFile, columns: Sequence[str], reading: Reading) -> QueryDict:
    """Return what was posted, with a new guess if a chosen column is gone because the file is read differently."""
    shape = posted.get("shape", "")
    chosen = [posted.get(name) for name in COLUMN_FIELDS if shape in SHAPES_OF_FIELD.get(name, (shape,))]
    if all(column in columns for column in chosen if column):
        return posted
    guessed = initial_of(sources.guess(train, reading), ImportOptions(), columns)
    fitting = posted.copy()
    for name in (*COLUMN_FIELDS, "shape", "template"):
        fitting[name] = str(guessed[name] or "")
    return fitting


def _begun(request: TeamRequest, form: MappingForm, version: DatasetVersion) -> bool:
    """Begin the import; put a refusal into the form instead."""
    try:
        services.begin_import(
            version=version,
            actor=Actor.of(request),
            mapping=form.mapping(),
            options=form.options(),
            readings=form.readings(),
        )
    except IllegalTransition:
        return True  # the button was pressed twice
    except PortalError as error:
        form.add_error(None, error.message)
        return False
    return True


def _reading_fields(form: MappingForm, source: SourceFile) -> dict[str, Any]:
    """Return a source with its two fields of the form, and what it would read like in each likely encoding."""
    names = (f"part_{source.split}", f"encoding_{source.split}", f"delimiter_{source.split}")
    candidates = source.encoding_doubts.get("candidates", [])
    bound = [form[name] for name in names if name in form.fields]
    return {
        "source": source,
        "fields": bound,
        "read_as": [_chosen(one) for one in bound],
        "is_open": bool(candidates) or len(source.parts) > 1 or any(one.value() != one.initial for one in bound),
        "candidates": [(ENCODING_NAMES[one["encoding"]], one["preview"]) for one in candidates],
    }


def _chosen(bound: BoundField) -> str:
    """Return the words of what a choice is set to."""
    choices = dict(bound.field.choices)  # type: ignore[attr-defined]
    return str(choices.get(bound.value(), bound.value()))


@team_view(role=Role.EDITOR)
@require_POST
def without_faulty(request: TeamRequest, pk: UUID) -> HttpResponse:
    """Import a failed version once more, leaving out its faulty rows."""
    version = get_object_or_404(request.team.datasetversions, pk=pk)
    try:
        services.begin_import(
            version=version,
            actor=Actor.of(request),
            mapping=ColumnMapping.from_dict(version.mapping),
            options={**version.options, "skip_faulty": True},
        )
    except PortalError as error:
        messages.error(request, error.message)
    return redirect("datasets:version", request.team.slug, pk)
