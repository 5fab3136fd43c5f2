"""The form in which a team admin says whom the team asks to rate answers."""

from __future__ import annotations

from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _

from experiments.llm_judge.costs import MOST_PRICE
from experiments.llm_judge.models import JudgeSetting
from experiments.llm_judge.rubric import DEFAULT_RUBRIC, MOST_ROWS
from portal.forms import TeamForm
from portal.models import Team, TeamSecret


class JudgeForm(TeamForm):
    """An endpoint, its model, its key, and what the scores mean."""

    address = forms.CharField(
        label=_("Address"),
        max_length=500,
        widget=forms.URLInput(attrs={"placeholder": "https://api.example.com/v1"}),
        help_text=_("Of an OpenAI-compatible endpoint, without /chat/completions at the end."),
    )
    model = forms.CharField(
        label=_("Model"), max_length=200, help_text=_("As the endpoint calls it. A strong one: it rates others.")
    )
    secret = forms.ChoiceField(
        label=_("Key"), required=False, help_text=_("A secret of the kind “Key of a model endpoint”.")
    )
    rubric = forms.CharField(
        label=_("Rubric"),
        max_length=4000,
        initial=DEFAULT_RUBRIC,
        widget=forms.Textarea(attrs={"rows": 7}),
        help_text=_("What each score from 1 to 5 means for your answers. The judge reads it as it stands here."),
    )
    rows = forms.IntegerField(
        label=_("Rows"),
        min_value=1,
        max_value=MOST_ROWS,
        initial=50,
        help_text=_("Held-out rows that are rated at a time, with both models' answers: two questions a row."),
    )

    prompt_price = forms.FloatField(
        label=_("Price of questions"), min_value=0, max_value=MOST_PRICE, required=False,
        help_text=_("Of a million tokens. With it, pages tell what a judgement costs. Empty: unknown."),
    )  # fmt: skip
    answer_price = forms.FloatField(
        label=_("Price of replies"), min_value=0, max_value=MOST_PRICE, required=False,
        help_text=_("Of a million tokens."),
    )  # fmt: skip
    most_cost = forms.FloatField(
        label=_("Limit of cost"), min_value=0, max_value=MOST_PRICE, required=False,
        help_text=_("Of one judgement: it ends before a row that might bring it above. Empty: no limit."),
    )  # fmt: skip

    def __init__(self, *args: Any, team: Team, setting: JudgeSetting | None = None, **kwargs: Any) -> None:
        names = ("address", "model", "secret", "rubric", "rows", "prompt_price", "answer_price", "most_cost")
        initial = {name: getattr(setting, name) for name in names} if setting else None
        super().__init__(*args, team=team, initial=initial, **kwargs)
        keys = team.teamsecrets.filter(kind=TeamSecret.Kind.ENDPOINT_KEY).values_list("name", flat=True)
        self.fields["secret"].choices = [("", _("none"))] + [(name, name) for name in keys]  # type: ignore[attr-defined]


class AskForm(forms.Form):
    """How many rows are rated this time."""

    rows = forms.IntegerField(label=_("Rows"), min_value=1, max_value=MOST_ROWS, required=False)
