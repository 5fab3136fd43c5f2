"""Forms of the portal's own pages, and the base that keeps choices inside the team."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _

from portal.models import BaseModel, Role, Scope, ServiceAccount, Team, TeamSecret
from portal.scoping import narrow_to_team


class _ReadOnce(forms.models.ModelChoiceIterator):  # type: ignore[type-arg]
    """Choices that are read from the database once for a form, not whenever somebody looks at the first one."""

    def __iter__(self) -> Iterator[Any]:
        if not hasattr(self, "_read"):
            self._read = list(super().__iter__())
        return iter(self._read)


class TeamForm(forms.Form):
    """A form whose every choice of a row is limited to one team."""

    def __init__(self, *args: Any, team: Team, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.team = team
        for field in self.fields.values():
            if isinstance(field, forms.ModelChoiceField):
                field.iterator = _ReadOnce
                field.queryset = field.queryset  # makes the choices anew
        narrow_to_team(self.fields, team)


class ProfileForm(forms.Form):
    """What a person says about themselves."""

    name = forms.CharField(
        label=_("Name"),
        max_length=120,
        widget=forms.TextInput(attrs={"autocomplete": "name"}),
        help_text=_("Members of your teams see it."),
    )


class RoleForm(forms.Form):
    """A role in a team."""

    role = forms.ChoiceField(label=_("Role"), choices=Role.choices, initial=Role.EDITOR)


class InvitationForm(RoleForm):
    """Who is invited, and as what."""

    email = forms.EmailField(label=_("E-mail"), widget=forms.EmailInput(attrs={"autocomplete": "off"}))
    field_order = ["email", "role"]


class TokenForm(TeamForm):
    """What a new API token is called, may do and call, where it may come from, and when it ends."""

    name = forms.CharField(
        label=_("Name"), max_length=80, help_text=_("What will use it, for example “service desk webhook”.")
    )
    service_account: forms.ModelChoiceField[ServiceAccount] = forms.ModelChoiceField(
        label=_("Belongs to"),
        queryset=None,
        required=False,
        empty_label=_("Me: it ends when I leave the team"),
        help_text=_("A token of a service account goes on working when people leave."),
    )
    scopes = forms.MultipleChoiceField(
        label=_("May be used to"),
        choices=Scope.choices,
        initial=[Scope.INFERENCE],
        widget=forms.CheckboxSelectMultiple,
    )
    allowed_models = forms.MultipleChoiceField(
        label=_("May call only these models"),
        required=False,
        widget=forms.CheckboxSelectMultiple,
        help_text=_("Choose none to allow all, also those to come."),
    )
    networks = forms.CharField(
        label=_("May come only from these networks"),
        required=False,
        max_length=5000,
        widget=forms.Textarea(attrs={"rows": 2, "placeholder": "10.20.0.0/16"}),
        help_text=_("One a line. Leave empty to allow all."),
    )
    expires_at = forms.DateTimeField(
        label=_("Expires"),
        required=False,
        widget=forms.DateTimeInput(attrs={"type": "datetime-local"}),
        help_text=_("In UTC. Leave empty for a token that lasts until it is revoked."),
    )

    def __init__(self, *args: Any, team: Team, **kwargs: Any) -> None:
        super().__init__(*args, team=team, **kwargs)
        self.fields["service_account"].queryset = team.serviceaccounts.filter(is_active=True)  # type: ignore[attr-defined]
        names = [name for (name,) in team.deployments.values_list("name")]
        names += [slug for (slug,) in BaseModel.objects.filter(is_allowed=True).values_list("slug")]
        self.fields["allowed_models"].choices = [(name, name) for name in names]  # type: ignore[attr-defined]
        if not names:
            del self.fields["allowed_models"]

    def clean_networks(self) -> list[str]:
        """Return one network a line."""
        return [line.strip() for line in self.cleaned_data["networks"].splitlines() if line.strip()]


class RotateForm(forms.Form):
    """How long a token that is replaced goes on working."""

    overlap_hours = forms.TypedChoiceField(
        label=_("The old token works"),
        coerce=int,
        choices=[
            (0, _("no longer: it is revoked at once")),
            (1, _("for one more hour")),
            (24, _("for one more day")),
            (168, _("for one more week")),
        ],
        initial=24,
        widget=forms.RadioSelect,
    )


class ServiceAccountForm(forms.Form):
    """What a new service account is called."""

    name = forms.CharField(
        label=_("Name"), max_length=80, help_text=_("The system that will call, for example “service desk”.")
    )


class SecretForm(forms.Form):
    """A credential of the team; what was typed is never sent back."""

    kind = forms.ChoiceField(
        label=_("Kind"), choices=[choice for choice in TeamSecret.Kind.choices if choice[0] != TeamSecret.Kind.WEBHOOK]
    )
    name = forms.SlugField(
        label=_("Name"), max_length=60, help_text=_("For example hf-token. Storing under a known name replaces it.")
    )
    text = forms.CharField(
        label=_("Secret"),
        max_length=8192,
        strip=True,
        widget=forms.PasswordInput(render_value=False, attrs={"autocomplete": "off"}),
    )
