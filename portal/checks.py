"""House law that Django checks at start-up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.core.checks import CheckMessage, Error, register
from django.urls import URLPattern, URLResolver, get_resolver

from portal.access import policy_of


@register()
def every_route_has_a_policy(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """A route that says nothing about who may call it is closed: the process does not start."""
    return [
        Error(
            f"The route '{route}' declares no access policy.",
            hint="Use a decorator of portal.access.",
            id="portal.E001",
        )
        for route, callback in walk_routes()
        if policy_of(callback) is None
    ]


def walk_routes(patterns: Any = None, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (route, callback) of every URL of the project."""
    for pattern in get_resolver().url_patterns if patterns is None else patterns:
        route = prefix + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from walk_routes(pattern.url_patterns, route)
        elif isinstance(pattern, URLPattern):
            yield route, pattern.callback
