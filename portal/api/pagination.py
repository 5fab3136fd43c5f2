"""Pages of lists."""

from drf_spectacular.utils import OpenApiParameter
from rest_framework.pagination import PageNumberPagination

PAGE_PARAMETERS = frozenset({"page", "page_size"})
PAGE_SCHEMA = [OpenApiParameter("page", int), OpenApiParameter("page_size", int, description="Up to 200.")]


class Pages(PageNumberPagination):
    """Numbered pages; `page_size` up to 200."""

    page_size = 50
    page_size_query_param = "page_size"
    max_page_size = 200
