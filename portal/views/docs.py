"""The OpenAPI document of the resource API and its browsable pages, for people and programs who are signed in."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponseBase
from django.utils.translation import gettext as _
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.permissions import AllowAny
from rest_framework.request import Request

from portal.access import public_view
from portal.authentication import ApiTokenAuthentication
from portal.errors import PortalError


class TokenRequired(PortalError):
    """A stranger asked for the document."""

    code = "invalid_api_key"
    status = 401
    kind = "authentication_error"


_schema = SpectacularAPIView.as_view(permission_classes=[AllowAny], authentication_classes=[])
_pages = SpectacularSwaggerSplitView.as_view(
    url_name="portal:schema", permission_classes=[AllowAny], authentication_classes=[]
)


def _knows_caller(request: HttpRequest) -> bool:
    """Whether the caller is signed in or shows a usable API token."""
    if request.user.is_authenticated:
        return True
    return ApiTokenAuthentication().authenticate(Request(request)) is not None


@public_view
def schema(request: HttpRequest, **kwargs: Any) -> HttpResponseBase:
    """Serve the OpenAPI document to people who are signed in and to programs with a token."""
    try:
        known = _knows_caller(request)
    except AuthenticationFailed:
        known = False
    if not known:
        raise TokenRequired(_("Sign in, or send an API token: 'Authorization: Bearer <token>'."))
    return _schema(request, **kwargs)


@public_view
def pages(request: HttpRequest) -> HttpResponseBase:
    """Serve the browsable documentation; Swagger UI styles itself inline, so this page alone allows inline styles."""
    if not request.user.is_authenticated:
        return redirect_to_login(request.get_full_path())
    response = _pages(request)
    policy = {**settings.CONTENT_SECURITY_POLICY, "style-src": "'self' 'unsafe-inline'"}
    response.headers["Content-Security-Policy"] = "; ".join(f"{name} {value}" for name, value in policy.items())
    return response
