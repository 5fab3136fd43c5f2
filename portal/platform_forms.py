"""Forms of the platform admins' console. They check shape; the services check what is allowed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _

from portal.errors import PortalError
from portal.models import Announcement, Node, PlatformState
from portal.nodes import MOST_SLOTS
from portal.platform_teams import HEAVIEST


def applied(form: forms.Form, service: Callable[..., object], **arguments: Any) -> bool:
    """Call a service with a valid form's values; what it refuses becomes the form's error. Return whether it went."""
    if not form.is_valid():
        return False
    try:
        service(**form.cleaned_data, **arguments)
    except PortalError as error:
        form.add_error(error.param if error.param in form.fields else None, error.message)
        return False
    return True


class NewTeamForm(forms.Form):
    """A team and the person who runs it."""

    name = forms.CharField(
        label=_("Name"), max_length=80, help_text=_("Its address is made of the name and never changes.")
    )
    email = forms.EmailField(label=_("First admin's e-mail"), help_text=_("Somebody who can then invite the others."))


class RenameTeamForm(forms.Form):
    """Another name."""

    name = forms.CharField(label=_("Name"), max_length=80)


class WeightForm(forms.Form):
    """A team's share of the GPUs."""

    weight = forms.IntegerField(
        label=_("Share of the GPUs"),
        min_value=1,
        max_value=HEAVIEST,
        help_text=_("A team with weight 2 gets twice the GPU time of one with weight 1 when both wait."),
    )


class SecondFactorForm(forms.Form):
    """Whether members need a second factor."""

    required = forms.BooleanField(
        label=_("Members need a second factor"),
        required=False,
        help_text=_("People without one set it up before they see the team again. API tokens go on working."),
    )


class InviteAdminForm(forms.Form):
    """Somebody who shall run a team."""

    email = forms.EmailField(label=_("E-mail"))


class DeleteTeamForm(forms.Form):
    """The team's address, typed to show that it is meant."""

    typed = forms.CharField(
        label=_("The team's address"), max_length=60, widget=forms.TextInput({"autocomplete": "off"})
    )


class SlotsForm(forms.Form):
    """How many runs a node works on at the same time."""

    slots = forms.IntegerField(label=_("Slots"), min_value=0, max_value=MOST_SLOTS)

    def __init__(self, sent: Any = None, *, node: Node) -> None:
        super().__init__(sent, initial={"slots": node.slots}, auto_id=f"node-{node.pk}-%s")


class ReasonForm(forms.Form):
    """Why something is done that concerns somebody else."""

    reason = forms.CharField(label=_("Reason"), max_length=200)


class MaintenanceForm(forms.ModelForm):  # type: ignore[type-arg]
    """What people and programs are told while the portal is closed."""

    retry_after_s = forms.IntegerField(
        label=_("Programs should try again after"), min_value=10, max_value=86_400, initial=300
    )
    retry_after_s.unit = "s"  # type: ignore[attr-defined]

    class Meta:
        model = PlatformState
        fields = ["maintenance_message", "retry_after_s"]
        labels = {"maintenance_message": _("Message")}
        help_texts = {
            "maintenance_message": _("What is done and until when, for example “Back at 14:00 after an upgrade.”")
        }


class AnnouncementForm(forms.ModelForm):  # type: ignore[type-arg]
    """A sentence for everybody."""

    class Meta:
        model = Announcement
        fields = ["text", "tone", "starts_at", "ends_at", "is_dismissible"]
        widgets = {
            "starts_at": forms.DateTimeInput({"type": "datetime-local"}, format="%Y-%m-%dT%H:%M"),
            "ends_at": forms.DateTimeInput({"type": "datetime-local"}, format="%Y-%m-%dT%H:%M"),
        }
        help_texts = {
            "starts_at": _("In UTC."),
            "ends_at": _("In UTC. Leave empty for an announcement that stays until it is withdrawn."),
        }
