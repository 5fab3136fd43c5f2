"""Forms of the deployments pages: shape only; what is allowed is checked by the services."""

from __future__ import annotations

from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _

from deployments.services import MAX_SYSTEM_PROMPT
from experiments.models import Run
from portal.forms import TeamForm
from portal.models import Team


class DeployForm(TeamForm):
    """Which run is deployed under which name, and what its model is told first."""

    run: Any = forms.ModelChoiceField(
        label=_("Run"), queryset=Run.unscoped.none(), help_text=_("Only runs that have finished can be deployed.")
    )
    name = forms.CharField(
        label=_("Name"),
        max_length=60,
        help_text=_("Your systems call the model by this name. A name that exists gets a new version."),
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )
    system_prompt = forms.CharField(
        label=_("System prompt"),
        required=False,
        max_length=MAX_SYSTEM_PROMPT,
        strip=False,
        help_text=_("Put before requests that bring none. The one from training works best."),
        widget=forms.Textarea(attrs={"rows": 4}),
    )

    def __init__(self, *args: Any, team: Team, **kwargs: Any) -> None:
        super().__init__(*args, team=team, **kwargs)
        deployable = team.runs.filter(adapter__isnull=False).select_related("experiment").order_by("-queued_at")
        self.fields["run"].queryset = deployable  # type: ignore[attr-defined]

    @property
    def given_system_prompt(self) -> str | None:
        """The system prompt, or None if the form that was sent had no such field."""
        prompt: str = self.cleaned_data["system_prompt"].replace("\r\n", "\n")
        return prompt if self.add_prefix("system_prompt") in self.data else None


class AskForm(forms.Form):
    """One question to the playground from a browser without JavaScript."""

    model = forms.CharField(max_length=200)
    system = forms.CharField(required=False, max_length=MAX_SYSTEM_PROMPT)
    prompt = forms.CharField(max_length=100_000)
    temperature = forms.FloatField(required=False, min_value=0, max_value=2)
    max_tokens = forms.IntegerField(required=False, min_value=1, max_value=4096)

    def body(self) -> dict[str, Any]:
        """Return the question as the body of a chat request."""
        given = self.cleaned_data
        system = [{"role": "system", "content": given["system"]}] if given["system"] else []
        return {
            "model": given["model"],
            "messages": [*system, {"role": "user", "content": given["prompt"]}],
            "temperature": given["temperature"] or 0,
            "max_tokens": given["max_tokens"] or 256,
        }
