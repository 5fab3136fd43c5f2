"""The form of a new run: made from the one declaration of the hyperparameters."""

from __future__ import annotations

import uuid
from typing import Any

from django import forms
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from pydantic import ValidationError

from datasets_app.models import DatasetVersion
from experiments.continuing import required_settings
from experiments.hyperparameter_words import fields_in_words, refusal_words, value_words
from experiments.hyperparameters import PROBLEM_TYPES, FieldInfo, Hyperparameters, form_fields, from_yaml
from experiments.models import Experiment, Run, Sweep
from experiments.problem_proposal import propose_problem
from experiments.recipes import RECIPES, Advice, Situation, advise
from experiments.situations import situation_of
from experiments.sweep_plan import MOST_RUNS, BadSweep, read_values
from experiments.sweeps import Choice
from portal.errors import InvalidInput
from portal.forms import TeamForm
from portal.models import BaseModel, Team

_PREFIX = "hp_"


class RunForm(TeamForm):
    """What to learn from, which model, and how. An empty hyperparameter means: as the recipe says."""

    name = forms.CharField(
        label=gettext_lazy("Name"),
        max_length=120,
        help_text=gettext_lazy("The question you ask, for example “Do more examples help?”."),
    )
    dataset_version = forms.ModelChoiceField(
        label=gettext_lazy("Dataset"),
        queryset=DatasetVersion.unscoped.none(),
        empty_label=None,
        help_text=gettext_lazy("The version is frozen with the run, so it can be repeated later."),
    )
    base_model = forms.ModelChoiceField(
        label=gettext_lazy("Base model"),
        queryset=BaseModel.objects.none(),
        to_field_name="slug",
        empty_label=None,
        help_text=gettext_lazy("The model that gets an adapter. The model itself is not changed."),
    )
    recipe = forms.ChoiceField(
        label=gettext_lazy("Recipe"),
        choices=[(recipe.name, gettext_lazy(recipe.label)) for recipe in RECIPES.values()],
        widget=forms.RadioSelect,
        initial="balanced",
    )
    deploy_as = forms.SlugField(
        label=gettext_lazy("Deploy when finished as"),
        max_length=60,
        required=False,
        help_text=gettext_lazy("Your systems call the model by this name as soon as the run has succeeded."),
    )
    notes = forms.CharField(
        label=gettext_lazy("Notes"), max_length=4000, required=False, widget=forms.Textarea(attrs={"rows": 2})
    )
    continue_from = forms.ModelChoiceField(
        queryset=Run.unscoped.none(), required=False, widget=forms.HiddenInput, label=gettext_lazy("Continue from")
    )
    continue_step = forms.IntegerField(
        required=False, min_value=0, max_value=2**31 - 1, widget=forms.HiddenInput, label=gettext_lazy("At step")
    )
    yaml = forms.FileField(
        label=gettext_lazy("Hyperparameters from a file"),
        required=False,
        help_text=gettext_lazy("A YAML file saved from another run. It replaces recipe and fields."),
    )

    sweep_values = forms.CharField(
        label=gettext_lazy("Values to try"),
        required=False,
        max_length=4000,
        widget=forms.Textarea(attrs={"rows": 3, "placeholder": "learning_rate: 0.0005, 0.001, 0.002\nlora_r: 8, 16"}),
        help_text=gettext_lazy(
            "One hyperparameter a line, by its name in the YAML file. For draws by chance a range is enough, as 4..64."
            " Empty: one run."
        ),
    )
    sweep_method = forms.ChoiceField(label=gettext_lazy("Runs"), choices=Sweep.Method.choices, required=False)
    sweep_runs = forms.IntegerField(
        label=gettext_lazy("Number of draws"), min_value=2, max_value=MOST_RUNS, required=False, initial=8
    )
    sweep_rule = forms.ChoiceField(
        label=gettext_lazy("Stop early"),
        choices=Sweep.Rule.choices,
        initial=Sweep.Rule.MEDIAN,
        required=False,
        help_text=gettext_lazy(
            "By the validation loss. The worse half (successive halving): 8 runs are judged at 1/8, 1/4 and 1/2 of "
            "their way, and each time about half of them end."
        ),
    )

    def __init__(self, *args: Any, team: Team, experiment: Experiment | None = None, **kwargs: Any) -> None:
        super().__init__(*args, team=team, **kwargs)
        # Reports and changes hold rows by the thousand; a list to choose from needs none.
        versions = team.datasetversions.filter(status=DatasetVersion.Status.READY).defer("report", "changes")
        self.fields["dataset_version"].queryset = versions.select_related("dataset").order_by(  # type: ignore[attr-defined]
            "dataset__name", "-number"
        )
        self.fields["base_model"].queryset = BaseModel.objects.filter(is_allowed=True)  # type: ignore[attr-defined]
        self.fields["continue_from"].queryset = team.runs.filter(adapter__isnull=False).select_related(  # type: ignore[attr-defined]
            "adapter", "base_model", "experiment"
        )
        if experiment is not None:
            del self.fields["name"], self.fields["notes"]
        self.advice, self._suggested = self._suggest()
        for info in fields_in_words():
            self.fields[_PREFIX + info.name] = _form_field(info, self._suggested)
        # recipes depend on the kind of problem, so what they say is asked for again
        self.fields[_PREFIX + "problem_type"].widget.attrs |= {
            "hx-get": reverse("experiments:hyperparameters", args=[team.slug]),
            "hx-trigger": "change",
            "hx-include": "#run-form",
            "hx-target": "#hyperparameters",
        }

    def _suggest(self) -> tuple[Advice, Hyperparameters]:
        """Return what the chosen recipe says for the chosen dataset, to be shown where nothing is typed."""
        recipe = self._chosen("recipe")
        advice = advise(recipe if recipe in RECIPES else "balanced", self._situation())
        suggested = advice.hyperparameters.model_copy(update={"problem_type": self._proposed})
        self.parent, self.parent_step = self._row("continue_from"), self._number("continue_step")
        return advice, suggested.model_copy(update=self._required()) if self.parent else suggested

    def _required(self) -> dict[str, Any]:
        try:
            return required_settings(self.parent, self.parent_step)
        except InvalidInput:  # nothing was kept at this step; the service says so when the run is to be started
            return required_settings(self.parent)

    def _situation(self) -> Situation:
        models, slug = self.fields["base_model"].queryset, self._chosen("base_model")  # type: ignore[attr-defined]
        version = self._row("dataset_version") or self.fields["dataset_version"].queryset.first()  # type: ignore[attr-defined]
        self.has_versions = version is not None
        model = models.filter(slug=slug).first() if slug and "\0" not in slug else None
        self._proposed, self._why_proposed = propose_problem(version)
        parent = self._row("continue_from")
        if parent is not None:  # goes on with what it has learned
            self._proposed, self._why_proposed = parent.hyperparameters.get("problem_type", "chat"), None
        kind = self._chosen(_PREFIX + "problem_type")
        return situation_of(
            version,
            model or models.first(),
            problem_type=kind if kind in PROBLEM_TYPES else self._proposed,
        )

    def _chosen(self, name: str) -> str:
        if self.is_bound:
            return str(self.data.get(name, ""))
        return str(self.initial.get(name) or (self.fields[name].initial if name in self.fields else "") or "")

    def _number(self, name: str) -> int | None:
        text = self._chosen(name)
        return int(text) if text.isdecimal() and len(text) < 10 else None

    def reasons(self) -> list[tuple[str, str, str]]:
        """Return why the recipe chose its values, as (hyperparameter, its value, sentence)."""
        known = {info.name: info for info in fields_in_words()}
        return [
            (
                " · ".join(known[name].label for name in reason.names),
                " · ".join(value_words(known[name], getattr(self._suggested, name)) for name in reason.names),
                _(reason.text) % reason.facts,
            )
            for reason in ([self._why_proposed] if self._why_proposed else []) + list(self.advice.reasons)
        ]

    def _row(self, name: str) -> Any:
        """Return the row that a field of rows stands at, None if there is none or what stands there is nonsense."""
        key = _uuid(self._chosen(name))
        return self.fields[name].queryset.filter(pk=key).first() if key else None  # type: ignore[attr-defined]

    def groups(self) -> list[tuple[str, list[forms.BoundField], bool]]:
        """Return the advanced hyperparameters by group, as (title, fields, whether one of them has an error)."""
        found: dict[str, list[forms.BoundField]] = {}
        for info in fields_in_words():
            if info.advanced:
                found.setdefault(info.group, []).append(self[_PREFIX + info.name])
        return [(title, bounds, any(bound.errors for bound in bounds)) for title, bounds in found.items()]

    def basic(self) -> list[forms.BoundField]:
        """Return the few hyperparameters that everybody should see."""
        return [self[_PREFIX + info.name] for info in form_fields() if not info.advanced]

    def clean(self) -> dict[str, Any]:
        """Put recipe and typed values together; errors name the field they belong to."""
        cleaned = super().clean() or self.cleaned_data
        if upload := cleaned.get("yaml"):
            cleaned["hyperparameters"] = self._read_yaml(upload)
        elif not self.errors:
            cleaned["hyperparameters"] = self._merge(cleaned)
        return cleaned

    def sweep_choice(self) -> Choice | None:
        """Return the sweep that was asked for, None for a single run. Call it on a valid form."""
        text = self.cleaned_data.get("sweep_values")
        base = self.cleaned_data.get("hyperparameters")
        if not text or base is None:
            return None
        return Choice(
            values=read_values(text),
            base=base,
            method=self.cleaned_data.get("sweep_method") or Sweep.Method.GRID,
            runs=self.cleaned_data.get("sweep_runs") or 0,
            seed=base.seed,
            rule=self.cleaned_data.get("sweep_rule") or Sweep.Rule.MEDIAN,
        )

    def clean_sweep_values(self) -> str:
        text: str = self.cleaned_data["sweep_values"].strip()
        try:
            if text:
                read_values(text)
        except BadSweep as error:
            raise forms.ValidationError(str(error)) from None
        return text

    def _merge(self, cleaned: dict[str, Any]) -> Hyperparameters | None:
        values = advise(cleaned["recipe"], self._situation()).hyperparameters.model_dump()
        values["problem_type"] = self._proposed
        if self.parent:
            values |= self._required()
        for info in form_fields():
            typed = cleaned.get(_PREFIX + info.name)
            if typed not in (None, ""):
                values[info.name] = typed == "yes" if info.kind == "bool" else typed
        try:
            return Hyperparameters(**values)
        except ValidationError as error:
            for problem in error.errors():
                name = _PREFIX + str(problem["loc"][0]) if problem["loc"] else None
                self.add_error(name if name in self.fields else None, refusal_words(problem))
        return None

    def _read_yaml(self, upload: Any) -> Hyperparameters | None:
        if upload.size > 65_536:
            self.add_error("yaml", _("This file is too large to be a list of hyperparameters."))
            return None
        try:
            return from_yaml(upload.read().decode())
        except UnicodeDecodeError:
            self.add_error("yaml", _("This file is not text in UTF-8."))
        except ValidationError as error:
            for problem in error.errors():
                self.add_error("yaml", f"{'.'.join(map(str, problem['loc']))}: {refusal_words(problem)}")
        except ValueError as error:
            self.add_error("yaml", str(error))
        return None


