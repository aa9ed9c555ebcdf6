"""The statuses of errors, and which routes can answer them: one table for all routes. Pure data.

The codes of each status are those of the error tree; a status of the tree that has no row here fails a
test. 405 has none, since an operation is of a method that its path has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from contracts import errors
from contracts.errors import ApiError
from gateway.auth import RATE_HEADERS, is_protected

Schema = dict[str, Any]

_REF = "#/components/"
# What the manager is asked for, besides what a model answers.
_OF_THE_MANAGER = ("/v1/system/status", "/v1/system/events", "/v1/system/logs/{name}")


@dataclass(frozen=True, slots=True)
class Place:
    """A route as far as its errors depend on it."""

    method: str
    path: str

    @property
    def takes_input(self) -> bool:
        return self.method == "post"

    @property
    def names_something(self) -> bool:
        return "{" in self.path or self.takes_input

    @property
    def asks_the_manager(self) -> bool:
        return self.takes_input or self.path in _OF_THE_MANAGER

    @property
    def wants_a_key(self) -> bool:
        return is_protected(self.path)


@dataclass(frozen=True, slots=True)
class Problem:
    """``name`` of the component; ``at``: where it can happen; ``headers``: that it may have."""

    name: str
    description: str
    at: Callable[[Place], bool] = lambda _: True
    headers: tuple[str, ...] = ()


PROBLEMS: Mapping[int, Problem] = MappingProxyType(
    {
        400: Problem(
            "BadRequest",
            "The request can't be understood, breaks a rule that stands across fields, or asks for "
            "what this model can't do or this version does not offer. `param` names the field.",
        ),
        401: Problem(
            "Unauthorized",
            "A key is set, and this is not it, or none was sent.",
            lambda p: p.wants_a_key,
        ),
        403: Problem(
            "Forbidden",
            "The `Host` or the `Origin` is a foreign one: a web page may not use the API unless it is "
            "listed. The message names the setting.",
        ),
        404: Problem("NotFound", "There is no such model, or picture.", lambda p: p.names_something),
        408: Problem("RequestTimeout", "The request came too slowly.", lambda p: p.takes_input),
        413: Problem(
            "PayloadTooLarge",
            "The body is larger than the limit that is told.",
            lambda p: p.takes_input,
        ),
        414: Problem("URITooLong", "The address is longer than any that is served."),
        415: Problem(
            "UnsupportedMediaType", "The body is of a type that is not read.", lambda p: p.takes_input
        ),
        429: Problem(
            "TooManyRequests",
            "Too many requests: of this client, or waiting for this model.",
            lambda p: p.path.startswith("/v1/"),
            ("retry-after", "x-should-retry", *RATE_HEADERS),
        ),
        431: Problem("HeadersTooLarge", "The headers are larger than any that are served."),
        500: Problem(
            "InternalError",
            "A fault of the service. The log has the details, not the answer.",
            headers=("x-should-retry",),
        ),
        502: Problem(
            "BadGateway", "The next tier answered what is no answer.", lambda p: p.asks_the_manager
        ),
        503: Problem(
            "Unavailable",
            "The model or the manager can't serve now. With `Retry-After`, waiting helps; with "
            "`x-should-retry: false` it does not.",
            lambda p: p.asks_the_manager,
            ("retry-after", "x-should-retry"),
        ),
    }
)

ERROR_SCHEMA: Schema = {
    "title": "Error",
    "description": "OpenAI's error object, and `source`: the tier that made it.",
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code", "source"],
            "properties": {
                "message": {"type": "string", "description": "What is wrong, for people."},
                "type": {"type": "string", "examples": ["invalid_request_error"]},
                "param": {
                    "type": ["string", "null"],
                    "description": "The field at fault, as `messages[0].content[1].image_url.url`.",
                },
                "code": {"type": "string", "description": "What is wrong, for programs."},
                "source": {"enum": ["gateway", "manager", "worker"]},
            },
        }
    },
}

HEADERS: Mapping[str, Schema] = MappingProxyType(
    {
        "x-request-id": {
            "description": "The client's `x-request-id` if it sent a plain one, else a new one. "
            "It stands in the log of each tier.",
            "required": True,
            "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,128}$"},
        },
        "retry-after": {
            "description": "Seconds after which it is worth asking again. Absent where it isn't.",
            "schema": {"type": "integer", "minimum": 1, "maximum": 59},
        },
        "x-should-retry": {
            "description": "`false`: asking again can't help. OpenAI's SDKs heed it.",
            "schema": {"type": "string", "enum": ["true", "false"]},
        },
        "openai-processing-ms": {
            "description": "Milliseconds until the answer, or the stream, began.",
            "required": True,
            "schema": {"type": "integer", "minimum": 0},
        },
        RATE_HEADERS[0]: {
            "description": "Requests that a client may make at once. With `gateway.rate_limit` only.",
            "schema": {"type": "integer", "minimum": 1},
        },
        RATE_HEADERS[1]: {
            "description": "How many of them are left. With `gateway.rate_limit` only.",
            "schema": {"type": "integer", "minimum": 0},
        },
        RATE_HEADERS[2]: {
            "description": "The time until all are there again. With `gateway.rate_limit` only.",
            "schema": {"type": "string", "examples": ["1m30s"]},
        },
        "x-vision-queue-ms": {
            "description": "Milliseconds from asking for the model until it took the request.",
            "schema": {"type": "integer", "minimum": 0},
        },
        "x-vision-load-ms": {
            "description": "The part of `x-vision-queue-ms` in which the model was loaded.",
            "schema": {"type": "integer", "minimum": 0},
        },
        "x-vision-model-ms": {
            "description": "Milliseconds of the model's work. Not of streams, which begin before.",
            "schema": {"type": "integer", "minimum": 0},
        },
    }
)
TIMINGS = ("x-vision-queue-ms", "x-vision-load-ms", "x-vision-model-ms")
_OF_ALL = ("x-request-id", "openai-processing-ms")


def problems_of(method: str, path: str) -> dict[str, Schema]:
    """What the operation can answer besides what its route says: references by status."""
    place = Place(method, path)
    return {
        str(status): {"$ref": f"{_REF}responses/{problem.name}"}
        for status, problem in PROBLEMS.items()
        if problem.at(place)
    }


def headers(*names: str) -> dict[str, Schema]:
    """References to the *names* of headers, after those that every answer has."""
    return {name: {"$ref": f"{_REF}headers/{name}"} for name in (*_OF_ALL, *names)}


def responses() -> dict[str, Schema]:
    """The table as components."""
    return {problem.name: _response(status, problem) for status, problem in PROBLEMS.items()}


def _response(status: int, problem: Problem) -> Schema:
    codes = codes_of(status)
    told = f" Codes: {', '.join(f'`{code}`' for code in codes)}." if codes else ""
    return {
        "description": problem.description + told,
        "headers": headers(*problem.headers),
        "content": {"application/json": {"schema": {"$ref": f"{_REF}schemas/Error"}}},
    }


def codes_of(status: int) -> list[str]:
    """The codes of the error tree with this *status*, in its order."""
    return list(dict.fromkeys(cls.code for cls in error_tree() if cls.status == status))


def error_tree() -> list[type[ApiError]]:
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    return [cls for cls in classes if issubclass(cls, ApiError)]
