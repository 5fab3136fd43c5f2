"""To the identity provider and back."""

from __future__ import annotations

import logging
from typing import Any
from urllib.parse import urlencode

import requests
from allauth.socialaccount.helpers import render_authentication_error
from allauth.socialaccount.models import SocialApp
from allauth.socialaccount.providers.oauth2.client import OAuth2Error
from allauth.socialaccount.providers.oauth2.views import OAuth2CallbackView, OAuth2LoginView
from django.core import signing
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.cache import never_cache

from portal.access import public_view
from portal.oidc.provider import SESSION_KEY, OidcAdapter, configured

logger = logging.getLogger(__name__)
_SALT = "portal.oidc.leaving"
_FAILURES = (OAuth2Error, requests.RequestException, KeyError, TypeError, ValueError)


class _CallbackView(OAuth2CallbackView):  # type: ignore[misc]
    """allauth's, which hands the nonce of this sign-in to the adapter."""

    def _get_state(self, request: HttpRequest, provider: Any) -> tuple[Any, Any]:
        state, response = super()._get_state(request, provider)
        self.adapter.nonce = (state or {}).get("nonce", "")
        return state, response


@public_view
@never_cache
def login(request: HttpRequest, provider_id: str) -> HttpResponseBase:
    """Send the person to the provider (POST), by a page of our own: forms may not lead to other sites."""
    answer = _guarded(request, provider_id, OAuth2LoginView)
    if isinstance(answer, HttpResponseRedirect) and answer.url.startswith(("https://", "http://")):
        return _page_leading_to(request, answer.url)
    return answer


@public_view
@never_cache
def callback(request: HttpRequest, provider_id: str) -> HttpResponseBase:
    """Take the provider's answer."""
    return _guarded(request, provider_id, _CallbackView)


@public_view
@never_cache
def leaving(request: HttpRequest) -> HttpResponse:
    """Lead a person who signed out to the provider, to sign out there as well."""
    try:
        url = signing.loads(request.GET.get("to", ""), salt=_SALT, max_age=60)
    except signing.BadSignature:
        raise Http404 from None
    return _page_leading_to(request, url)


def sign_out_url(request: HttpRequest) -> str | None:
    """Return the address that leads to signing out at the provider as well, if this session began there."""
    kept = request.session.get(SESSION_KEY)
    if not kept or configured(kept["provider"]) is None:
        return None
    try:
        endpoint = OidcAdapter(request, kept["provider"]).openid_config["end_session_endpoint"]
    except _FAILURES as error:
        logger.warning("no sign-out at %s: %s", kept["provider"], type(error).__name__)
        return None
    back = request.build_absolute_uri(reverse("account_login"))
    query = urlencode({"id_token_hint": kept["id_token"], "post_logout_redirect_uri": back})
    target = signing.dumps(f"{endpoint}{'&' if '?' in endpoint else '?'}{query}", salt=_SALT, compress=True)
    return f"{reverse('portal:leaving')}?{urlencode({'to': target})}"


def _guarded(request: HttpRequest, provider_id: str, view: Any) -> HttpResponseBase:
    """Run one of allauth's views; whatever a provider gets wrong becomes a page that says so."""
    adapter = OidcAdapter(request, provider_id)
    try:
        provider = adapter.get_provider()
    except SocialApp.DoesNotExist:
        raise Http404 from None
    try:
        answer: HttpResponseBase = view.adapter_view(adapter)(request)
    except _FAILURES as error:
        logger.warning("sign-in at %s failed: %s", provider_id, type(error).__name__)
        return render_authentication_error(request, provider, exception=error)  # type: ignore[no-any-return]
    return answer


def _page_leading_to(request: HttpRequest, url: str) -> HttpResponse:
    return render(request, "portal/leaving.html", {"url": url})
