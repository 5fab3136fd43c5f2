"""What the engine refuses, in sentences, with the HTTP status and the code that a client receives."""

from pathlib import Path


class EngineError(Exception):
    """A refusal that may be shown to the caller.

    `code` is stable and meant for programs, `message` is for people, `param` names the offending field.
    """

    status = 500
    type = "server_error"
    code = "internal_error"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if code is not None:
            self.code = code


class BadRequest(EngineError):
    """The request is malformed or asks for something this engine does not do."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_value"


class ContextTooLong(BadRequest):
    """Prompt and answer together do not fit the context."""

    code = "context_length_exceeded"


class BadAdapter(BadRequest):
    """The adapter folder is not one that this engine can serve on its base model."""

    code = "invalid_adapter"


class NoRoom(BadAdapter):
    """The adapters in memory leave no room for another one."""

    code = "adapter_room_full"


class AdapterParked(Exception):
    """The adapter was put out of memory for others; read its folder again and restore it."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.path = path


class InvalidApiKey(EngineError):
    """The bearer key is missing or wrong."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class ModelNotFound(EngineError):
    """No base model or adapter of that name is loaded."""

    status = 404
    type = "invalid_request_error"
    code = "model_not_found"


class RequestTooLarge(EngineError):
    """The body is larger than the server reads."""

    status = 413
    type = "invalid_request_error"
    code = "request_too_large"


class Overloaded(EngineError):
    """The waiting line is full, or the engine is shutting down; try again after `retry_after_s`."""

    status = 503
    type = "service_unavailable_error"
    code = "server_is_overloaded"

    def __init__(self, message: str, *, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class GenerationFailed(EngineError):
    """The model produced no usable numbers for this request."""

    code = "generation_failed"


class UnsupportedModel(Exception):
    """The base model is not llama-shaped; the caller falls back to the transformers runner."""
