"""The building blocks of our pages: ``{% load ui %}``. Each tag renders one partial of templates/components."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Any

from django import template
from django.contrib.staticfiles.storage import staticfiles_storage
from django.forms import BoundField
from django.template.context import Context
from django.template.loader import render_to_string
from django.urls import NoReverseMatch, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext_lazy

from portal.display import numbers, shapes
from portal.fields import draw

register = template.Library()

for _name in (
    "thousands",
    "decimal",
    "significant",
    "compact",
    "percent",
    "percentage",
    "points",
    "filesize",
    "duration",
):
    register.filter(_name, getattr(numbers, _name))
register.filter("heat", shapes.heat)


@register.filter
def json_text(value: str) -> str:
    """Return a text as a JSON string literal, which Python and JavaScript read as well."""
    return json.dumps(str(value), ensure_ascii=False)


@register.filter
def as_json(value: object) -> str:
    """Return plain lists and dicts as JSON, for a data attribute."""
    return json.dumps(value, ensure_ascii=False, default=str)


@register.filter
def shell_json(value: str) -> str:
    """Return a text as the inside of a JSON string within a shell's single quotes."""
    return json_text(value)[1:-1].replace("'", "'\\''")


# --- Small marks -------------------------------------------------------------------------------------------------


@register.simple_tag
def icon(name: str, label: str = "", classes: str = "") -> SafeString:
    """Return an icon of the sprite; decorative unless ``label`` says what it means."""
    return _icon(name, str(label), classes, _sprite(staticfiles_storage.url))


@lru_cache(maxsize=4)
def _sprite(address_of: Callable[[str], str]) -> str:
    return address_of("vendor/tabler-icons/icons.svg")


@lru_cache(maxsize=1024)
def _icon(name: str, label: str, classes: str, sprite: str) -> SafeString:
    meaning = format_html('role="img" aria-label="{}"', label) if label else SafeString('aria-hidden="true"')
    return format_html('<svg class="icon {}" {}><use href="{}#{}"/></svg>', classes, meaning, sprite, name)


@dataclass(frozen=True)
class Status:
    """How a state looks: its word, its tone (see app.css) and its icon."""

    label: Any
    tone: str
    icon: str


STATUSES: Mapping[str, Status] = {
    "queued": Status(gettext_lazy("Queued"), "neutral", "clock"),
    "paused": Status(gettext_lazy("Paused"), "warning", "player-pause"),
    "assigned": Status(gettext_lazy("Starting"), "info", "loader-2"),
    "running": Status(gettext_lazy("Running"), "info", "loader-2"),
    "succeeded": Status(gettext_lazy("Succeeded"), "success", "circle-check"),
    "failed": Status(gettext_lazy("Failed"), "danger", "alert-triangle"),
    "cancelled": Status(gettext_lazy("Cancelled"), "neutral", "ban"),
    "draft": Status(gettext_lazy("Draft"), "warning", "pencil"),
    "fetching": Status(gettext_lazy("Fetching"), "info", "loader-2"),
    "importing": Status(gettext_lazy("Importing"), "info", "loader-2"),
    "pending": Status(gettext_lazy("Starting"), "info", "loader-2"),
    "ready": Status(gettext_lazy("Ready"), "success", "circle-check"),
    "stopped": Status(gettext_lazy("Stopped"), "neutral", "player-stop"),
    "asleep": Status(gettext_lazy("Asleep"), "neutral", "player-pause"),
    "active": Status(gettext_lazy("Active"), "success", "circle-check"),
    "revoked": Status(gettext_lazy("Revoked"), "neutral", "ban"),
    "expired": Status(gettext_lazy("Expired"), "warning", "clock"),
    "online": Status(gettext_lazy("Online"), "success", "circle-check"),
    "draining": Status(gettext_lazy("Draining"), "warning", "player-pause"),
    "archived": Status(gettext_lazy("Archived"), "neutral", "archive"),
    "deactivated": Status(gettext_lazy("Deactivated"), "neutral", "ban"),
    "allowed": Status(gettext_lazy("Allowed"), "success", "circle-check"),
    "forbidden": Status(gettext_lazy("Not allowed"), "neutral", "ban"),
    "done": Status(gettext_lazy("Done"), "neutral", "check"),
    "read": Status(gettext_lazy("Data read"), "info", "eye"),
    "unchecked": Status(gettext_lazy("Unchecked"), "warning", "alert-triangle"),
    "denied": Status(gettext_lazy("Refused"), "warning", "shield-lock"),
    "scheduled": Status(gettext_lazy("Scheduled"), "info", "clock"),
    "over": Status(gettext_lazy("Over"), "neutral", "history"),
    "offline": Status(gettext_lazy("Offline"), "danger", "circle-x"),
}


