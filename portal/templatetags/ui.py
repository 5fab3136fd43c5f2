"""The building blocks of our pages: ``{% load ui %}``. Each tag renders one partial of templates/components."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from django import forms, template
from django.forms import BoundField
from django.template.context import Context
from django.template.loader import render_to_string
from django.templatetags.static import static
from django.urls import NoReverseMatch, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from portal.display import numbers, shapes

register = template.Library()

for _name in ("thousands", "decimal", "significant", "compact", "percent", "points", "filesize", "duration"):
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
    meaning = format_html('role="img" aria-label="{}"', label) if label else SafeString('aria-hidden="true"')
    sprite = static("vendor/tabler-icons/icons.svg")
    return format_html('<svg class="icon {}" {}><use href="{}#{}"/></svg>', classes, meaning, sprite, name)


@dataclass(frozen=True)
class Status:
    """How a state looks: its word, its tone (see app.css) and its icon."""

    label: Any
    tone: str
    icon: str


STATUSES: Mapping[str, Status] = {
    "queued": Status(gettext_lazy("Queued"), "neutral", "clock"),
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
    "denied": Status(gettext_lazy("Refused"), "warning", "shield-lock"),
    "scheduled": Status(gettext_lazy("Scheduled"), "info", "clock"),
    "over": Status(gettext_lazy("Over"), "neutral", "history"),
    "offline": Status(gettext_lazy("Offline"), "danger", "circle-x"),
}


@register.inclusion_tag("components/_status.html")
def status(value: str, label: str = "") -> dict[str, Any]:
    """Show a state of a run, dataset version, deployment, API token or node; an unknown one shows as its own word."""
    known = STATUSES.get(str(value).lower(), Status(str(value), "neutral", "circle-dashed"))
    return {"label": label or known.label, "tone": known.tone, "icon_name": known.icon}


@register.inclusion_tag("components/_time.html")
def when(value: datetime | date | None, style: str = "datetime") -> dict[str, Any]:
    """Show a moment: UTC text that the browser turns into the viewer's zone. Styles: datetime, date, relative."""
    moment = value.astimezone(UTC) if isinstance(value, datetime) else value
    return {"moment": moment, "style": style, "has_time": isinstance(value, datetime)}


@register.inclusion_tag("components/_progress.html")
def progress(value: float | None, maximum: float | None = 1, label: str = "", detail: str = "") -> dict[str, Any]:
    """Show how far something is; ``value`` None means that nobody knows yet."""
    share = value / maximum if value is not None and maximum else None
    return {"share": share, "label": label, "detail": detail}


# --- Navigation --------------------------------------------------------------------------------------------------


OWN_LINKS = {"playground", "queue"}


@register.inclusion_tag("components/_nav_link.html", takes_context=True)
def nav_link(context: Context, view: str, label: str, icon_name: str, team_slug: str = "") -> dict[str, Any]:
    """Show a link of the side bar, marked when we are on it; nothing while the route does not exist."""
    match = getattr(context.get("request"), "resolver_match", None)
    namespace, _colon, name = view.partition(":")
    # A list stands for its whole section, except for the pages that have a link of their own.
    section = name == "list" and match is not None and match.namespace == namespace and match.url_name not in OWN_LINKS
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


@register.inclusion_tag("components/_field.html")
def field(
    bound: BoundField, unit: str = "", hint: str = "", style: str = "", descriptions: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Show a form field with label, control, unit, range, help and errors.

    ``style``: "cards" shows radio choices as cards (``descriptions`` by value), "switch" a checkbox as a switch.
    ``field.unit`` and ``field.shown_if`` (other field, values) of the form field are honoured.
    """
    shown_if = getattr(bound.field, "shown_if", None)
    kind = _kind(bound)
    return {
        "field": bound,
        "kind": style or kind,
        "control": _control(bound, kind, style),
        "unit": unit or getattr(bound.field, "unit", ""),
        "hint": hint,
        "range_text": _range_text(bound),
        "choice_type": "checkbox" if isinstance(bound.field.widget, forms.CheckboxSelectMultiple) else "radio",
        "choices": _choices(bound, descriptions or {}) if kind == "radio" else [],
        "shown_if_name": bound.form.add_prefix(shown_if[0]) if shown_if else "",
        "shown_if_values": "|".join(shown_if[1]) if shown_if else "",
    }


def _kind(bound: BoundField) -> str:
    widget = bound.field.widget
    if isinstance(widget, forms.CheckboxInput):
        return "checkbox"
    if isinstance(widget, (forms.RadioSelect, forms.CheckboxSelectMultiple)):
        return "radio"
    return "select" if isinstance(widget, forms.Select) else "input"


def _control(bound: BoundField, kind: str, style: str) -> SafeString | str:
    if kind == "radio":
        return ""
    classes = {"checkbox": "form-check-input", "select": "form-select"}.get(kind, "form-control")
    own = str(bound.field.widget.attrs.get("class", ""))
    invalid = "is-invalid" if bound.errors else ""
    attributes: dict[str, str | bool] = {"class": " ".join(filter(None, [classes, own, invalid]))}
    if isinstance(bound.field, (forms.IntegerField, forms.FloatField, forms.DecimalField)) and kind == "input":
        attributes["inputmode"] = "numeric" if type(bound.field) is forms.IntegerField else "decimal"
    if style == "switch":
        attributes["role"] = "switch"
    return bound.as_widget(attrs=attributes)


def _range_text(bound: BoundField) -> str:
    lowest, highest = getattr(bound.field, "min_value", None), getattr(bound.field, "max_value", None)
    if lowest is not None and highest is not None:
        return _("%(lowest)s to %(highest)s") % {"lowest": _plain(lowest), "highest": _plain(highest)}
    if lowest is not None:
        return _("at least %(lowest)s") % {"lowest": _plain(lowest)}
    return _("at most %(highest)s") % {"highest": _plain(highest)} if highest is not None else ""


def _plain(number: float) -> str:
    return numbers.thousands(number) if float(number).is_integer() else numbers.significant(number, 3).rstrip("0")


def _choices(bound: BoundField, descriptions: Mapping[str, str]) -> list[dict[str, Any]]:
    chosen = bound.value()
    selected = {str(one) for one in chosen} if isinstance(chosen, (list, tuple)) else {str(chosen)}
    return [
        {
            "value": value,
            "label": label,
            "description": descriptions.get(str(value), ""),
            "checked": str(value) in selected,
            "id": f"{bound.auto_id}_{index}",
        }
        for index, (value, label) in enumerate(bound.field.choices)  # type: ignore[attr-defined]
    ]


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
