"""Pages of lists."""

from typing import Any

from drf_spectacular.utils import OpenApiParameter, inline_serializer
from rest_framework import serializers
from rest_framework.pagination import PageNumberPagination

PAGE_PARAMETERS = frozenset({"page", "page_size"})
PAGE_SCHEMA = [OpenApiParameter("page", int), OpenApiParameter("page_size", int, description="Up to 200.")]


class Pages(PageNumberPagination):
    """Numbered pages; `page_size` up to 200."""

    page_size = 50
    page_size_query_param = "page_size"
    max_page_size = 200


def page_of(name: str, child: type[serializers.Serializer[Any]]) -> serializers.Serializer[Any]:
    """Return the description of a page of a list, as `Pages` answers it."""
    address = {"allow_null": True, "required": False}
    return inline_serializer(
        f"{name}Page",
        {
            "count": serializers.IntegerField(),
            "next": serializers.URLField(**address),  # type: ignore[arg-type]
            "previous": serializers.URLField(**address),  # type: ignore[arg-type]
            "results": child(many=True),
        },
    )
