"""All errors that a client may see, with HTTP status, type and code.

Rules: a tier raises one of these (``raise X(...) from exc`` where a library's error enters our code),
and only ``web.errors`` renders it. ``type`` and ``code`` follow OpenAI's names where it has one. Each
code has a class, from which the API description lists it.

``retry_after`` (whole seconds, 1-59) is sent if waiting helps. If a retry can't help,
``should_retry=False`` is sent as ``x-should-retry: false``: OpenAI's SDKs otherwise retry every 5xx,
408, 409 and 429.
"""

from __future__ import annotations

from typing import Any, ClassVar

ErrorBody = dict[str, dict[str, Any]]

_LONGEST = 2000  # characters of a message or field name; both may quote the request


class ApiError(Exception):
    """Base class of all errors that a client may see."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str] = "internal_error"
    should_retry: bool | None = None

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        self.message = _shortened(message)
        super().__init__(self.message)
        self.param = None if param is None else _shortened(param)
        # SDKs ignore 0, and at least one ignores values above 60 s.
        self.retry_after = None if retry_after is None else max(1, min(59, round(retry_after)))

    def body(self, source: str) -> ErrorBody:
        """The OpenAI error object; *source*: gateway, manager or worker, where it occurred."""
        return {
            "error": {
                "message": self.message,
                "type": self.type,
                "param": self.param,
                "code": self.code,
                "source": source,
            }
        }

    def headers(self) -> dict[str, str]:
        headers = {}
        if self.retry_after is not None:
            headers["retry-after"] = str(self.retry_after)
        if self.should_retry is not None:
            headers["x-should-retry"] = "true" if self.should_retry else "false"
        return headers


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


# --- client errors -----------------------------------------------------------------------------


class InvalidRequest(ApiError):
    """The request is invalid; ``param`` names the field."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_request"


class UnsupportedParameter(InvalidRequest):
    """A known field with an unsupported value. Ignoring it would give a wrong result."""

    code = "unsupported_parameter"


class ContextLengthExceeded(InvalidRequest):
    """The prompt fills the model's context."""

    code = "context_length_exceeded"


class InvalidImageUrl(InvalidRequest):
    """An image URL that cannot be fetched, or is not an image."""

    code = "invalid_image_url"


class ImagesTooLarge(InvalidRequest):
    """The images of a response exceed the memory for images requested as URLs."""

    code = "pictures_too_large"


class PayloadTooLarge(InvalidRequest):
    status = 413
    code = "payload_too_large"


class UnsupportedMediaType(InvalidRequest):
    status = 415
    code = "unsupported_media_type"


class NotFound(InvalidRequest):
    status = 404
    code = "not_found"


class ModelNotFound(NotFound):
    code = "model_not_found"


class MethodNotAllowed(InvalidRequest):
    """*allowed*: the methods of the path, as in the ``Allow`` header."""

    status = 405
    code = "method_not_allowed"

    def __init__(self, message: str, *, allowed: str = "", **more: Any) -> None:
        super().__init__(message, **more)
        self.allowed = allowed

    def headers(self) -> dict[str, str]:
        return {**super().headers(), "allow": self.allowed}


class RequestTimeout(InvalidRequest):
    """The client did not send its request in time."""

    status = 408
    code = "request_timeout"


class UrlTooLong(InvalidRequest):
    status = 414
    code = "url_too_long"


class HeadersTooLarge(InvalidRequest):
    status = 431
    code = "headers_too_large"


class Unauthorized(ApiError):
    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class ForeignHost(ApiError):
    """The ``Host`` header names another host: possibly DNS rebinding."""

    status = 403
    type = "permission_error"
    code = "foreign_host"
    should_retry = False


class ForeignOrigin(ForeignHost):
    """A web page of another site sent the request."""

    code = "foreign_origin"


# --- rate limits and server errors ---------------------------------------------------------------


class RateLimited(ApiError):
    """This client exceeds its rate limit."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class TooManyOpenRequests(RateLimited):
    """This client has reached its limit of open requests."""

    code = "too_many_open_requests"


class QueueFull(RateLimited):
    """The queue of this model is full."""

    code = "queue_full"


class Unavailable(ApiError):
    """The service can't handle the request now."""

    status = 503
    code = "unavailable"


class QueueTimeout(Unavailable):
    """The request waited ``queue_timeout_s`` without getting a worker."""

    code = "queue_timeout"


class ManagerUnreachable(Unavailable):
    code = "manager_unreachable"


class WorkerFailed(Unavailable):
    """The worker exited while it handled the request, before the response began."""

    code = "worker_failed"


class LoadFailed(Unavailable):
    """The model could not be loaded; an immediate retry would fail too."""

    code = "load_failed"
    should_retry = False


class InsufficientMemory(Unavailable):
    """The model does not fit: it exceeds the budget, or pinned models use the memory."""

    code = "insufficient_memory"
    should_retry = False


class MemoryPressure(Unavailable):
    """The system is critically short of memory, so nothing is loaded."""

    code = "memory_pressure"


class Stopped(Unavailable):
    """The model was unloaded while it was loading. A retry by the SDK would undo that."""

    code = "stopped"
    should_retry = False


class UpstreamError(ApiError):
    """The next tier returned an invalid response."""

    status = 502
    code = "upstream_error"


class InternalError(ApiError):
    """A bug. The message shows no internals; the log has the details."""

    should_retry = False


class GenerationFailed(ApiError):
    """The model failed while it handled this request."""

    code = "generation_failed"
    should_retry = False
