"""The forms of sources elsewhere: one for each kind, made of what the kind's entries say."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from django import forms
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from datasets_app.forms import DatasetForm
from datasets_app.remote.spec import ENTRIES, SECRET_KINDS, Entry, read_source
from portal.errors import InvalidInput
from portal.models import Team

# What people call the kinds, with an icon; the order is that of the page.
KIND_NAMES: dict[str, tuple[str | Promise, str]] = {
    "s3": (_("S3 bucket"), "database"),
    "azure": (_("Azure"), "database"),
    "url": (_("Address"), "world"),
    "huggingface": (_("Hugging Face"), "stack-2"),
    "kaggle": (_("Kaggle"), "table"),
}


class SourceForm(forms.Form):
    """Where the files of a version lie; a new dataset gets its name here, too."""

    def __init__(self, *args: Any, kind: str, team: Team, is_new: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.kind = kind
        if is_new:
            self.fields["name"] = deepcopy(DatasetForm.base_fields["name"])
        for name, entry in ENTRIES[kind].items():
            self.fields[self.field_of(name)] = self._secret(team) if name == "secret" else _text(entry)
        if is_new:
            self.fields["description"] = deepcopy(DatasetForm.base_fields["description"])

    @staticmethod
    def field_of(entry: str) -> str:
        """Return the field that holds an entry of the source."""
        return f"source_{entry}"

    def _secret(self, team: Team) -> forms.Field:
        names = team.teamsecrets.filter(kind=SECRET_KINDS[self.kind]).values_list("name", flat=True)
        return forms.ChoiceField(
            label=_("Secret"),
            choices=[("", _("none: public")), *((name, name) for name in names)],
            required=False,
            help_text=_("A credential that an admin of the team has stored under Secrets."),
        )

    @property
    def entries(self) -> list[forms.BoundField]:
        """The fields of the source itself."""
        return [self[self.field_of(name)] for name in ENTRIES[self.kind]]

    def clean(self) -> dict[str, Any]:
        """Let the source's own rules speak at the field that they are about."""
        cleaned = super().clean() or self.cleaned_data
        if not self.errors:
            try:
                read_source(self.source())
            except InvalidInput as error:
                self.add_refusal(error.param, error.message)
        return cleaned

    def add_refusal(self, param: str | None, message: str) -> None:
        """Show a refusal at the field that can repair it."""
        name = (param or "").replace("source.", "source_")
        self.add_error(name if name in self.fields else None, message)

    def source(self) -> dict[str, str]:
        """Return the source as it stands in the form."""
        given = self.cleaned_data
        return {"kind": self.kind, **{name: given.get(self.field_of(name)) or "" for name in ENTRIES[self.kind]}}


def _text(entry: Entry) -> forms.Field:
    return forms.CharField(
        label=entry.label,
        required=entry.required,
        max_length=4096,
        initial=entry.default,
        help_text=entry.hint,
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )
