"""The form in which a team admin says where the team's figures are copied to."""

from __future__ import annotations

from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _

from experiments.trackers.models import LONGEST_ADDRESS, LONGEST_EXPERIMENT, TrackerSetting
from experiments.trackers.services import DEFAULT_EXPERIMENT
from portal.forms import TeamForm
from portal.models import Team, TeamSecret


class TrackerForm(TeamForm):
    """A tracking server, the experiment there, and the key that opens it."""

    address = forms.CharField(
        label=_("Address"),
        max_length=LONGEST_ADDRESS,
        widget=forms.URLInput(attrs={"placeholder": "https://mlflow.example.com"}),
        help_text=_(
            "Of an MLflow tracking server. What lies in your own network has to be allowed by a platform admin."
        ),
    )
    experiment = forms.CharField(
        label=_("Experiment"),
        max_length=LONGEST_EXPERIMENT,
        initial=DEFAULT_EXPERIMENT,
        help_text=_("Its name at the tracker. It is made if it is not there."),
    )
    secret = forms.ChoiceField(
        label=_("Key"),
        required=False,
        help_text=_("A secret of the kind “Key of an experiment tracker”: a token, or name:password."),
    )

    def __init__(self, *args: Any, team: Team, setting: TrackerSetting | None = None, **kwargs: Any) -> None:
        names = ("address", "experiment", "secret")
        initial = {name: getattr(setting, name) for name in names} if setting else None
        super().__init__(*args, team=team, initial=initial, **kwargs)
        keys = team.teamsecrets.filter(kind=TeamSecret.Kind.TRACKER_KEY).values_list("name", flat=True)
        self.fields["secret"].choices = [("", _("none"))] + [(name, name) for name in keys]  # type: ignore[attr-defined]
