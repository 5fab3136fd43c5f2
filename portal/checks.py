"""House law that Django checks at start-up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.core.checks import CheckMessage, Error, Tags, register
from django.core.exceptions import ImproperlyConfigured
from django.urls import URLPattern, URLResolver, get_resolver

from portal import rls
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


@register()
def what_may_be_fetched_is_readable(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """An entry of the outbound list that nobody can read might have been meant to be narrower."""
    from portal import reachable  # late: its HTTP client is large, and most processes fetch nothing

    try:
        reachable.allow_list()
    except ValueError as error:
        return [Error(f"TUNEPORT_OUTBOUND_ALLOW: {error}", id="portal.E003")]
    return []


@register(Tags.database)
def the_database_role_cannot_look_over_the_wall(
    app_configs: Any, databases: Any = None, **kwargs: Any
) -> list[CheckMessage]:
    """Row-level security means nothing to a superuser: refuse to work as one."""
    if not databases:
        return []
    try:
        rls.refuse_privileged_role()
    except ImproperlyConfigured as error:
        return [Error(str(error), id="portal.E002")]
    return []


def walk_routes(patterns: Any = None, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (route, callback) of every URL of the project."""
    for pattern in get_resolver().url_patterns if patterns is None else patterns:
        route = prefix + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from walk_routes(pattern.url_patterns, route)
        elif isinstance(pattern, URLPattern):
            yield route, pattern.callback
