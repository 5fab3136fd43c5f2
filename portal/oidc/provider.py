"""The OpenID Connect client: django-allauth's, with a nonce, a checked signature and the issuer pinned."""

from __future__ import annotations

import hmac
import secrets
from typing import Any, cast

import jwt
from allauth.account.models import EmailAddress
from allauth.socialaccount.internal import jwtkit
from allauth.socialaccount.models import SocialApp, SocialLogin, SocialToken
from allauth.socialaccount.providers.oauth2.client import OAuth2Error
from allauth.socialaccount.providers.openid_connect.provider import OpenIDConnectProvider
from allauth.socialaccount.providers.openid_connect.views import OpenIDConnectOAuth2Adapter
from django.conf import settings
from django.http import HttpRequest, HttpResponse

from portal.oidc.config import Provider

SESSION_KEY = "oidc"
_ALGORITHMS = {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
_KEPT = ("sub", "iss", "email", "email_verified", "name", "preferred_username")


def configured(provider_id: str) -> Provider | None:
    """Return the provider of this id as the operator described it."""
    return next((provider for provider in settings.SIGN_IN_PROVIDERS if provider.id == provider_id), None)


class OidcAdapter(OpenIDConnectOAuth2Adapter):  # type: ignore[misc]
    """Talks to the provider and believes only what it signed for this sign-in."""

    nonce = ""

    @property
    def openid_config(self) -> dict[str, Any]:
        """Return the provider's own description.

        Raises: OAuth2Error if it speaks for another issuer, so that one provider cannot answer for the other.
        """
        known: dict[str, Any] = super().openid_config
        expected = self.get_provider().app.settings["server_url"].partition("/.well-known/")[0]
        if str(known.get("issuer", "")).rstrip("/") != expected.rstrip("/"):
            raise OAuth2Error("the provider speaks for another issuer")
        return known

    def complete_login(self, request: HttpRequest, app: SocialApp, token: SocialToken, **kwargs: Any) -> SocialLogin:
        """Return the sign-in that the provider's ID token proves.

        Raises: OAuth2Error if signature, issuer, audience, time or nonce do not fit.
        """
        raw = kwargs["response"].get("id_token")
        if not raw:
            raise OAuth2Error("no ID token")
        claims = self._checked_claims(app, raw)
        claims = self._with_userinfo(claims, token)
        provider = configured(app.provider_id)
        if provider is not None and provider.logout:
            request.session[SESSION_KEY] = {"provider": provider.id, "id_token": raw}
        return self.get_provider().sociallogin_from_response(request, {"id_token": claims})

    def _checked_claims(self, app: SocialApp, raw: str) -> dict[str, Any]:
        try:
            if jwt.get_unverified_header(raw).get("alg") not in _ALGORITHMS:
                raise OAuth2Error("the ID token is not signed with a public key")
        except jwt.PyJWTError as error:
            raise OAuth2Error("Invalid id_token") from error
        claims: dict[str, Any] = jwtkit.verify_and_decode(
            credential=raw,
            keys_url=self.openid_config["jwks_uri"],
            issuer=self.openid_config["issuer"],
            audience=app.client_id,
            lookup_kid=jwtkit.lookup_kid_jwk,
        )
        if not self.nonce or not hmac.compare_digest(str(claims.get("nonce", "")), self.nonce):
            raise OAuth2Error("the ID token is for another sign-in")
        if isinstance(claims["aud"], list) and len(claims["aud"]) > 1 and claims.get("azp") != app.client_id:
            raise OAuth2Error("the ID token is for another client")
        return claims

    def _with_userinfo(self, claims: dict[str, Any], token: SocialToken) -> dict[str, Any]:
        """Fill in what the ID token lacks; an answer about somebody else is refused."""
        provider = configured(self.provider_id)
        wanted = ["email", provider.group_claim.partition(".")[0]] if provider and provider.groups else ["email"]
        if all(name in claims for name in wanted) or "userinfo_endpoint" not in self.openid_config:
            return claims
        more = self._fetch_user_info(token.token)
        if more.get("sub") != claims["sub"]:
            raise OAuth2Error("the provider described somebody else")
        return {**more, **claims}


class OidcProvider(OpenIDConnectProvider):  # type: ignore[misc]
    """An identity provider; what the caller's address asks for besides is ignored."""

    oauth2_adapter_class = OidcAdapter

    def redirect(
        self, request: HttpRequest, process: str, next_url: str | None = None, data: Any = None, **kwargs: Any
    ) -> HttpResponse:
        """Send the person to the provider, with a nonce that the answer has to repeat."""
        nonce = secrets.token_urlsafe(24)
        kwargs |= {"auth_params": {**self.get_auth_params(), "nonce": nonce}, "scope": self.get_scope(), "nonce": nonce}
        return cast(HttpResponse, super().redirect(request, process, next_url, data, **kwargs))

    def extract_extra_data(self, data: dict[str, Any]) -> dict[str, Any]:
        """Keep of the claims who it is and which groups they are in."""
        claims = data["id_token"]
        kept = {name: claims[name] for name in _KEPT if name in claims}
        provider = configured(self.app.provider_id)
        return {"id_token": kept, "groups": provider.groups_in(claims) if provider else []}

    def extract_email_addresses(self, data: dict[str, Any]) -> list[EmailAddress]:
        """Return the address; it is confirmed only if the provider says so with a plain true."""
        claims = data["id_token"]
        if not claims.get("email"):
            return []
        return [EmailAddress(email=claims["email"], verified=claims.get("email_verified") is True, primary=True)]


provider_classes = [OidcProvider]
