"""The form with which people edit a schema: a row of controls for each field of the answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from django import forms
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from datasets_app.doctor.schema import FORMATS, TYPE_ORDER
from datasets_app.fields import label_of, value_of

TYPES: Final = [
    ("string", gettext_lazy("text")),
    ("integer", gettext_lazy("whole number")),
    ("number", gettext_lazy("number")),
    ("boolean", gettext_lazy("yes or no")),
    ("object", gettext_lazy("object")),
    ("array", gettext_lazy("list")),
]
ANY: Final = [("", gettext_lazy("any"))]


class FieldForm(forms.Form):
    """One field of the answers; what it says is not about (nested fields, say) is kept as it was."""

    name = forms.CharField(label=gettext_lazy("Name"), max_length=200)
    order = forms.IntegerField(label=gettext_lazy("Place"), min_value=1, max_value=999, required=False)
    type = forms.ChoiceField(label=gettext_lazy("Type"), choices=[*ANY, *TYPES], required=False)
    format = forms.ChoiceField(
        label=gettext_lazy("Written as"), choices=[*ANY, *((name, name) for name in FORMATS)], required=False
    )
    values = forms.CharField(
        label=gettext_lazy("Closed set of values"),
        help_text=gettext_lazy("One in each line; empty if anything may stand there."),
        required=False,
        widget=forms.Textarea(attrs={"rows": 5, "spellcheck": "false"}),
    )
    description = forms.CharField(label=gettext_lazy("Meaning"), max_length=1000, required=False)
    required = forms.BooleanField(label=gettext_lazy("Always there"), required=False)
    nullable = forms.BooleanField(label=gettext_lazy("May be null"), required=False)
    remove = forms.BooleanField(label=gettext_lazy("Take the field out of the schema"), required=False)

    def __init__(self, *args: Any, before: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.before = dict(before or {})

    def clean(self) -> dict[str, Any]:
        """Refuse values that are not of the field's type."""
        given = super().clean() or {}
        kind, labels = given.get("type"), self._labels()
        if labels and kind in ("object", "array"):
            self.add_error("values", _("A list or an object has no closed set of values."))
        return given

    def _labels(self) -> list[str]:
        lines = self.cleaned_data.get("values", "").splitlines()
        return list(dict.fromkeys(line.strip() for line in lines if line.strip()))

    def schema(self) -> dict[str, Any]:
        """Return what the form says about the field, as JSON Schema."""
        given = self.cleaned_data
        schema = {name: one for name, one in self.before.items() if name not in FORM_WORDS}
        kinds = [given["type"]] if given["type"] else []
        if kinds:
            if given["nullable"]:
                kinds.append("null")
            schema["type"] = kinds[0] if len(kinds) == 1 else kinds
        elif "type" in self.before:
            schema["type"] = _with_null(self.before["type"], nullable=given["nullable"])
        if given["format"]:
            schema["format"] = given["format"]
        if labels := self._labels():
            values = [_of_type(label, given["type"]) for label in labels]
            schema["enum"] = [*values, None] if given["nullable"] and None not in values else values
        if given["description"]:
            schema["description"] = given["description"]
        return schema


FORM_WORDS: Final = ("type", "format", "enum", "description")


def _with_null(types: object, *, nullable: bool) -> list[str]:
    """Return several types as they were, with or without null."""
    known = [types] if isinstance(types, str) else [str(one) for one in types]  # type: ignore[attr-defined]
    kept = [one for one in known if one != "null"]
    return [*kept, "null"] if nullable else kept


def _of_type(label: str, kind: str) -> object:
    """Return the value that a line names; in a field of texts a line is the text itself."""
    return label if kind == "string" and not label.startswith('"') else value_of(label)


def initial_of(name: str, place: int, schema: Mapping[str, Any], *, required: bool) -> dict[str, Any]:
    """Return what the form of a field shows at first."""
    types = schema.get("type", [])
    types = [types] if isinstance(types, str) else list(types)
    kinds = [one for one in TYPE_ORDER if one in types and one != "null"]
    return {
        "name": name,
        "order": place,
        "type": kinds[0] if len(kinds) == 1 else "",
        "format": schema.get("format", ""),
        "values": "\n".join(label_of(value) for value in schema.get("enum", ()) if value is not None),
        "description": schema.get("description", ""),
        "required": required,
        "nullable": "null" in types,
    }


def field_forms(schema: Mapping[str, Any], posted: Any = None) -> list[FieldForm]:
    """Return a form for each field of a schema, and an empty one for a new field."""
    forms_: list[FieldForm] = []
    required = schema.get("required", ())
    for place, (name, one) in enumerate(schema.get("properties", {}).items(), start=1):
        initial = initial_of(name, place, one, required=name in required)
        forms_.append(FieldForm(posted, prefix=f"f{place}", initial=initial, before=one))
    extra = FieldForm(
        posted, prefix="new", initial={"type": "string"}, empty_permitted=True, use_required_attribute=False
    )
    extra.fields["name"].required = False
    return [*forms_, extra]


def schema_of(schema: Mapping[str, Any], filled: Iterable[FieldForm]) -> dict[str, Any]:
    """Return the schema that valid forms describe; what they do not show stays as it was."""
    kept = [form for form in filled if form.cleaned_data.get("name") and not form.cleaned_data.get("remove")]
    kept.sort(key=lambda form: form.cleaned_data.get("order") or 1_000)
    return {
        **schema,
        "properties": {form.cleaned_data["name"]: form.schema() for form in kept},
        "required": [form.cleaned_data["name"] for form in kept if form.cleaned_data["required"]],
    }
