"""Ids and pages as OpenAI's clients know them: `file-…`, `ftjob-…`, `batch_…`, and cursors instead of page numbers."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from django.db.models import Model, Q, QuerySet
from django.utils.translation import gettext as _
from rest_framework.request import Request

from portal.errors import InvalidInput, NotFound

_HEX = re.compile(r"[0-9a-f]{32}\Z")
Row = TypeVar("Row", bound=Model)


def read_id(prefix: str, text: object) -> uuid.UUID | None:
    """Return the key behind a public id such as `file-0123…`, or None for anything that is none."""
    if not isinstance(text, str) or not text.startswith(prefix) or not _HEX.match(text[len(prefix) :]):
        return None
    return uuid.UUID(hex=text[len(prefix) :])


def find(rows: QuerySet[Row], prefix: str, text: object, *, param: str) -> Row:
    """Return the row with this public id. Raises: NotFound, in the same words for strangers' ids and for nonsense."""
    key = read_id(prefix, text)
    row = rows.filter(pk=key).first() if key is not None else None
    if row is None:
        raise not_found(param)
    return row


def not_found(param: str) -> NotFound:
    """Return the one error for what does not exist and for what belongs to others."""
    return NotFound(_("There is nothing with this id, or it belongs to another team."), param=param)


@dataclass(frozen=True)
class Page:
    """What a list was asked for."""

    limit: int
    after: str
    is_ascending: bool = False


def read_page(request: Request, *, usual: int, most: int, ordered: bool = False) -> Page:
    """Return which part of a list is wanted. Raises: InvalidInput naming the parameter."""
    sent = request.query_params
    text = sent.get("limit", str(usual))
    if not text.isdecimal() or len(text) > 6 or not 1 <= int(text) <= most:
        raise InvalidInput(_("'limit' has to be a whole number from 1 to %(most)d.") % {"most": most}, param="limit")
    order = sent.get("order", "desc") if ordered else "desc"
    if order not in ("asc", "desc"):
        raise InvalidInput(_("'order' has to be asc or desc."), param="order")
    return Page(int(text), sent.get("after", ""), order == "asc")


def listed(rows: QuerySet[Any], page: Page, *, prefix: str, shape: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    """Return one page of rows by age as OpenAI's cursor page. Raises: InvalidInput for a cursor that is none.

    The cursor is the last row that the client has seen, so what is added meanwhile shifts nothing.
    """
    step = "gt" if page.is_ascending else "lt"
    if page.after:
        key = read_id(prefix, page.after)
        last = rows.filter(pk=key).first() if key is not None else None
        if last is None:
            raise InvalidInput(_("'after' names nothing in this list."), param="after")
        beyond = Q(**{f"created_at__{step}": last.created_at})
        rows = rows.filter(beyond | Q(**{"created_at": last.created_at, f"id__{step}": last.pk}))
    order = ("created_at", "id") if page.is_ascending else ("-created_at", "-id")
    found = list(rows.order_by(*order)[: page.limit + 1])
    return as_list([shape(row) for row in found[: page.limit]], has_more=len(found) > page.limit)


def as_list(entries: list[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """Return entries as OpenAI's list object."""
    return {
        "object": "list",
        "data": entries,
        "first_id": entries[0]["id"] if entries else None,
        "last_id": entries[-1]["id"] if entries else None,
        "has_more": has_more,
    }
