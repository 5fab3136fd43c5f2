"""Fields of allauth's forms in the portal's design: `{% load accounts %}`."""

from __future__ import annotations

from collections.abc import Iterable

from allauth.socialaccount.models import SocialAccount
from django import forms, template
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from portal.oidc.config import Provider
from portal.templatetags.ui import fields

register = template.Library()

# The first mark that is found counts: Edge and Opera call themselves Chrome as well, and Chrome Safari.
_BROWSERS = (
    ("Edg/", "Edge"),
    ("OPR/", "Opera"),
    ("Firefox/", "Firefox"),
    ("Chrome/", "Chrome"),
    ("Safari/", "Safari"),
    ("curl/", "curl"),
)
_SYSTEMS = (
    ("Android", "Android"),
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Windows", "Windows"),
    ("Mac OS X", "macOS"),
    ("Linux", "Linux"),
)


@register.simple_tag
def account_fields(form: forms.Form) -> SafeString:
    """Show every field of an allauth form: the label says it all, so placeholders go, and our words replace theirs."""
    words = {
        "Email": _("E-mail"),
        "Passwordless": _("Passkey: sign in with this key alone"),
        "Current Password": _("Current password"),
        "New Password": _("New password"),
        "New Password (again)": _("New password again"),
        "Authenticator code": _("Code"),
    }
    for bound in form:
        if bound.name == "passwordless" and not form.is_bound:
            bound.field.initial, bound.field.help_text = True, _("Otherwise it is asked for after the password only.")
        bound.field.widget.attrs.pop("placeholder", None)
        bound.label = words.get(str(bound.label), bound.label)
    return fields(form)


@register.filter
def without(providers: Iterable[Provider], accounts: Iterable[SocialAccount]) -> list[Provider]:
    """Return the identity providers with which none of these accounts signs in."""
    connected = {account.provider for account in accounts}
    return [provider for provider in providers if provider.id not in connected]


@register.filter
def browser_name(user_agent: str) -> str:
    """Return a browser and its system in words, such as “Firefox, Linux”; what is unknown stands for itself."""
    browser = next((name for mark, name in _BROWSERS if mark in user_agent), "")
    system = next((name for mark, name in _SYSTEMS if mark in user_agent), "")
    return ", ".join(filter(None, [browser, system])) or user_agent[:60] or _("unknown")
