"""What the console's buttons share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib import messages
from django.http import HttpRequest

from portal.actors import Actor
from portal.errors import PortalError


def attempt(request: HttpRequest, said: str, service: Callable[..., object], **arguments: Any) -> bool:
    """Call a service for a button; say in the page that it went, or why it did not."""
    try:
        service(actor=Actor.of(request), **arguments)
    except PortalError as error:
        messages.error(request, error.message)
        return False
    messages.success(request, said)
    return True
