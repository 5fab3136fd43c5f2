"""Signing in and out."""

from __future__ import annotations

import hashlib

from django.contrib.auth.forms import AuthenticationForm
from django.contrib.auth.views import LoginView, LogoutView
from django.core.cache import cache
from django.http import HttpRequest, HttpResponseBase
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache

from portal.access import public_view
from portal.errors import PortalError

_TRIES, _WINDOW_S = 10, 300


class TooManyTries(PortalError):
    """Somebody guesses passwords."""

    code = "too_many_tries"
    status = 429
    kind = "rate_limit_error"


class SignInForm(AuthenticationForm):
    """E-mail and password; every failure reads the same, whether or not the address is known."""

    error_messages = {
        "invalid_login": _("This e-mail address and password do not match."),
        "inactive": _("This e-mail address and password do not match."),
    }


_login = LoginView.as_view(
    template_name="portal/login.html", authentication_form=SignInForm, redirect_authenticated_user=True
)


@public_view
@never_cache
def login(request: HttpRequest) -> HttpResponseBase:
    """Show the sign-in form and sign a person in; ten failed tries per address and network address, then a pause."""
    if request.method != "POST":
        return _login(request)
    email = request.POST.get("username", "").strip().lower()[:254]
    key = f"sign-in:{request.META.get('REMOTE_ADDR')}:{hash_of(email)}"
    if cache.get(key, 0) >= _TRIES:
        raise TooManyTries(
            _("Too many tries. Wait five minutes and try again."), headers={"Retry-After": str(_WINDOW_S)}
        )
    response = _login(request)
    if request.user.is_authenticated:
        cache.delete(key)
    elif not cache.add(key, 1, _WINDOW_S):
        cache.incr(key)
    return response


def hash_of(text: str) -> str:
    """Return a short name for `text` that is safe as a cache key."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


logout = public_view(LogoutView.as_view())
