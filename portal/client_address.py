"""Where a request comes from."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import TYPE_CHECKING

from django.conf import settings

if TYPE_CHECKING:
    from django.http import HttpRequest


def client_address(request: HttpRequest) -> str | None:
    """Return the caller's address: the connection's, or the one that our own proxy saw; None if nobody knows."""
    text = request.META.get("REMOTE_ADDR", "")
    if settings.BEHIND_PROXY and (forwarded := request.META.get("HTTP_X_FORWARDED_FOR", "")):
        text = forwarded.rpartition(",")[2].strip()
    address = _address(text)
    return str(address) if address is not None else None


def is_within(address: str | None, networks: Sequence[str]) -> bool:
    """Return whether an address lies in one of the networks (CIDR); an unknown one lies in none."""
    known = _address(address or "")
    return known is not None and any(known in ipaddress.ip_network(network) for network in networks)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if getattr(address, "scope_id", None):
        address = ipaddress.IPv6Address(int(address))  # fe80::1%eth0: the zone is our machine's, not the caller's
    # A socket for both protocols shows IPv4 callers as ::ffff:192.0.2.1.
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped or address
