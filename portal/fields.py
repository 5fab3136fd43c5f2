"""Form fields as pages show them: drawn by one template, any number of them in one pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django import forms
from django.forms import BoundField
from django.forms.renderers import get_default_renderer
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext as _

from portal.display import numbers

# In the engine that draws the widgets too (settings.FORM_RENDERER): Django's own templates take ten times as long.
_TEMPLATE = "components/fields.html"


@dataclass(frozen=True)
class DrawnChoice:
    """One choice of a group of radio buttons or check boxes."""

    id: str
    value: Any
    label: Any
    description: str
    checked: bool


@dataclass(frozen=True)
class DrawnField:
    """A field with everything that its template shows. `kind`: input, select, checkbox, switch, radio or cards."""

    kind: str
    is_hidden: bool
    id: str
    auto_id: str
    name: str
    label: Any
    help: Any
    errors: Sequence[object]
    control: SafeString | str
    unit: str
    range_text: str
    is_required: bool
    described_by: str
    choice_type: str
    choices: Sequence[DrawnChoice]
    shown_if_name: str
    shown_if_values: str


def draw(
    fields: Iterable[BoundField],
    *,
    error_icon: SafeString,
    unit: str = "",
    style: str = "",
    descriptions: Mapping[str, str] | None = None,
) -> SafeString:
    """Return the fields with label, control, unit, range, help and errors. The options hold for all of them."""
    drawn = [_drawn(bound, unit, style, descriptions or {}) for bound in fields]
    if not drawn:
        return SafeString()
    context = {"fields": drawn, "optional": _("optional"), "error_icon": error_icon}
    # The template escapes what it is given.
    return mark_safe(get_default_renderer().render(_TEMPLATE, context))  # noqa: S308


def _drawn(bound: BoundField, unit: str, style: str, descriptions: Mapping[str, str]) -> DrawnField:
    field, widget = bound.field, bound.field.widget
    kind, errors, auto_id = _kind(widget), bound.errors, bound.auto_id
    depends = getattr(field, "shown_if", None)
    return DrawnField(
        kind=style or kind,
        is_hidden=widget.is_hidden,
        id=widget.id_for_label(widget.attrs.get("id") or auto_id),
        auto_id=auto_id,
        name=bound.html_name,
        label=bound.label,
        help=bound.help_text,
        errors=list(errors),
        control=_control(bound, kind, style, is_invalid=bool(errors)),
        unit=unit or getattr(field, "unit", ""),
        range_text=_range_text(field),
        is_required=field.required,
        described_by=(bound.aria_describedby or "") if kind == "radio" else "",
        choice_type="checkbox" if isinstance(widget, forms.CheckboxSelectMultiple) else "radio",
        choices=_choices(bound, auto_id, descriptions) if kind == "radio" else (),
        shown_if_name=bound.form.add_prefix(depends[0]) if depends else "",
        shown_if_values="|".join(depends[1]) if depends else "",
    )


def _kind(widget: forms.Widget) -> str:
    if isinstance(widget, forms.CheckboxInput):
        return "checkbox"
    if isinstance(widget, (forms.RadioSelect, forms.CheckboxSelectMultiple)):
        return "radio"
    return "select" if isinstance(widget, forms.Select) else "input"


def _control(bound: BoundField, kind: str, style: str, *, is_invalid: bool) -> SafeString | str:
    field = bound.field
    if field.widget.is_hidden:
        return bound.as_widget()
    if kind == "radio":
        return ""
    classes = {"checkbox": "form-check-input", "select": "form-select"}.get(kind, "form-control")
    own = str(field.widget.attrs.get("class", ""))
    attributes: dict[str, str | bool] = {
        "class": " ".join(filter(None, [classes, own, "is-invalid" if is_invalid else ""]))
    }
    if kind == "input" and isinstance(field, (forms.IntegerField, forms.FloatField, forms.DecimalField)):
        attributes["inputmode"] = "numeric" if type(field) is forms.IntegerField else "decimal"
    if style == "switch":
        attributes["role"] = "switch"
    return bound.as_widget(attrs=attributes)


def _range_text(field: forms.Field) -> str:
    lowest, highest = getattr(field, "min_value", None), getattr(field, "max_value", None)
    if lowest is not None and highest is not None:
        return _("%(lowest)s to %(highest)s") % {"lowest": _plain(lowest), "highest": _plain(highest)}
    if lowest is not None:
        return _("at least %(lowest)s") % {"lowest": _plain(lowest)}
    return _("at most %(highest)s") % {"highest": _plain(highest)} if highest is not None else ""


def _plain(number: float) -> str:
    return numbers.thousands(number) if float(number).is_integer() else numbers.significant(number, 3).rstrip("0")


def _choices(bound: BoundField, auto_id: str, descriptions: Mapping[str, str]) -> list[DrawnChoice]:
    chosen = bound.value()
    selected = {str(one) for one in chosen} if isinstance(chosen, (list, tuple)) else {str(chosen)}
    return [
        DrawnChoice(f"{auto_id}_{index}", value, label, descriptions.get(str(value), ""), str(value) in selected)
        for index, (value, label) in enumerate(bound.field.choices)  # type: ignore[attr-defined]
    ]
