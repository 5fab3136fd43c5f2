"""Pages of the schema of a version's answers: look at it, edit it, rename labels, take it away as a file."""

from __future__ import annotations

from uuid import UUID

from django.contrib import messages
from django.http import Http404, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.text import slugify
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST, require_safe

from datasets_app.answer_schemas import revisions
from datasets_app.answer_schemas.forms import field_forms, schema_of
from datasets_app.answer_schemas.origins import current_schema
from datasets_app.answer_schemas.words import as_document
from datasets_app.doctor_reports import figures, lifecycle
from datasets_app.models import AnswerSchema, DatasetVersion
from portal.access import TeamRequest, team_view
from portal.actors import Actor
from portal.errors import PortalError
from portal.models import Role

REVISIONS_SHOWN = 20


@team_view()
@require_safe
def schema(request: TeamRequest, pk: UUID) -> HttpResponse:
    """Show the schema that counts, its revisions, and the labels with their counts."""
    version = _version(request, pk)
    current = current_schema(version)
    context = {
        "version": version,
        "current": current,
        "lines": figures.schema_lines(current.schema) if current else (),
        "revisions": version.schemas.select_related("created_by").defer("schema")[:REVISIONS_SHOWN],
        "labels": _labels(version) if current else [],
    }
    return render(request, "datasets/schema/schema.html", context)


def _version(request: TeamRequest, pk: UUID) -> DatasetVersion:
    return get_object_or_404(request.team.datasetversions.select_related("dataset", "team"), pk=pk)


def _labels(version: DatasetVersion) -> list[dict[str, object]]:
    """Return the labels of each closed field with how many rows have them."""
    found = lifecycle.newest_report(version)
    balance = found.report.get("balance", {}) if found else {}
    labels = []
    for place, (field, counted) in enumerate(balance.items()):
        counts = [counts for name, counts in counted.items() if name != "labels"]
        rows = [sum(split[index] for split in counts) for index in range(len(counted["labels"]))]
        named = [(f"to-{place}-{index}", label) for index, label in enumerate(counted["labels"])]
        labels.append({"field": field, "place": place, "labels": list(zip(named, rows, strict=True))})
    return labels


@team_view(role=Role.EDITOR)
def edit(request: TeamRequest, pk: UUID) -> HttpResponse:
    """Edit the schema: a new revision, against which the doctor checks the rows."""
    version = _version(request, pk)
    current = current_schema(version)
    if current is None:
        raise Http404
    forms = field_forms(current.schema, request.POST or None)
    problem, based_on = "", current.number
    if request.method == "POST":
        based_on = _number(request.POST.get("based_on", ""))
        faulty = [form for form in forms if not form.is_valid()]  # every form shows its own errors
        if not faulty:
            try:
                revisions.edit_schema(
                    version=version,
                    actor=Actor.of(request),
                    schema=schema_of(current.schema, forms),
                    based_on=based_on,
                )
            except PortalError as error:
                problem = error.message
            else:
                messages.success(request, _("The schema is saved. The doctor checks the rows against it."))
                return redirect("datasets:schema", request.team.slug, pk)
        else:
            problem = _("Some fields need your attention.")
    context = {"version": version, "current": current, "based_on": based_on, "forms": forms, "problem": problem}
    return render(request, "datasets/schema/edit.html", context, status=400 if problem else 200)


def _number(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 9 else 0


@team_view(role=Role.EDITOR)
@require_POST
def rename(request: TeamRequest, pk: UUID) -> HttpResponse:
    """Make a new version in which labels are called otherwise."""
    version = _version(request, pk)
    renames = [
        {"field": str(group["field"]), "from": label, "to": request.POST.get(name, "").strip()}
        for group in _labels(version)
        for (name, label), _rows in group["labels"]  # type: ignore[attr-defined]
        if request.POST.get(name, "").strip()
    ]
    try:
        made = revisions.rename_labels(version=version, actor=Actor.of(request), renames=renames)
    except PortalError as error:
        messages.error(request, error.message)
        return redirect("datasets:schema", request.team.slug, pk)
    messages.success(request, _("Version %(number)d is being made.") % {"number": made.number})
    return redirect("datasets:version", request.team.slug, made.pk)


@team_view()
@require_safe
def export(request: TeamRequest, pk: UUID) -> JsonResponse:
    """Send the schema that counts as a JSON Schema document."""
    version = _version(request, pk)
    current: AnswerSchema | None = current_schema(version)
    if current is None:
        raise Http404
    name = f"{slugify(version.dataset.name) or 'dataset'}-v{version.number}-schema.json"
    return JsonResponse(
        as_document(current.schema, str(version)),
        json_dumps_params={"ensure_ascii": False, "indent": 2},
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
        content_type="application/schema+json",
    )
