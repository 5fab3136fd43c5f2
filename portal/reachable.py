"""Which addresses that people typed in may be reached: public ones, and what a platform admin has listed besides.

An address is taken apart by the library that fetches it, its name is resolved once, and every address behind the name
has to be a public one. What a company wants to reach inside its own network, a platform admin lists in
TUNEPORT_OUTBOUND_ALLOW.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from socket import IPPROTO_TCP, SOCK_STREAM, getaddrinfo
from typing import Final

import httpx
from django.conf import settings
from django.utils.translation import gettext as _

from portal.errors import PortalError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

LONGEST_URL: Final = 4096
# The label at the end decides how browsers and resolvers read a host: as a number in any notation, or as a name.
NUMERIC_LABEL: Final = re.compile(r"^(0x[0-9a-f]*|[0-9]+)$", re.IGNORECASE)
# Ranges whose addresses carry another address inside, which the range itself does not tell.
CARRIERS: Final = tuple(map(ip_network, ("::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")))
# Set aside by IANA for protocols and documents; Python before 3.13 takes parts of them for public ones.
SET_ASIDE: Final = tuple(map(ip_network, ("192.0.0.0/24", "192.88.99.0/24", "3fff::/20", "5f00::/16")))


class OutboundRefused(PortalError):
    """The portal does not go to this address; the message says why, and who could allow it."""

    code = "address_refused"


class OutboundFailed(PortalError):
    """An address that is allowed could not be fetched: not there, too slow, too large, or it answers an error."""

    code = "source_unreachable"
    status = 502
    kind = "service_unavailable_error"


@dataclass(frozen=True)
class Allowed:
    """One entry of the admin's list: a host (or all below it) or a network, with one port or any."""

    host: str = ""
    network: Network | None = None
    port: int | None = None

    @classmethod
    def parse(cls, entry: str) -> Allowed:
        """Return the entry that a text means: `jira.intern`, `*.intern:8443`, `10.0.0.0/8`, `[fd00::/8]:443`.

        Raises: ValueError.
        """
        found = re.fullmatch(r"(\[[^\[\]]+\]|[^\[\]:\s]+)(?::(\d{1,5}))?", entry.strip())
        if not found:
            raise ValueError(f"{entry!r} is not host, host:port, network or [network]:port.")
        place, port = found[1].strip("[]"), int(found[2]) if found[2] else None
        if port is not None and not 0 < port < 65536:
            raise ValueError(f"{entry!r} has no port between 1 and 65535.")
        if NUMERIC_LABEL.match(place.split("/")[0].split(".")[-1]) or ":" in place:
            return cls(network=ip_network(place), port=port)
        if not re.fullmatch(r"(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*", place.lower()):
            raise ValueError(f"{entry!r} is not the name of a host.")
        return cls(host=place.lower(), port=port)

    def __str__(self) -> str:
        place = self.host or str(self.network)
        if self.port is None:
            return place
        return f"[{place}]:{self.port}" if ":" in place else f"{place}:{self.port}"

    def names(self, host: str, port: int) -> bool:
        """Tell whether the entry is this host by name."""
        fits = host.endswith(self.host[1:]) if self.host.startswith("*.") else host == self.host
        return bool(self.host) and fits and self.port in (None, port)

    def holds(self, address: Address, port: int) -> bool:
        """Tell whether the entry is a network with this address in it."""
        return self.network is not None and address in self.network and self.port in (None, port)


@dataclass(frozen=True)
class Target:
    """Where a request may go: the host as it was written, and the address it goes to."""

    host: str
    port: int
    address: Address


def allow_list() -> tuple[Allowed, ...]:
    """Return what platform admins have allowed besides the public internet."""
    return tuple(Allowed.parse(entry) for entry in settings.OUTBOUND_ALLOW)


def is_listed(host: str, port: int) -> bool:
    """Tell whether a platform admin has listed this host by its name or address."""
    entries = allow_list()
    if any(entry.names(host.lower(), port) for entry in entries):
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    return any(entry.holds(address, port) for entry in entries)


