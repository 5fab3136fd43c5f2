"""What a person typed into the search field of a list."""

from __future__ import annotations

from django.http import HttpRequest

LONGEST = 120


def typed(request: HttpRequest) -> str:
    """Return the words after `?q=`, short and without the one character that the database cannot hold."""
    return request.GET.get("q", "").replace("\x00", "").strip()[:LONGEST]
