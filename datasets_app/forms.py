"""The forms of an import: choose files, then say what the columns mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from django import forms
from django.db.models import QuerySet
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from datasets_app import arrivals
from datasets_app.mapping import Mapping as ColumnMapping
from datasets_app.mapping import MappingError, suggest_template
from datasets_app.models import ResumableUpload, SourceFile, Split
from datasets_app.options import ImportOptions
from datasets_app.preview import models_to_choose
from datasets_app.readers import ENCODINGS
from datasets_app.sources import Reading, Upload, likely_encoding
from datasets_app.split_fields import SPLIT_FIELDS, SplitFields, initial_of_split
from portal.errors import InvalidInput
from portal.models import BaseModel

ENCODING_NAMES = {
    "utf-8": "UTF-8",
    "utf-16": "UTF-16",
    "utf-16-le": _("UTF-16, little-endian"),
    "utf-16-be": _("UTF-16, big-endian"),
    "cp1251": _("Windows-1251 (Cyrillic)"),
    "cp1252": _("Windows-1252 (Western European)"),
    "koi8-r": _("KOI8-R (Cyrillic)"),
    "cp866": _("CP866 (Cyrillic, DOS)"),
    "iso8859-1": _("ISO 8859-1 (Western European)"),
    "iso8859-5": _("ISO 8859-5 (Cyrillic)"),
}
DELIMITERS = ((",", _("Comma")), (";", _("Semicolon")), ("\t", _("Tab")), ("|", _("Vertical bar")))
# Which field of the form shows what a mapping error is about.
FIELD_OF_CODE = {
    "prompt_unset": "prompt",
    "response_unset": "response",
    "same_column": "response",
    "template_placeholder": "template",
    "template_brace": "template",
    "template_no_column": "template",
    "template_mentions_answer": "template",
    "split_is_text": "split",
    "rejected_is_text": "rejected",
    "text_and_columns": "text",
}
COLUMN_FIELDS = ("prompt", "response", "rejected", "text", "messages", "system", "group", "at", "split")
# Which fields belong to which shape of a row.
SHAPES_OF_FIELD = {
    "prompt": ("columns",),
    "template": ("template",),
    "response": ("columns", "template"),
    "system": ("columns", "template"),
    "messages": ("messages",),
    "text": ("text",),
    "rejected": ("columns", "template", "messages"),
    "json_answers": ("columns", "template", "messages"),
    "system_prompt": ("columns", "template", "messages"),
}


class FilesForm(forms.Form):
    """The files of a new version: training is a must, validation and test may be divided off later."""

    train_file = forms.FileField(label=_("Training file"), allow_empty_file=True)
    validation_file = forms.FileField(
        label=_("Validation file"),
        required=False,
        allow_empty_file=True,
        help_text=_("Watched during training, never learned from."),
    )
    test_file = forms.FileField(
        label=_("Test file"),
        required=False,
        allow_empty_file=True,
        help_text=_("Kept apart for the final quality figures."),
    )

    # Files that came in parts already, by the ids of their uploads; a browser without scripts sends none.
    train_upload = forms.UUIDField(required=False, widget=forms.HiddenInput)
    validation_upload = forms.UUIDField(required=False, widget=forms.HiddenInput)
    test_upload = forms.UUIDField(required=False, widget=forms.HiddenInput)

    def __init__(self, *args: Any, own: QuerySet[ResumableUpload], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._own = own
        # What came in parts need not come again.
        self.fields["train_file"].required = not self.data.get("train_upload")

    def clean(self) -> dict[str, Any]:
        """Find the uploads whose ids were sent."""
        cleaned = super().clean() or self.cleaned_data
        for split in Split:
            name = f"{split.value}_upload"
            if not cleaned.get(name):
                continue
            try:
                cleaned[f"{split.value}_file"] = arrivals.complete(self._own, cleaned[name], param=name)
            except InvalidInput as error:
                self.add_error(f"{split.value}_file", error.message)
        return cleaned

    def files_by_split(self) -> dict[Split, Upload]:
        """Return the files, those that came with the form and those that came in parts before."""
        found = {split: self.cleaned_data[f"{split.value}_file"] for split in Split}
        return {split: content for split, content in found.items() if content is not None}

    def arrived(self) -> dict[str, ResumableUpload]:
        """Return the complete uploads that the form names, by the names of their file fields, to show them again."""
        shown = {}
        for split in Split:
            try:
                pk = UUID(str(self.data.get(f"{split.value}_upload")))
            except ValueError:
                continue
            upload = self._own.exclude(sha256="").filter(pk=pk).first()
            if upload is not None:
                shown[f"{split.value}_file"] = upload
        return shown


class DatasetForm(FilesForm):
    """A new dataset with the files of its first version."""

    name = forms.CharField(label=_("Name"), max_length=120, help_text=_("For example “Support tickets 2026”."))
    description = forms.CharField(
        label=_("Description"),
        max_length=2000,
        required=False,
        widget=forms.Textarea(attrs={"rows": 2}),
        help_text=_("Where the rows come from and who labelled them."),
    )
    field_order = ("name", "train_file", "validation_file", "test_file", "description")


class ColumnField(forms.ChoiceField):
    """A choice among the columns; whether it may stay open depends on other fields, so the form decides."""

    def validate(self, value: object) -> None:
        """Refuse what is no column, but not an open choice."""
        if value:
            super().validate(value)


class ColumnsText(forms.CharField):
    """A text with columns in braces; line ends are those of the training text, not of a browser."""

    def to_python(self, value: object) -> str:
        """Return the text with plain line ends."""
        return (super().to_python(value) or "").replace("\r\n", "\n")


class MappingForm(SplitFields):
    """What the columns mean, how the files are read, and what is kept apart.

    Each source has fields of its own, `encoding_<split>` and `delimiter_<split>`.
    """

    shape = forms.ChoiceField(
        label=_("One row of the file holds"),
        choices=(
            ("columns", _("A question and its answer")),
            ("template", _("Several columns that make the question")),
            ("messages", _("A whole conversation")),
            ("text", _("A text without an answer")),
        ),
        widget=forms.RadioSelect,
    )
    prompt = ColumnField(label=_("Prompt column"))
    response = ColumnField(label=_("Answer column"))
    messages = ColumnField(
        label=_("Messages column"),
        help_text=_("A list of objects with “role” and “content”, the assistant's answer last."),
    )
    text = ColumnField(
        label=_("Text column"), help_text=_("Documents for learning a language or a field; nothing is answered.")
    )
    rejected = forms.ChoiceField(
        label=_("Worse answer column"),
        required=False,
        help_text=_("For preferences only: an answer to the same prompt that people like less."),
    )
    system = forms.ChoiceField(label=_("System column"), required=False)
    system_prompt = forms.CharField(
        label=_("System prompt for all rows"),
        required=False,
        max_length=20_000,
        widget=forms.Textarea(attrs={"rows": 2}),
        help_text=_("Used where no column gives one. Calls to the finished model should send the same text."),
    )
    template = ColumnsText(
        label=_("Prompt template"),
        required=False,
        max_length=20_000,
        strip=False,
        widget=forms.Textarea(attrs={"rows": 5, "class": "mono", "spellcheck": "false"}),
    )
    json_answers = forms.BooleanField(
        label=_("Answers are JSON"), required=False, help_text=_("A row whose answer is not a JSON object is a fault.")
    )
    split = forms.ChoiceField(
        label=_("Split column"),
        required=False,
        help_text=_("Its cells say train, validation (valid, dev) or test."),
    )
    group = forms.ChoiceField(
        label=_("Thread column"),
        required=False,
        help_text=_("Rows of one thread or customer stay together in one split."),
    )
    at = forms.ChoiceField(
        label=_("Date column"),
        required=False,
        help_text=_("Lets you keep the newest rows apart for the test."),
    )
    skip_faulty = forms.BooleanField(
        label=_("Leave out faulty rows"),
        required=False,
        help_text=_("Otherwise one faulty row stops the import, and the report names it."),
    )
    use_required_attribute = False

    def __init__(self, *args: Any, sources: Sequence[SourceFile], columns: Sequence[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sources, self.columns = list(sources), list(columns)
        named = [(column, column) for column in columns]
        for name in COLUMN_FIELDS:
            unset = _("choose a column") if name in ("prompt", "response", "messages", "text") else _("none")
            self._choices(name, [("", unset), *named])
        for name, shapes in SHAPES_OF_FIELD.items():
            self.fields[name].shown_if = ("shape", shapes)  # type: ignore[attr-defined]
        self._add_preview()
        for name in ("validation_percent", "test_percent"):
            self.fields[name].unit = "%"  # type: ignore[attr-defined]
        self.fields["template"].help_text = self._template_help()
        if len(self.sources) > 1:
            for name in ("split", *SPLIT_FIELDS):
                del self.fields[name]
        for source in self.sources:
            self._add_reading(source)

    def _template_help(self) -> str:
        example = " ".join(f"{{{column}}}" for column in self.columns[:2])
        return gettext(
            "Column names in braces, for example: %(example)s. Everything else stands in every prompt as written."
        ) % {"example": example}

    @property
    def insertable_columns(self) -> list[str]:
        """The columns that a template can name: a brace in a name would end the placeholder."""
        return [column for column in self.columns if not set("{}") & set(column)]

    def _add_preview(self) -> None:
        """Let people choose whose tokens and which file's rows the preview shows; nothing of it is stored."""
        models = [(model.slug, model.name) for model in models_to_choose()]
        if models:
            self.fields["preview_model"] = forms.ChoiceField(
                label=_("Base model"), choices=models, required=False, initial=models[0][0]
            )
        if len(self.sources) > 1:
            files = [(source.split, source.get_split_display()) for source in self.sources]
            self.fields["preview_file"] = forms.ChoiceField(label=_("File"), choices=files, required=False)

    def previewed(self) -> SourceFile:
        """Return the file whose rows are to be shown."""
        asked = self.cleaned_data.get("preview_file") if self.is_bound else None
        return next((source for source in self.sources if source.split == asked), self.sources[0])

    def previewed_model(self) -> BaseModel | None:
        """Return the base model whose tokens are to be shown; None stands for the smallest."""
        slug = self.cleaned_data.get("preview_model") if self.is_bound else None
        return BaseModel.objects.filter(slug=slug, is_allowed=True).first() if slug else None

    def _choices(self, name: str, choices: list[tuple[str, Any]]) -> None:
        self.fields[name].choices = choices  # type: ignore[attr-defined]

    def _add_reading(self, source: SourceFile) -> None:
        if len(source.parts) > 1:
            label = _("Sheet") if source.container == "xlsx" else _("File inside")
            self.fields[f"part_{source.split}"] = forms.ChoiceField(
                label=label, choices=[(part, part) for part in source.parts], initial=source.part
            )
        if source.counts_rows:
            return
        names = [(encoding, ENCODING_NAMES[encoding]) for encoding in ENCODINGS]
        self.fields[f"encoding_{source.split}"] = forms.ChoiceField(
            label=_("Encoding"), choices=names, initial=likely_encoding(source)
        )
        if source.kind != "jsonl":
            self.fields[f"delimiter_{source.split}"] = forms.ChoiceField(
                label=_("Delimiter"), choices=DELIMITERS, initial=source.delimiter or ","
            )

    def clean(self) -> dict[str, Any]:
        """Point mapping errors at the field that can repair them."""
        cleaned = super().clean() or self.cleaned_data
        name, problem = self.mapping_problem()
        if problem and name not in self.errors:
            self.add_error(name, problem)
        return cleaned

    def mapping_problem(self) -> tuple[str | None, str]:
        """Return what is wrong with the mapping and the field that can repair it; (None, "") if nothing is."""
        shape = self.cleaned_data.get("shape")
        if shape == "text" and not self.cleaned_data.get("text"):
            return "text", gettext("Choose the column that holds the texts.")
        if shape == "messages" and not self.cleaned_data.get("messages"):
            return "messages", gettext("Choose the column that holds the messages.")
        if shape == "template" and not (self.cleaned_data.get("template") or "").strip():
            return "template", gettext("Write the prompt with the columns in braces.")
        try:
            self.mapping().validate(self.columns)
        except MappingError as error:
            return FIELD_OF_CODE.get(error.code), error.sentence(gettext)
        return None, ""

    def mapping(self) -> ColumnMapping:
        """Return the mapping as it stands, complete or not."""
        given = self.cleaned_data
        system_prompt = (given.get("system_prompt") or "").strip()
        json_answers = bool(given.get("json_answers"))
        beside: dict[str, Any] = {name: given.get(name) or None for name in ("group", "at", "split")}
        if given.get("shape") == "text":
            return ColumnMapping(text=given.get("text") or None, **beside)
        beside["rejected"] = given.get("rejected") or None
        if given.get("shape") == "messages":
            chosen = given.get("messages") or None
            return ColumnMapping(messages=chosen, system_prompt=system_prompt, json_answers=json_answers, **beside)
        from_template = given.get("shape") == "template"
        return ColumnMapping(
            prompt=None if from_template else given.get("prompt") or None,
            response=given.get("response") or None,
            system=given.get("system") or None,
            system_prompt=system_prompt,
            template=given.get("template") or "" if from_template else "",
            json_answers=json_answers,
            **beside,
        )

    def options(self) -> ImportOptions:
        """Return the options of the import. Call on a valid form."""
        return ImportOptions(skip_faulty=self.cleaned_data["skip_faulty"], **self.split_options())

    def readings(self) -> dict[Split, Reading]:
        """Return how each file is to be read."""
        return {Split(source.split): self.reading(source) for source in self.sources}

    def reading(self, source: SourceFile) -> Reading:
        """Return how one file is to be read, as far as the form says so."""
        given = self.cleaned_data
        encoding = given.get(f"encoding_{source.split}") or likely_encoding(source)
        delimiter, part = given.get(f"delimiter_{source.split}"), given.get(f"part_{source.split}")
        return Reading(encoding, delimiter or "", part or "")


def initial_of(mapping: ColumnMapping, options: ImportOptions, columns: Sequence[str] = ()) -> dict[str, Any]:
    """Return what a mapping form shows first."""
    shape = "messages" if mapping.messages else "template" if mapping.template else "columns"
    shape = "text" if mapping.text else shape
    return {
        **mapping.to_dict(),
        "shape": shape,
        "template": mapping.template or suggest_template(columns, mapping),
        "skip_faulty": options.skip_faulty,
        **initial_of_split(options),
    }
