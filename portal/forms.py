"""Forms of the portal's own pages, and the base that keeps choices inside the team."""

from __future__ import annotations

from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _

from portal.models import Scope, Team
from portal.scoping import narrow_to_team


class TeamForm(forms.Form):
    """A form whose every choice of a row is limited to one team."""

    def __init__(self, *args: Any, team: Team, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.team = team
        narrow_to_team(self.fields, team)


class TokenForm(forms.Form):
    """What a new API token is called, may do, and when it ends."""

    name = forms.CharField(
        label=_("Name"), max_length=80, help_text=_("What will use it, for example “service desk webhook”.")
    )
    scopes = forms.MultipleChoiceField(
        label=_("May be used to"),
        choices=Scope.choices,
        initial=[Scope.INFERENCE],
        widget=forms.CheckboxSelectMultiple,
    )
    expires_at = forms.DateTimeField(
        label=_("Expires"),
        required=False,
        widget=forms.DateTimeInput(attrs={"type": "datetime-local"}),
        help_text=_("In UTC. Leave empty for a token that lasts until it is revoked."),
    )
