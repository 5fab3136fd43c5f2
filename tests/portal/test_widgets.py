"""Widgets that are written without templates are those of Django, to the letter but for blanks."""

from __future__ import annotations

import re

import pytest
from django import forms
from django.forms.renderers import Jinja2
from django.utils.safestring import mark_safe
from django.utils.translation import gettext_lazy

from portal.widgets import PlainWidgets

CHOICES = [("", "None"), ("a<", "<A> & Co"), (2, gettext_lazy("Two")), ("Group", [("c", 'C "c"'), ("d", "D")])]
ATTRIBUTES = {"id": 'x"y', "class": "form-control", "required": True, "disabled": False, "min": 0.5}
WIDGETS = [
    (forms.TextInput(), 'a "quoted" <b>'), (forms.TextInput(), None), (forms.TextInput(), mark_safe("<i>")),
    (forms.NumberInput(attrs={"step": "any"}), 0), (forms.EmailInput(), "a@b"), (forms.PasswordInput(), "secret"),
    (forms.HiddenInput(), "7"), (forms.CheckboxInput(), True), (forms.CheckboxInput(), False),
    (forms.FileInput(), None), (forms.Textarea(), "one\n</textarea>"), (forms.Textarea(), None),
    (forms.Select(choices=CHOICES), "a<"), (forms.Select(choices=CHOICES), "d"),
    (forms.SelectMultiple(choices=CHOICES), ["c", "d"]), (forms.RadioSelect(choices=CHOICES[:3]), "2"),
]  # fmt: skip


def drawn(widget: forms.Widget, value: object, renderer: Jinja2) -> str:
    """Draw a widget without blanks between its tags; quotes may be escaped by name or by number."""
    markup = widget.render("na&me", value, attrs=ATTRIBUTES, renderer=renderer)
    return re.sub(r"\s*\n\s*", "", markup).replace("&#34;", "&quot;").replace("&#39;", "&#x27;")


@pytest.mark.parametrize(("widget", "value"), WIDGETS)
def test_a_widget_is_drawn_as_django_draws_it(widget, value):
    assert drawn(widget, value, PlainWidgets()) == drawn(widget, value, Jinja2())


def test_a_textarea_keeps_a_line_break_at_its_beginning():
    markup = forms.Textarea().render("a", "\nsecond line", renderer=PlainWidgets())
    assert markup.endswith(">\n\nsecond line</textarea>")
