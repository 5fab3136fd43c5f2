"""Who needs a second factor, and whether they have one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, cast
from uuid import UUID

from allauth.account.internal.flows.login import get_authentication_records
from allauth.mfa.models import Authenticator
from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.http import urlencode

if TYPE_CHECKING:
    from portal.models import Team, User

_FACTORS = (Authenticator.Type.TOTP, Authenticator.Type.WEBAUTHN)


def has_second_factor(person: User) -> bool:
    """Return whether a person has an authenticator app or a key; recovery codes alone do not count."""
    return bool(Authenticator.objects.filter(user=person, type__in=_FACTORS).exists())


def holders(people: Iterable[UUID]) -> set[UUID]:
    """Return which of these people have a second factor."""
    return set(Authenticator.objects.filter(user_id__in=people, type__in=_FACTORS).values_list("user_id", flat=True))


def ask_for_it(request: HttpRequest, team: Team | None) -> HttpResponseBase | None:
    """Return the way to the set-up page if this person needs a second factor here and has none, else None."""
    person = cast("User", request.user)
    needed = (team is not None and team.mfa_required) or (person.is_platform_admin and settings.REQUIRE_ADMIN_MFA)
    if not needed or getattr(request, "impersonator", None) is not None:
        return None
    if has_second_factor(person) or _provider_vouches(request, person):
        return None
    url = reverse("portal:second_factor_needed")
    if request.headers.get("HX-Request"):
        return HttpResponse(status=200, headers={"HX-Redirect": url})
    back = request.get_full_path() if request.method == "GET" else ""
    return redirect(f"{url}?{urlencode({'next': back})}" if back else url)


def _provider_vouches(request: HttpRequest, person: User) -> bool:
    """Whether this session began at a sign-in provider that demands second factors itself."""
    trusted = {provider.id for provider in settings.SIGN_IN_PROVIDERS if provider.trust_mfa}
    records = get_authentication_records(request, person) if trusted else []
    return any(record.get("provider") in trusted for record in records if record.get("method") == "socialaccount")
