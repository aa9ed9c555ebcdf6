"""The error statuses, and which routes can return them: one table for all routes. Pure data.

The codes of each status come from the error tree; a status of the tree without a row fails a test. 405
has no row, because an operation's method is always one of its path's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from contracts import errors
from contracts.errors import ApiError
from gateway.access_control import RATE_HEADERS, is_protected

Schema = dict[str, Any]

_REF = "#/components/"
# Routes without input that the manager answers.
_MANAGER_ROUTES = ("/v1/system/status", "/v1/system/events", "/v1/system/logs/{name}")


@dataclass(frozen=True, slots=True)
class Place:
    """A route, as far as its errors depend on it."""

    method: str
    path: str

    @property
    def takes_input(self) -> bool:
        return self.method == "post"

    @property
    def names_resource(self) -> bool:
        return "{" in self.path or self.takes_input

    @property
    def uses_manager(self) -> bool:
        return self.takes_input or self.path in _MANAGER_ROUTES

    @property
    def requires_key(self) -> bool:
        return is_protected(self.path)


@dataclass(frozen=True, slots=True)
class Problem:
    """``name`` of the component; ``at``: the routes that can return it; ``headers``: those it may
    have.
    """

    name: str
    description: str
    at: Callable[[Place], bool] = lambda _: True
    headers: tuple[str, ...] = ()


PROBLEMS: Mapping[int, Problem] = MappingProxyType(
    {
        400: Problem(
            "BadRequest",
            "The request is malformed, breaks a rule across fields, or uses something that the "
            "model or this version does not support. `param` names the field.",
        ),
        401: Problem(
            "Unauthorized",
            "A key is required, and the request has none or a wrong one.",
            lambda p: p.requires_key,
        ),
        403: Problem(
            "Forbidden",
            "The `Host` or `Origin` is not allowed: web pages may use the API only if their origin is "
            "listed. The message names the setting.",
        ),
        404: Problem(
            "NotFound", "The model, image or route does not exist.", lambda p: p.names_resource
        ),
        408: Problem("RequestTimeout", "The request arrived too slowly.", lambda p: p.takes_input),
        413: Problem(
            "PayloadTooLarge",
            "The body exceeds the limit in the message.",
            lambda p: p.takes_input,
        ),
        414: Problem("URITooLong", "The URL is too long."),
        415: Problem(
            "UnsupportedMediaType",
            "The content type of the body is not supported.",
            lambda p: p.takes_input,
        ),
        429: Problem(
            "TooManyRequests",
            "This client sent too many requests, or too many wait for this model.",
            lambda p: p.path.startswith("/v1/"),
            ("retry-after", "x-should-retry", *RATE_HEADERS),
        ),
        431: Problem("HeadersTooLarge", "The headers are too large."),
        500: Problem(
            "InternalError",
            "An internal error. The log has the details.",
            headers=("x-should-retry",),
        ),
        502: Problem(
            "BadGateway", "The upstream tier returned an invalid response.", lambda p: p.uses_manager
        ),
        503: Problem(
            "Unavailable",
            "The model or the manager is unavailable. With `Retry-After`, a retry may succeed; with "
            "`x-should-retry: false` it cannot.",
            lambda p: p.uses_manager,
            ("retry-after", "x-should-retry"),
        ),
    }
)

ERROR_SCHEMA: Schema = {
    "title": "Error",
    "description": "OpenAI's error object, plus `source`: the tier in which it occurred.",
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code", "source"],
            "properties": {
                "message": {"type": "string", "description": "The problem, for people."},
                "type": {"type": "string", "examples": ["invalid_request_error"]},
                "param": {
                    "type": ["string", "null"],
                    "description": "The field that caused the error, such as "
                    "`messages[0].content[1].image_url.url`.",
                },
                "code": {"type": "string", "description": "The problem, for programs."},
                "source": {"enum": ["gateway", "manager", "worker"]},
            },
        }
    },
}

HEADERS: Mapping[str, Schema] = MappingProxyType(
    {
        "x-request-id": {
            "description": "The client's `x-request-id` if it is valid, else a new one. The log of "
            "each tier contains it.",
            "required": True,
            "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,128}$"},
        },
        "retry-after": {
            "description": "Seconds after which a retry may succeed. Absent if no retry can.",
            "schema": {"type": "integer", "minimum": 1, "maximum": 59},
        },
        "x-should-retry": {
            "description": "`false`: a retry cannot succeed. OpenAI's SDKs respect it.",
            "schema": {"type": "string", "enum": ["true", "false"]},
        },
        "openai-processing-ms": {
            "description": "Milliseconds until the response, or the stream, began.",
            "required": True,
            "schema": {"type": "integer", "minimum": 0},
        },
        RATE_HEADERS[0]: {
            "description": "Requests that a client may send at once. Only with `gateway.rate_limit`.",
            "schema": {"type": "integer", "minimum": 1},
        },
        RATE_HEADERS[1]: {
            "description": "How many of these requests are left. Only with `gateway.rate_limit`.",
            "schema": {"type": "integer", "minimum": 0},
        },
        RATE_HEADERS[2]: {
            "description": "Time until the whole limit is available again. Only with "
            "`gateway.rate_limit`.",
            "schema": {"type": "string", "examples": ["1m30s"]},
        },
        "x-vision-queue-ms": {
            "description": "Milliseconds from the request's arrival at the manager until the model's "
            "worker took it.",
            "schema": {"type": "integer", "minimum": 0},
        },
        "x-vision-load-ms": {
            "description": "The part of `x-vision-queue-ms` spent loading the model.",
            "schema": {"type": "integer", "minimum": 0},
        },
        "x-vision-model-ms": {
            "description": "Milliseconds that the model worked. Absent in streams, whose headers are "
            "sent before the model has finished.",
            "schema": {"type": "integer", "minimum": 0},
        },
    }
)
TIMINGS = ("x-vision-queue-ms", "x-vision-load-ms", "x-vision-model-ms")
_COMMON_HEADERS = ("x-request-id", "openai-processing-ms")


def problems_of(method: str, path: str) -> dict[str, Schema]:
    """The operation's error responses: references by status."""
    place = Place(method, path)
    return {
        str(status): {"$ref": f"{_REF}responses/{problem.name}"}
        for status, problem in PROBLEMS.items()
        if problem.at(place)
    }


def headers(*names: str) -> dict[str, Schema]:
    """References to the headers *names*, after those of every response."""
    return {name: {"$ref": f"{_REF}headers/{name}"} for name in (*_COMMON_HEADERS, *names)}


def responses() -> dict[str, Schema]:
    """The table as components."""
    return {problem.name: _response(status, problem) for status, problem in PROBLEMS.items()}


def _response(status: int, problem: Problem) -> Schema:
    codes = codes_of(status)
    suffix = f" Codes: {', '.join(f'`{code}`' for code in codes)}." if codes else ""
    return {
        "description": problem.description + suffix,
        "headers": headers(*problem.headers),
        "content": {"application/json": {"schema": {"$ref": f"{_REF}schemas/Error"}}},
    }


def codes_of(status: int) -> list[str]:
    """The codes of the error tree with this *status*, in the tree's order."""
    return list(dict.fromkeys(cls.code for cls in error_tree() if cls.status == status))


def error_tree() -> list[type[ApiError]]:
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    return [cls for cls in classes if issubclass(cls, ApiError)]
