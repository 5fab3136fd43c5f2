"""What a web process does before its first request."""

from __future__ import annotations

import gc

from django.urls import get_resolver


def load_pages() -> None:
    """Import every page now, and tell the garbage collector that what there is by now stays for good.

    Otherwise it looks through all modules every few thousand requests, and one request waits a tenth of a second.
    """
    _ = get_resolver().url_patterns
    gc.collect()
    gc.freeze()
