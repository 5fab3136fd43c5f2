"""The rows of a version in the browser: searched, looked at one by one, changed, and saved as a new version."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpResponse, HttpResponseRedirect, QueryDict
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.http import require_POST, require_safe

from datasets_app import answer_form, row_changes
from datasets_app.doctor.report import read_ids
from datasets_app.doctor_reports.lifecycle import newest_report
from datasets_app.fields import load_json
from datasets_app.models import DatasetVersion, RowChange, Split
from datasets_app.preview import as_seen
from datasets_app.row_search import Place, Query, find
from datasets_app.rows import CanonicalRow
from datasets_app.stored_rows import StoredRows, present_paths, pretty_answer
from datasets_app.text_diff import pieces
from portal import audit, search
from portal.access import TeamRequest, team_view
from portal.actors import Actor
from portal.errors import IllegalTransition, PortalError
from portal.models import Role

ROWS_PER_PAGE = 20
SEEN_PER_PAGE = 5
CHANGES_PER_PAGE = 20
MAX_IDS = 1_000
# Parameters of the page of rows to which one returns.
_KEPT = ("q", "field", "split", "ids", "finding", "page", "after")
Status = DatasetVersion.Status


# --- the table ---------------------------------------------------------------------------------------------------


def rows_context(request: TeamRequest, found: DatasetVersion) -> dict[str, Any]:
    """Return what the card with the rows shows: a page of one split, or what a search found in all of them."""
    splits = [split for split in Split if found.row_count(split)]
    asked = request.GET.get("split")
    chosen = next((one for one in splits if one.value == asked), None)
    query = asked_query(request.GET, search.typed(request))
    finding = request.GET.get("finding", "")
    if (ids := _ids_of_finding(found, finding)) is not None:
        query = replace(query, ids=ids)
    split = chosen or (splits[0] if splits else Split.TRAIN)
    shared = {
        "splits": [(one, found.row_count(one)) for one in splits],
        "split": split,
        "query": query,
        "finding": finding if ids is not None else "",
        "closed_fields": _closed_fields(found),
        "chosen_value": _chosen_value(query),
        "waiting": row_changes.waiting(found),
    }
    if query:
        return shared | _searched(request, found, query, chosen)
    return shared | _leafed(request, found, split)


def _leafed(request: TeamRequest, found: DatasetVersion, split: Split) -> dict[str, Any]:
    is_seen = request.GET.get("view") == "model"
    rows = Paginator(StoredRows(found, split), SEEN_PER_PAGE if is_seen else ROWS_PER_PAGE)
    page = rows.get_page(request.GET.get("page"))
    seen, model_name = as_seen(page) if is_seen else ((), "")
    shown = [] if is_seen else _shown_rows(found, [(split, row) for row in page])
    return {"page": page, "is_seen": is_seen, "seen": seen, "model_name": model_name, "rows": shown}


def _searched(request: TeamRequest, found: DatasetVersion, query: Query, split: Split | None) -> dict[str, Any]:
    after = Place.parse(request.GET.get("after", ""))
    paths = {one: path for one, path in present_paths(found).items() if split in (None, one)}
    hits = find(paths, query, count=ROWS_PER_PAGE, after=after)
    return {
        "hits": hits,
        "searched_split": split,
        "total_searched": found.row_count(split) if split else found.total_rows,
        "rows": _shown_rows(found, list(hits.rows)),
        "next_url": _with(request.GET, after=str(hits.next)) if hits.next else "",
        "first_url": _with(request.GET, after="") if after else "",
        "is_seen": False,
    }


def asked_query(given: QueryDict, text: str) -> Query:
    """Return what the address asks for; what cannot be understood is left out."""
    field, value = "", ""
    try:
        pair = load_json(given.get("field", "") or "[]")
        if isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair):
            field, value = pair
    except ValueError:
        pass
    ids = given.get("ids", "")
    numbers = [part for part in ids.replace(" ", "").split(",") if part.isascii() and part.isdigit() and len(part) < 16]
    return Query(text=text, field=field, value=value, ids=frozenset(map(int, numbers[:MAX_IDS])) if ids else None)


def _ids_of_finding(found: DatasetVersion, code: str) -> frozenset[int] | None:
    """Return the rows that a finding of the newest doctor's report names, or None if there is no such finding."""
    report = newest_report(found) if re.fullmatch(r"[a-z_]{1,60}", code) else None
    try:
        return frozenset(read_ids(report.folder, code).tolist()) if report else None
    except OSError:
        return None