def _uuid(text: str) -> str | None:
    """Return `text` if it can be the key of a row, so that nonsense in the address is no database error."""
    try:
        return str(uuid.UUID(text))
    except ValueError:
        return None


def _form_field(info: FieldInfo, recipe: Hyperparameters) -> forms.Field:
    """Return the form field of one hyperparameter, which may stay empty and shows what the recipe says."""
    common: dict[str, Any] = {"label": info.label, "help_text": info.help, "required": False}
    field: forms.Field
    if info.kind in ("choice", "bool"):
        choices = info.choices or (("yes", _("Yes")), ("no", _("No")))
        empty = ("", _("As the recipe says: %(value)s") % {"value": value_words(info, getattr(recipe, info.name))})
        field = forms.ChoiceField(choices=[empty, *choices], **common)
    elif info.kind == "text":
        field = forms.CharField(max_length=info.longest, **common)
        field.widget.attrs["placeholder"] = value_words(info, getattr(recipe, info.name))
    else:
        kind = forms.IntegerField if info.kind == "int" else forms.FloatField
        field = kind(min_value=info.minimum, max_value=info.maximum, **common)  # type: ignore[arg-type]
        field.widget.attrs["placeholder"] = value_words(info, getattr(recipe, info.name))
        field.widget.attrs["step"] = "1" if info.kind == "int" else "any"
    vars(field)["unit"] = info.unit
    if info.shown_if:
        other, values = info.shown_if
        follows_recipe = ("",) if getattr(recipe, other) in values else ()
        vars(field)["shown_if"] = (_PREFIX + other, values + follows_recipe)
    return field
