"""/v1 in the OpenAPI document, beside the resource API: what each address takes and answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from drf_spectacular.utils import OpenApiParameter, extend_schema

from deployments.openai_api.answer_shapes import ANSWERS, Shape, ref
from deployments.openai_api.request_shapes import REQUESTS

Handler = TypeVar("Handler", bound=Callable[..., Any])

ERRORS: Final = ("4XX", "5XX")
HEADERS: Final[dict[str, Shape]] = {
    "x-request-id": {"required": True, "schema": {"type": "string"}, "description": "Name it when you ask us."},
    "openai-processing-ms": {"schema": {"type": "integer", "minimum": 0}},
    "x-model-version": {
        "schema": {"type": "string"},
        "description": "Where a deployment answered: the version that did, such as `triage@v2`.",
    },
}


def operation(
    operation_id: str,
    answer: str,
    *,
    takes: str = "",
    tag: str,
    chunk: str = "",
    as_form: bool = False,
    query: Sequence[OpenApiParameter] = (),
) -> Callable[[Handler], Handler]:
    """Describe a handler by names of components: what it answers, what it takes, the chunks that it may stream."""
    responses: dict[Any, Any] = {(200, "application/json"): ref(answer)}
    if chunk:
        responses[200, "text/event-stream"] = _event(chunk)
    kind = "multipart/form-data" if as_form else "application/json"
    return extend_schema(
        operation_id=operation_id,
        request={kind: ref(takes)} if takes else None,
        responses=responses,
        parameters=list(query),
        tags=[tag],
    )


def _event(chunk: str) -> Shape:
    """Return what one event of a stream is: in OpenAPI 3.1 the schema of a stream of events is that of each of them."""
    said = {"contentMediaType": "application/json", "contentSchema": {"anyOf": [ref(chunk), ref("Error")]}}
    data: Shape = {"type": "string", "anyOf": [{"const": "[DONE]"}, said]}
    return {
        "type": "object",
        "description": "With `stream: true`: server-sent events, each with one chunk as JSON, at last `data: [DONE]`. "
        'Lines that begin with a colon keep the connection alive. A stream that breaks ends with `data: {"error": …}`.',
        "required": ["data"],
        "properties": {"data": data},
    }


def whole_file(operation_id: str, *, tag: str) -> Callable[[Handler], Handler]:
    """Describe a handler that answers the bytes of a file."""
    content: Shape = {"type": "string", "format": "binary"}
    return extend_schema(operation_id=operation_id, responses={(200, "application/octet-stream"): content}, tags=[tag])


def page_of(most: int, *more: OpenApiParameter) -> tuple[OpenApiParameter, ...]:
    """Return the query parameters of a list with cursors."""
    limit: Shape = {"type": "integer", "minimum": 1, "maximum": most}
    return (
        OpenApiParameter("after", str, description="The last id that you have seen."),
        OpenApiParameter("limit", limit, description="How many at most."),
        *more,
    )


def complete(result: dict[str, Any], **_context: Any) -> dict[str, Any]:
    """Add what all addresses share: components, the one error object, the headers of every answer."""
    result["components"]["schemas"].update(REQUESTS | ANSWERS)
    error = {"description": "The error object.", "content": {"application/json": {"schema": ref("Error")}}}
    for operations in result["paths"].values():
        for described in operations.values():
            responses = described["responses"]
            responses.update({status: dict(error) for status in ERRORS})
            for response in responses.values():
                response["headers"] = HEADERS
    return result
