"""The domain's own errors: each carries a machine-readable code, an HTTP status and a sentence for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from django.utils.translation import gettext as _


class PortalError(Exception):
    """Something that a person or program asked for cannot be done; the message says what, where and what to do."""

    code = "invalid_request"
    status = 400
    kind = "invalid_request_error"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        details: Sequence[Mapping[str, object]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or self.code
        self.details = list(details)
        self.headers = dict(headers or {})


class InvalidInput(PortalError):
    """A value does not fit; `param` names it."""

    code = "invalid_value"


class InvalidSource(PortalError):
    """A file cannot become a dataset; `details` lists the faulty rows with line, column and reason."""

    code = "invalid_file"


class TooLarge(PortalError):
    """A body, file or field is over its limit."""

    code = "request_too_large"
    status = 413


class NotFound(PortalError):
    """There is no such thing here, or it belongs to somebody else: the same words for both."""

    code = "not_found"
    status = 404


class Forbidden(PortalError):
    """A member or token lacks the role or scope."""

    code = "insufficient_role"
    status = 403
    kind = "permission_error"


class IllegalTransition(PortalError):
    """The thing is in a state in which this cannot be done."""

    code = "conflict"
    status = 409
    kind = "conflict_error"

    def __init__(self, message: str, **kwargs: object) -> None:
        super().__init__(message, **kwargs)  # type: ignore[arg-type]
        self.headers.setdefault("x-should-retry", "false")


class QuotaExceeded(PortalError):
    """A limit of the team is reached; the message says which, how much is used and when it resets."""

    code = "insufficient_quota"
    status = 429
    kind = "insufficient_quota"


class RateLimited(PortalError):
    """Too much in too short a time; Retry-After says when there is room again."""

    code = "rate_limit_exceeded"
    status = 429
    kind = "rate_limit_error"


class Unavailable(PortalError):
    """Nothing can serve this right now; worth another try."""

    code = "server_is_overloaded"
    status = 503
    kind = "service_unavailable_error"

    def __init__(self, message: str | None = None, *, retry_after_s: int = 2, **kwargs: object) -> None:
        super().__init__(message or _("The service is busy. Try again in a moment."), **kwargs)  # type: ignore[arg-type]
        self.headers.setdefault("Retry-After", str(retry_after_s))


class Failed(PortalError):
    """Something went wrong on our side, and was noted."""

    code = "internal_error"
    status = 500
    kind = "server_error"

    def __init__(self) -> None:
        super().__init__(_("Something went wrong on our side. It has been noted; try again in a moment."))


def error_body(
    message: str, *, kind: str, code: str | None, param: str | None = None, details: Sequence[Mapping[str, object]] = ()
) -> dict[str, object]:
    """Return the one error object of /api and /v1: message, type, param, code, and details where there are several."""
    error: dict[str, object] = {"message": message, "type": kind, "param": param, "code": code}
    if details:
        error["details"] = list(details)
    return {"error": error}
