"""Fields of allauth's forms in the portal's design: `{% load accounts %}`."""

from __future__ import annotations

from django import forms, template
from django.template.loader import render_to_string
from django.utils.html import format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from portal.templatetags.ui import field

register = template.Library()


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
    return format_html_join("", "{}", ((_shown(bound),) for bound in form))


def _shown(bound: forms.BoundField) -> str:
    return str(bound) if bound.is_hidden else render_to_string("components/_field.html", field(bound))