def _closed_fields(found: DatasetVersion) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return the closed fields with (what the address says, the label) of each value."""
    return [
        (field["name"], [(json.dumps([field["name"], value]), value) for value in field["values"]])
        for field in found.report.get("fields", [])
        if field["closed"]
    ]


def _chosen_value(query: Query) -> str:
    return json.dumps([query.field, query.value]) if query.field else ""


def _with(given: QueryDict, **changed: str) -> str:
    kept = {name: given[name] for name in ("q", "field", "split", "ids", "finding") if given.get(name)}
    return "?" + urlencode({**kept, **{name: value for name, value in changed.items() if value}}) + "#rows"


def _shown_rows(found: DatasetVersion, rows: list[tuple[Split, CanonicalRow]]) -> list[dict[str, Any]]:
    """Return rows for the table, with what waits to become of them."""
    changes = _changes_of(found, [row.id for _split, row in rows])
    same_for_all = found.mapping.get("system_prompt", "")
    return [_shown(split, row, changes.get(row.id), same_for_all) for split, row in rows]


def _changes_of(found: DatasetVersion, ids: list[int]) -> dict[int, RowChange]:
    waiting = found.row_changes.filter(row_id__in=ids).select_related("changed_by")
    return {change.row_id: change for change in waiting}


def _shown(split: Split, row: CanonicalRow, change: RowChange | None, same_for_all: str) -> dict[str, Any]:
    """Return a row for the table; the system prompt that all rows share is said once, beside the table."""
    changed = row_changes.as_changed(row, change)
    return {
        "id": row.id,
        "line": row.row,
        "split": split,
        "earlier": [message for message in changed.messages[:-2] if message["content"] != same_for_all],
        "prompt": changed.prompt,
        "answer": changed.answer,
        "fields": pretty_answer(changed.answer),
        "change": change,
    }


# --- one row -----------------------------------------------------------------------------------------------------


@team_view()
@require_safe
def row(request: TeamRequest, pk: UUID, row_id: int) -> HttpResponse:
    """Show one row; editors may change it."""
    found = _version(request, pk)
    return _row_page(request, found, row_id)


@team_view(role=Role.EDITOR)
@require_POST
def change_row(request: TeamRequest, pk: UUID, row_id: int) -> HttpResponse:
    """Note what is to become of a row."""
    found = _version(request, pk)
    try:
        change = _asked_change(request.POST, found, row_id)
        row_changes.change_rows(
            version=found, actor=Actor.of(request), changes={row_id: change}, seen=request.POST.get("seen")
        )
    except PortalError as error:
        if error.status == 404:
            raise
        return _row_page(request, found, row_id, error=error, sent=request.POST)
    messages.success(request, _("The change of row %(row)d waits to be saved.") % {"row": row_id})
    return redirect(f"{reverse('datasets:row', args=[request.team.slug, pk, row_id])}")


def _asked_change(sent: QueryDict, found: DatasetVersion, row_id: int) -> dict[str, Any]:
    """Return the change that the form of a row asks for."""
    do = sent.get("do", "texts")
    if do == "exclude":
        return {"is_excluded": True}
    if do == "keep":
        return {"is_excluded": False}
    if do == "undo":
        split, _row = row_changes.row_of(found, row_id)
        return {"prompt": None, "answer": None, "system": None, "is_excluded": False, "split": split.value}
    texts = _texts(sent, found, row_id)
    if sent.get("as") == "fields":
        texts["answer"] = _answer_of_fields(sent, found, row_id)
    return texts | ({"split": sent["split"]} if sent.get("split") else {})


def _texts(sent: QueryDict, found: DatasetVersion, row_id: int) -> dict[str, str]:
    """Return the texts that were sent; one that differs from that of the row in its line ends only is that one.

    Browsers write all line ends of a text area alike.
    """
    names = [name for name in row_changes.TEXTS if name in sent]
    if not names:
        return {}
    _split, original = row_changes.row_of(found, row_id)
    now = row_changes.as_changed(original, found.row_changes.filter(row_id=row_id).first())
    texts = {}
    for name in names:
        typed = answer_form.with_plain_ends(str(sent[name]))
        known = (row_changes.text_of(row, name) for row in (now, original))
        texts[name] = next((text for text in known if answer_form.with_plain_ends(text) == typed), typed)
    return texts


def _answer_of_fields(sent: QueryDict, found: DatasetVersion, row_id: int) -> str:
    _split, original = row_changes.row_of(found, row_id)
    now = row_changes.as_changed(original, found.row_changes.filter(row_id=row_id).first())
    try:
        return answer_form.written(now.answer, found.report.get("fields", []), _plain(sent))
    except ValueError as error:
        raise IllegalTransition(
            _("What you typed for “%(field)s” is no JSON. Texts stand in quotes.") % {"field": error}
        ) from None


def _plain(sent: QueryDict) -> dict[str, str]:
    return {name: str(sent[name]) for name in sent}


def _row_page(
    request: TeamRequest,
    found: DatasetVersion,
    row_id: int,
    *,
    error: PortalError | None = None,
    sent: QueryDict | None = None,
) -> HttpResponse:
    split, original = row_changes.row_of(found, row_id)
    beside = row_changes.rows_by_id(found, [row_id - 1, row_id + 1])
    audit.read(request.team, Actor.of(request), "dataset.rows_read", found, row=row_id)
    change = found.row_changes.select_related("changed_by").filter(row_id=row_id).first()
    now = row_changes.as_changed(original, change)
    typed = sent or QueryDict()
    fields = [] if request.GET.get("raw") or typed.get("as") == "raw" else _typed_inputs(found, now, typed)
    context = {
        "version": found,
        "row": original,
        "split": split,
        "splits": list(Split),
        "chosen_split": typed.get("split") or (change and change.moved_to) or split.value,
        "earlier": [message for message in original.messages[:-2] if message["role"] != "system"],
        "texts": {name: typed.get(name, row_changes.text_of(now, name)) for name in row_changes.TEXTS},
        "inputs": fields,
        "has_fields": bool(answer_form.inputs(now.answer, found.report.get("fields", []))),
        "change": change,
        "compared": _compared(original, change),
        "seen": row_changes.mark_of(change),
        "error": error,
        "may_edit": request.role.includes(Role.EDITOR) and found.status == Status.READY,
        "before_id": row_id - 1 if row_id - 1 in beside else None,
        "after_id": row_id + 1 if row_id + 1 in beside else None,
    }
    return render(request, "datasets/row.html", context, status=error.status if error else 200)


def _typed_inputs(found: DatasetVersion, now: CanonicalRow, typed: QueryDict) -> list[dict[str, Any]]:
    """Return the inputs of a JSON answer, with what was typed already."""
    fields = answer_form.inputs(now.answer, found.report.get("fields", []))
    return [{"input": one, "value": typed.get(one.name, one.label)} for one in fields]


def _compared(original: CanonicalRow, change: RowChange | None) -> list[tuple[str, list[Any]]]:
    """Return (name, pieces) of each text that waits to be replaced."""
    names = {"system": _("System prompt"), "prompt": _("Prompt"), "answer": _("Answer")}
    texts = change.texts if change else {}
    return [(names[name], pieces(row_changes.text_of(original, name), texts[name])) for name in names if name in texts]


# --- several rows ------------------------------------------------------------------------------------------------


@team_view(role=Role.EDITOR)
@require_POST
def change_rows(request: TeamRequest, pk: UUID) -> HttpResponse:
    """Exclude the ticked rows, keep them again, or put them into another split."""
    found = _version(request, pk)
    ids = [int(one) for one in request.POST.getlist("row") if one.isascii() and one.isdigit() and len(one) < 16]
    do = request.POST.get("do", "")
    try:
        if not ids:
            messages.error(request, _("Tick at least one row."))
        elif do == "undo":
            row_changes.undo_changes(version=found, actor=Actor.of(request), ids=ids)
        else:
            wanted = {"exclude": {"is_excluded": True}, "keep": {"is_excluded": False}}.get(do, {"split": do})
            row_changes.change_rows(version=found, actor=Actor.of(request), changes=dict.fromkeys(ids, wanted))
            noted = ngettext("%(count)d row is noted.", "%(count)d rows are noted.", len(ids)) % {"count": len(ids)}
            messages.success(request, noted)
    except PortalError as error:
        messages.error(request, error.message)
    return _back(request, found)


def _back(request: TeamRequest, found: DatasetVersion) -> HttpResponseRedirect:
    """Return to the page of rows that was sent from; only its own parameters are taken from the form."""
    query = QueryDict(request.POST.get("back", "")[:2000])
    kept = {name: query[name] for name in _KEPT if query.get(name)}
    address = reverse("datasets:version", args=[request.team.slug, found.pk])
    return redirect(f"{address}?{urlencode(kept)}#rows")


@team_view()
@require_safe
def changes(request: TeamRequest, pk: UUID) -> HttpResponse:
    """Show all changes that wait: each row before and after."""
    found = _version(request, pk)
    audit.read(request.team, Actor.of(request), "dataset.rows_read", found, changes=True)
    listed = Paginator(found.row_changes.select_related("changed_by").order_by("row_id"), CHANGES_PER_PAGE)
    page = listed.get_page(request.GET.get("page"))
    originals = (
        row_changes.rows_by_id(found, [change.row_id for change in page]) if found.status == Status.READY else {}
    )
    shown = [
        {"change": change, "split": split, "row": original, "compared": _compared(original, change)}
        for change in page
        if (placed := originals.get(change.row_id))
        for split, original in [placed]
    ]
    context = {"version": found, "page": page, "shown": shown, "waiting": row_changes.waiting(found)}
    return render(request, "datasets/changes.html", context)


@team_view(role=Role.EDITOR)
@require_POST
def save_changes(request: TeamRequest, pk: UUID) -> HttpResponse:
    """Make one new version of all changes that wait."""
    found = _version(request, pk)
    try:
        made = row_changes.save_changes(version=found, actor=Actor.of(request), note=request.POST.get("note", ""))
    except PortalError as error:
        messages.error(request, error.message)
        return redirect("datasets:changes", request.team.slug, pk)
    return redirect("datasets:version", request.team.slug, made.pk)


@team_view(role=Role.EDITOR)
def discard_changes(request: TeamRequest, pk: UUID) -> HttpResponse:
    """Ask, then forget all changes that wait."""
    found = _version(request, pk)
    if request.method != "POST":
        question = {
            "title": _("Discard all changes?"),
            "message": _("All changes of rows that wait here are forgotten, also those of other people."),
            "action": _("Discard changes"),
            "danger": True,
            "cancel_url": reverse("datasets:changes", args=[request.team.slug, pk]),
        }
        return render(request, "components/confirm.html", question)
    count = row_changes.undo_changes(version=found, actor=Actor.of(request))
    messages.success(
        request,
        ngettext("%(count)d change is discarded.", "%(count)d changes are discarded.", count) % {"count": count},
    )
    return redirect("datasets:version", request.team.slug, pk)


def _version(request: TeamRequest, pk: UUID) -> DatasetVersion:
    versions = request.team.datasetversions.select_related("dataset", "team", "created_by")
    return get_object_or_404(versions, pk=pk)
