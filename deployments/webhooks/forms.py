"""Forms of webhook endpoints."""

from __future__ import annotations

from django import forms
from django.utils.translation import gettext_lazy as _

from deployments.webhooks import services
from deployments.webhooks.models import EVENT_TYPES

_EVENTS = [(name, name) for name in EVENT_TYPES]


class EndpointForm(forms.Form):
    """Who is told, and of what."""

    name = forms.CharField(
        label=_("Name"), max_length=services.LONGEST_NAME, help_text=_("What receives it, for example “status board”.")
    )
    url = forms.CharField(
        label=_("Address"),
        max_length=services.LONGEST_URL,
        help_text=_("https only. What lies in your own network has to be allowed by a platform admin."),
    )
    event_types = forms.MultipleChoiceField(
        label=_("Tell it of"), choices=_EVENTS, initial=list(EVENT_TYPES), widget=forms.CheckboxSelectMultiple
    )


class RotateSecretForm(forms.Form):
    """Whether the old secret goes on signing for a day."""

    keep_old = forms.BooleanField(
        label=_("Sign with the old secret, too, for 24 hours"),
        required=False,
        initial=True,
        help_text=_("Receivers go on believing what they get until they know the new one."),
    )


class SampleForm(forms.Form):
    """Which kind of event a sample is of."""

    event_type = forms.ChoiceField(label=_("Kind of event"), choices=_EVENTS)
