"""Draws Django's plain form widgets without templates: a page of fifty fields spends most of its time in those.

What a widget is made of (attributes, choices, values) is Django's own; only the last step is ours. Widgets with
another template, and sub-widgets, are left to Django.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping
from typing import Any

from django.forms.renderers import Jinja2

_FOLDER = "django/forms/widgets/"
_INPUTS = ("text", "number", "email", "url", "password", "hidden", "checkbox", "file")


class PlainWidgets(Jinja2):
    """Django's renderer, with the plain widgets written here; the result is the same up to blanks."""

    def render(self, template_name: str, context: dict[str, Any], request: Any = None) -> str:
        write = _WRITERS.get(template_name)
        return write(context["widget"]) if write else super().render(template_name, context, request)


def escape(value: object) -> str:
    """Return a value as text of a page; what is marked as safe stays as it is."""
    return str(value) if hasattr(value, "__html__") else html.escape(str(value))


def _attributes(widget: Mapping[str, Any]) -> str:
    return "".join(
        f" {escape(name)}" if value is True else f' {escape(name)}="{escape(value)}"'
        for name, value in widget["attrs"].items()
        if value is not False
    )


def _input(widget: Mapping[str, Any]) -> str:
    value = "" if widget["value"] is None else f' value="{escape(widget["value"])}"'
    return f'<input type="{escape(widget["type"])}" name="{escape(widget["name"])}"{value}{_attributes(widget)}>'


def _textarea(widget: Mapping[str, Any]) -> str:
    value = widget["value"] or ""
    # A line break right after the tag is not part of the text.
    return f'<textarea name="{escape(widget["name"])}"{_attributes(widget)}>\n{escape(value)}</textarea>'


def _select(widget: Mapping[str, Any]) -> str:
    parts = [f'<select name="{escape(widget["name"])}"{_attributes(widget)}>']
    for name, choices, _index in widget["optgroups"]:
        options = "".join(map(_option, choices))
        parts.append(f'<optgroup label="{escape(name)}">{options}</optgroup>' if name else options)
    return "".join((*parts, "</select>"))


def _option(choice: Mapping[str, Any]) -> str:
    return f'<option value="{escape(choice["value"])}"{_attributes(choice)}>{escape(choice["label"])}</option>'


_WRITERS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    **{f"{_FOLDER}{kind}.html": _input for kind in _INPUTS},
    f"{_FOLDER}textarea.html": _textarea,
    f"{_FOLDER}select.html": _select,
}
