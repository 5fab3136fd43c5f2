"""Forms of people's accounts."""

from __future__ import annotations

from django import forms
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from portal.models import User


class PersonForm(forms.Form):
    """What signing up asks besides allauth's own fields."""

    name = forms.CharField(label=_("Your name"), max_length=120, widget=forms.TextInput(attrs={"autocomplete": "name"}))
    field_order = ["email", "name", "password1"]

    def signup(self, request: HttpRequest, user: User) -> None:
        """Keep the name; allauth calls this after it made the person."""
        user.name = self.cleaned_data["name"].strip()
        user.save(update_fields=["name"])