# Lists show these two by the dozen, so they are written here: a template of their own takes ten times as long.


@register.simple_tag
def status(value: str, label: str = "") -> SafeString:
    """Show a state of a run, dataset version, deployment, API token or node; an unknown one shows as its own word."""
    known = STATUSES.get(str(value).lower(), Status(str(value), "neutral", "circle-dashed"))
    mark = icon(known.icon, "", "state-icon")
    return format_html('<span class="state state-{}">{}{}</span>', known.tone, mark, label or known.label)


@register.simple_tag
def when(value: datetime | date | None, style: str = "datetime") -> SafeString | str:
    """Show a moment: UTC text that the browser turns into the viewer's zone. Styles: datetime, date, relative."""
    if isinstance(value, datetime):
        moment = value.astimezone(UTC)
        shown = f"{moment:%Y-%m-%d %H:%M} UTC"
        return format_html('<time datetime="{}" data-time="{}">{}</time>', moment.isoformat(), style, shown)
    return format_html('<time datetime="{}">{}</time>', value.isoformat(), value) if value else numbers.UNKNOWN


@register.inclusion_tag("components/_progress.html")
def progress(value: float | None, maximum: float | None = 1, label: str = "", detail: str = "") -> dict[str, Any]:
    """Show how far something is; ``value`` None means that nobody knows yet."""
    share = value / maximum if value is not None and maximum else None
    return {"share": share, "label": label, "detail": detail}


# --- Navigation --------------------------------------------------------------------------------------------------


OWN_LINKS = {"playground", "queue", "tracker", "webhooks"}


@register.inclusion_tag("components/_nav_link.html", takes_context=True)
def nav_link(context: Context, view: str, label: str, icon_name: str, team_slug: str = "") -> dict[str, Any]:
    """Show a link of the side bar, marked when we are on it; nothing while the route does not exist."""
    match = getattr(context.get("request"), "resolver_match", None)
    namespace, _colon, name = view.partition(":")
    # A list stands for its whole section, except for the pages that have a link of their own.
    own = match is not None and str(match.url_name).partition("_")[0] in OWN_LINKS
    section = name == "list" and match is not None and match.namespace == namespace and not own
    # Pages below another one are named after it: platform:teams_detail belongs to platform:teams.
    active = match is not None and (section or match.view_name == view or match.view_name.startswith(f"{view}_"))
    try:
        url = reverse(view, args=[team_slug] if team_slug else [])
    except NoReverseMatch:
        url = ""
    return {"url": url, "label": label, "icon_name": icon_name, "active": active}


@register.simple_tag
def crumb(label: str, view: str, *arguments: Any) -> SafeString:
    """Return one step of the breadcrumbs; the page's own name is its heading and is not repeated there."""
    return format_html('<li class="breadcrumb-item"><a href="{}">{}</a></li>', reverse(view, args=arguments), label)


@register.inclusion_tag("components/_tab.html", takes_context=True)
def tab(
    context: Context, label: str, url: str, count: int | None = None, icon_name: str = "", section: bool = False
) -> dict[str, Any]:
    """Show one tab, which is a plain link; the one whose address, or with ``section`` what lies below, is marked."""
    request, own = context.get("request"), url.split("?")[0]
    active = request is not None and (request.path == own or (section and request.path.startswith(own)))
    return {"label": label, "url": url, "count": count, "icon_name": icon_name, "active": active}


@register.inclusion_tag("components/_stepper.html")
def stepper(current: int, *labels: str) -> dict[str, Any]:
    """Show the steps of a wizard; ``current`` counts from 1."""
    states = ["done" if index < current else "current" if index == current else "next" for index in _count(labels)]
    return {"steps": list(zip(_count(labels), labels, states, strict=True)), "current": current, "total": len(labels)}


def _count(items: Sequence[Any]) -> range:
    return range(1, len(items) + 1)


# --- Drawings ----------------------------------------------------------------------------------------------------


@register.inclusion_tag("components/_sparkline.html")
def sparkline(values: Sequence[float | None], label: str = "", width: int = 120, height: int = 32) -> dict[str, Any]:
    """Draw a small line of a series, oldest value first."""
    return {"line": shapes.line(list(values or []), width=width, height=height), "label": label}


