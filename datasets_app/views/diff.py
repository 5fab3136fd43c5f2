"""Two versions of a dataset side by side."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.core.paginator import Paginator
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.http import require_safe

from datasets_app import row_changes, version_diff
from datasets_app.models import DatasetVersion, Split
from datasets_app.rows import CanonicalRow
from datasets_app.text_diff import pieces
from portal import audit
from portal.access import TeamRequest, team_view
from portal.actors import Actor

PER_PAGE = 20


@team_view()
@require_safe
def diff(request: TeamRequest, pk: UUID) -> HttpResponse:
    """Show what differs between two versions; by default the newest and what it was made from."""
    dataset = get_object_or_404(request.team.datasets, pk=pk)
    ready = dataset.versions.filter(status=DatasetVersion.Status.READY).select_related("team", "dataset")
    versions = list(ready.order_by("-number"))
    new = _chosen(versions, request.GET.get("to")) or next(iter(versions), None)
    older = [one for one in versions if new and one.number < new.number]
    parent = next((one for one in versions if new and one.pk == new.parent_id), None)
    old = _chosen(versions, request.GET.get("from")) or parent or next(iter(older), None)
    context: dict[str, Any] = {"dataset": dataset, "versions": versions, "old": old, "new": new}
    if old and new and old != new:
        audit.read(request.team, Actor.of(request), "dataset.rows_read", new, compared_with=str(old.pk))
        context |= _compared(request, old, new)
    return render(request, "datasets/diff.html", context)


def _chosen(versions: list[DatasetVersion], number: str | None) -> DatasetVersion | None:
    return next((one for one in versions if str(one.number) == number), None)


def _compared(request: TeamRequest, old: DatasetVersion, new: DatasetVersion) -> dict[str, Any]:
    found = version_diff.compare(old, new)
    counts = found.counts
    asked = request.GET.get("kind", "")
    first = next((kind for kind in version_diff.KINDS if counts[kind]), version_diff.KINDS[0])
    kind = asked if asked in version_diff.KINDS else first
    page = Paginator(found.pairs(kind), PER_PAGE).get_page(request.GET.get("page"))
    return {
        "counts": counts,
        "kinds": [(one, counts[one]) for one in version_diff.KINDS],
        "kind": kind,
        "page": page,
        "shown": shown_pairs(old, new, list(page)),
        "settings": version_diff.settings_changes(old, new),
        "is_equal": old.content_hash == new.content_hash,
    }


def shown_pairs(
    old: DatasetVersion, new: DatasetVersion, pairs: list[tuple[int | None, int | None]]
) -> list[dict[str, Any]]:
    """Return pairs of rows with their splits and what changed in their texts."""
    before = row_changes.rows_by_id(old, [one for one, _other in pairs if one])
    after = row_changes.rows_by_id(new, [other for _one, other in pairs if other])
    return [_shown_pair(before.get(one or 0), after.get(other or 0)) for one, other in pairs]


def _shown_pair(old: tuple[Split, CanonicalRow] | None, new: tuple[Split, CanonicalRow] | None) -> dict[str, Any]:
    texts = []
    for name in row_changes.TEXTS:
        before = row_changes.text_of(old[1], name) if old else ""
        after = row_changes.text_of(new[1], name) if new else ""
        if name != "system" or before != after:
            texts.append((name, pieces(before, after)))
    texts.sort(key=lambda text: ("system", "prompt", "answer").index(text[0]))
    row = new or old
    return {
        "id": row[1].id if row else 0,
        "old_split": old[0] if old else None,
        "new_split": new[0] if new else None,
        "texts": texts,
        "is_new": new is not None,
    }
