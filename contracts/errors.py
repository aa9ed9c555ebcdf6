"""The one error tree: what can go wrong, with its HTTP status and OpenAI wording.

Rules: a tier raises one of these (``raise X(...) from exc`` at the seam where a library's error comes
in) and renders it once, in ``web.errors``. Nothing else makes an error body. The names of ``type`` and
``code`` follow OpenAI's where it has one.

``retry_after`` (whole seconds, 1-59) is sent where waiting helps. ``should_retry=False`` is sent as
``x-should-retry: false`` where it does not: OpenAI's SDKs otherwise repeat every 5xx, 408, 409 and 429.
"""

from __future__ import annotations

from typing import Any, ClassVar

ErrorBody = dict[str, dict[str, Any]]

_LONGEST = 2000  # characters of a message or the name of a field; both may repeat what a client sent


class ApiError(Exception):
    """Base of all errors that a client may see."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: str = "internal_error"
    should_retry: bool | None = None

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        self.message = _shortened(message)
        super().__init__(self.message)
        self.param = None if param is None else _shortened(param)
        if code is not None:
            self.code = code
        # 0 is ignored by the SDKs, and one of them sleeps through anything above 60 s.
        self.retry_after = None if retry_after is None else max(1, min(59, round(retry_after)))

    def body(self, source: str) -> ErrorBody:
        """The OpenAI error object; *source* names the tier: gateway, manager or worker."""
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


# --- the request is at fault -------------------------------------------------------------------


class InvalidRequest(ApiError):
    """The request can't be understood or asks for what is not there; ``param`` names the field."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_request"


class UnsupportedParameter(InvalidRequest):
    """A field that is understood and not offered; silently ignoring it would be a wrong answer."""

    code = "unsupported_parameter"


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
    """*allowed*: the methods that the path has, as ``Allow`` lists them."""

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
    """The request names a host that is not this one: somebody's DNS may lead a browser here."""

    status = 403
    type = "permission_error"
    code = "foreign_host"
    should_retry = False


class ForeignOrigin(ForeignHost):
    """A web page of another site sends the request."""

    code = "foreign_origin"


# --- the service is at fault, or busy ------------------------------------------------------------


class RateLimited(ApiError):
    """This client asks for more than its share."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class TooManyOpenRequests(RateLimited):
    """This client has as many requests open as one may have."""

    code = "too_many_open_requests"


class QueueFull(RateLimited):
    """Too many requests wait for this model already."""

    code = "queue_full"


class Unavailable(ApiError):
    """The service can't answer now."""

    status = 503
    code = "unavailable"


class QueueTimeout(Unavailable):
    """The request waited its whole ``queue_timeout_s`` without being served."""

    code = "queue_timeout"


class ManagerUnreachable(Unavailable):
    code = "manager_unreachable"


class WorkerFailed(Unavailable):
    """The worker ended while it had the request, before the first byte of an answer."""

    code = "worker_failed"


class LoadFailed(Unavailable):
    """The model could not be loaded; asking again at once will not change that."""

    code = "load_failed"
    should_retry = False


class InsufficientMemory(Unavailable):
    """The model is declared larger than the whole budget, or only pinned workers are in its way."""

    code = "insufficient_memory"
    should_retry = False


class UpstreamError(ApiError):
    """The next tier answered something that is not an answer."""

    status = 502
    code = "upstream_error"


class InternalError(ApiError):
    """A fault of ours. The message says nothing about the inside; the log does."""

    should_retry = False


class GenerationFailed(ApiError):
    """The model raised while it worked on this request; doing it again would cost the same again."""

    code = "generation_failed"
    should_retry = False
