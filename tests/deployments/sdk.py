"""The unmodified openai SDK, strict about every field, talking to the portal in this very thread and transaction.

What it gets is held against the OpenAPI document besides.
"""

from __future__ import annotations

import httpx2
from django.core import signals
from django.core.wsgi import get_wsgi_application
from django.db import close_old_connections
from openai import OpenAI

from tests.deployments.shapes import hold_to_document


class InThisTransaction(httpx2.WSGITransport):
    """Calls the application without the end of a request closing the test's own connection, as Django's client does."""

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        both = (signals.request_started, signals.request_finished)
        for signal in both:
            signal.disconnect(close_old_connections)
        try:
            answer = super().handle_request(request)
            content = b"".join(answer.stream)
            answer.stream.close()
        finally:
            for signal in both:
                signal.connect(close_old_connections)
        hold_to_document(answer.headers.get("content-type", ""), content)
        return httpx2.Response(answer.status_code, headers=answer.headers, content=content)


def sdk(token: str, *, strict: bool = True, retries: int = 0) -> OpenAI:
    """Return the SDK as a client of the portal's WSGI application."""
    transport = InThisTransaction(app=get_wsgi_application())
    return OpenAI(
        base_url="http://localhost/v1",
        api_key=token,
        max_retries=retries,
        http_client=httpx2.Client(transport=transport, timeout=30),
        _strict_response_validation=strict,
    )