@register.inclusion_tag("components/_bars.html")
def bars(
    items: Sequence[Mapping[str, Any]],
    maximum: float | None = None,
    style: str = "number",
    label: str = "",
    compared_label: str = "",
) -> dict[str, Any]:
    """Draw labelled bars (see ``shapes.bars``). ``style`` writes the values: number or percent."""
    if style == "percent" and maximum is None:
        maximum = 1.0
    write = numbers.percent if style == "percent" else numbers.thousands
    drawn = [(bar, write(bar.value), write(bar.compared)) for bar in shapes.bars(items, maximum=maximum)]
    return {"drawn": drawn, "label": label, "compared_label": compared_label}


@register.inclusion_tag("components/_histogram.html")
def histogram(items: Sequence[Mapping[str, Any]], label: str = "", unit: str = "") -> dict[str, Any]:
    """Draw a histogram of ``items``: mappings with label (the bin) and value (the count)."""
    drawn = shapes.columns(items)
    middle = drawn[len(drawn) // 2] if drawn else None
    return {"columns": drawn, "label": label, "unit": unit, "first": drawn[:1], "middle": middle, "last": drawn[-1:]}


@register.inclusion_tag("components/_scatter.html")
def scatter(drawn: shapes.Scatter | None, label: str = "") -> dict[str, Any]:
    """Draw dots (of ``shapes.scatter``) over named values; a table beside it has to say the same in words."""
    return {"drawn": drawn, "label": label}


# --- Forms -------------------------------------------------------------------------------------------------------


@register.simple_tag
def field(
    bound: BoundField, unit: str = "", style: str = "", descriptions: Mapping[str, str] | None = None
) -> SafeString:
    """Show a form field with label, control, unit, range, help and errors.

    ``style``: "cards" shows radio choices as cards (``descriptions`` by value), "switch" a checkbox as a switch.
    ``field.unit`` and ``field.shown_if`` (other field, values) of the form field are honoured.
    """
    return draw([bound], error_icon=icon("alert-circle"), unit=unit, style=style, descriptions=descriptions)


@register.simple_tag
def fields(bounds: Iterable[BoundField]) -> SafeString:
    """Show many form fields as ``field`` shows one, in one pass."""
    return draw(bounds, error_icon=icon("alert-circle"))


# --- Boxes around content ----------------------------------------------------------------------------------------


@register.simple_block_tag
def card(content: str, title: str = "", icon_name: str = "", classes: str = "", flush: bool = False) -> str:
    """Put the content on a card; ``flush`` leaves no padding, for tables and lists."""
    return _box("card", content, title=title, icon_name=icon_name, classes=classes, flush=flush)


@register.simple_block_tag
def datatable(content: str, label: str, stacked: bool = True, classes: str = "") -> str:
    """Put ``<thead>`` and ``<tbody>`` into a table that never widens the page; stacked cells need ``data-label``."""
    return _box("datatable", content, label=label, stacked=stacked, classes=classes)


@register.simple_block_tag
def empty(content: str, title: str, icon_name: str = "stack-2", compact: bool = False) -> str:
    """Say that there is nothing yet; the content explains what to do and holds the button for it."""
    return _box("empty", content, title=title, icon_name=icon_name, compact=compact)


@register.simple_block_tag
def dialog(content: str, name: str, title: str) -> str:
    """Put the content into a dialog that ``data-dialog="<name>"`` on a button or link opens."""
    return _box("dialog", content, name=name, title=title)


@register.simple_block_tag
def notice(content: str, tone: str = "info", title: str = "") -> str:
    """Show a note in the flow of the page; tones: info, success, warning, danger."""
    icons = {"success": "circle-check", "warning": "alert-triangle", "danger": "alert-circle"}
    return _box("notice", content, tone=tone, title=title, icon_name=icons.get(tone, "info-circle"))


@register.simple_block_tag
def code(content: str, label: str = "") -> str:
    """Show code with a button that copies it; leading and trailing blank lines are dropped."""
    # The content was escaped when it was rendered; stripping only loses the mark that says so.
    return _box("code", mark_safe(content.strip()), label=label)  # noqa: S308


def _box(partial: str, content: str, **options: Any) -> str:
    return render_to_string(f"components/_{partial}.html", {"content": content, **options})