def is_literal(host: str) -> bool:
    """Tell whether a host is an address, in whatever notation, rather than a name."""
    return ":" in host or bool(NUMERIC_LABEL.match(host.rsplit(".", 1)[-1]))


def require_well_formed(url: str) -> None:
    """Raise OutboundRefused for what is no address, without looking its name up."""
    _parsed(url)


def require_allowed(url: str) -> Target:
    """Return where a request to a URL goes. Resolves its name.

    Raises: OutboundRefused for an address that is not allowed; OutboundFailed for a name that does not exist.
    """
    parsed = _parsed(url)
    host, port = parsed.raw_host.decode("ascii").rstrip(".").lower(), parsed.port or _default_port(parsed)
    allowed = allow_list()
    is_listed = any(entry.names(host, port) for entry in allowed)
    addresses = _addresses(host, port)
    for address in addresses:
        in_network = any(entry.holds(address, port) for entry in allowed)
        if in_network or (is_listed and not _is_never_meant(address)):
            continue
        if not _is_public(address):
            raise _refused(_("The host “%(host)s” is not on the public internet.") % {"host": host})
        if parsed.scheme != "https":
            raise _refused(_("Only addresses with https:// are fetched."))
        if port != 443 and not is_listed:
            raise _refused(_("Only port 443 is open to hosts on the internet, not %(port)d.") % {"port": port})
    return Target(host, port, addresses[0])


def _parsed(url: str) -> httpx.URL:
    """Take a URL apart, refusing what two parsers might read differently."""
    if not 0 < len(url) <= LONGEST_URL or re.search(r"[\s\\\x00-\x1f\x7f]", url):
        raise _malformed()
    if not re.match(r"https?://[^/?#]", url):
        raise OutboundRefused(_("Write an address that begins with https://"), code="address_malformed")
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError, UnicodeError):
        raise _malformed() from None
    authority = re.split(r"[/?#]", url.split("://", 1)[1], maxsplit=1)[0]
    if "@" in authority or parsed.userinfo or "%" in authority:
        raise OutboundRefused(
            _("The address must not carry a name or password. Store them as a secret of the team."),
            code="address_malformed",
        )
    if "" in parsed.host.rstrip(".").split("."):
        raise _malformed()
    return parsed


def _malformed() -> OutboundRefused:
    return OutboundRefused(_("This is not an address that can be fetched. Check it."), code="address_malformed")


def _default_port(url: httpx.URL) -> int:
    return 443 if url.scheme == "https" else 80


def _addresses(host: str, port: int) -> list[Address]:
    """Return all addresses of a host, by one look-up."""
    literal = host.strip("[]")
    if is_literal(literal):
        try:
            return [ip_address(literal)]
        except ValueError:  # 127.1, 0x7f000001, 2130706433, 017700000001: numbers that others read as addresses
            raise _malformed() from None
    try:
        found = getaddrinfo(host, port, type=SOCK_STREAM, proto=IPPROTO_TCP)
    except (OSError, UnicodeError):
        raise OutboundFailed(
            _("The host “%(host)s” was not found. Check the address; without a network nothing can be fetched.")
            % {"host": host[:200]},
            code="host_unknown",
        ) from None
    return [ip_address(str(entry[4][0]).split("%")[0]) for entry in found]


def _is_public(address: Address) -> bool:
    if _is_in(address, CARRIERS) or _is_in(address, SET_ASIDE):
        return False
    if isinstance(address, IPv6Address) and address.is_site_local:
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def _is_never_meant(address: Address) -> bool:
    """Clouds hand out credentials on link-local addresses; listing a host's name does not open those."""
    return _is_in(address, CARRIERS) or address.is_link_local or address.is_multicast or address.is_unspecified


def _is_in(address: Address, networks: tuple[Network, ...]) -> bool:
    return any(address in network for network in networks if network.version == address.version)


def _refused(reason: str) -> OutboundRefused:
    advice = _("If it should be reached, ask a platform admin to add it to TUNEPORT_OUTBOUND_ALLOW.")
    return OutboundRefused(f"{reason} {advice}")
