"""Renders every error in OpenAI's shape, and turns what a request raises into a response.

Rules: error bodies are made only here. A client never sees the inside of a fault; the log does.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

from contracts.errors import (
    ApiError,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
)
from contracts.wire import param_name
from web.request_body import ClientGone
from web.request_record import CLIENT_GONE, RequestRecord
from web.sse import error_event

log = logging.getLogger(__name__)

Refuse = Callable[[ApiError], Awaitable[None]]


class StreamCut(Exception):
    """The response broke off in the middle. Raised so that the server cuts the client's connection."""


def error_response(error: ApiError, source: str) -> JSONResponse:
    return JSONResponse(error.body(source), error.status, headers=error.headers())


def raw_error(error: ApiError, source: str) -> bytes:
    """The whole response as bytes, for errors before an ASGI request exists."""
    body = json.dumps(error.body(source)).encode()
    headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "connection": "close",
        **error.headers(),
    }
    head = [f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}"]
    head += [f"{key}: {value}" for key, value in headers.items()]
    return "\r\n".join([*head, "", ""]).encode() + body


def sse_error(error: ApiError, source: str) -> bytes:
    return error_event(error.body(source))


def internal_error() -> InternalError:
    return InternalError("internal error; the log has the details")


@asynccontextmanager
async def answer_errors(record: RequestRecord, source: str, refuse: Refuse) -> AsyncIterator[None]:
    """Run a block that answers one request; end the response when it raises.

    *refuse* sends an ``ApiError`` to the client. If the response has begun, the server refuses to begin
    another one and cuts the connection. Used by the routes of all tiers that bypass FastAPI.
    """
    try:
        yield
    except ApiError as exc:
        await refuse(exc)
    except StreamCut as exc:
        # The server cuts the connection of an unfinished response.
        record.error = str(exc)
    except ClientGone:
        record.status = CLIENT_GONE
    except Exception:
        logging.getLogger(f"{source}.errors").exception("[%s] internal error", record.request_id)
        await refuse(internal_error())


def install_error_handlers(app: FastAPI, source: str, *, not_found_hint: str = "") -> None:
    """Make *app* answer every error as ``{"error": ...}``.

    *source*: the tier's name. *not_found_hint*: added to the 404 of a path outside ``/v1/``.
    """

    async def on_api_error(request: Request, exc: Exception) -> JSONResponse:
        assert isinstance(exc, ApiError)
        if exc.status >= 500:
            log.warning("%s %s: %s", request.method, request.url.path, exc.message)
        return error_response(exc, source)

    async def on_http_error(request: Request, exc: Exception) -> JSONResponse:
        assert isinstance(exc, HTTPException)
        error: ApiError
        if exc.status_code == 404:
            path = request.url.path
            hint = "" if path.startswith("/v1/") else not_found_hint
            error = NotFound(f"no route {request.method} {path}{hint}")
        elif exc.status_code == 405:
            allowed = Headers(headers=exc.headers).get("allow", "")
            error = MethodNotAllowed(
                f"{request.method} is not allowed on {request.url.path}", allowed=allowed
            )
        else:
            error = InvalidRequest(str(exc.detail))
        return error_response(error, source)

    async def on_validation_error(request: Request, exc: Exception) -> JSONResponse:
        assert isinstance(exc, RequestValidationError)
        problem: dict[str, Any] = exc.errors()[0]
        param = param_name(tuple(problem["loc"][1:]))
        return error_response(InvalidRequest(f"{param}: {problem['msg']}", param=param), source)

    async def on_fault(request: Request, exc: Exception) -> JSONResponse:
        # Starlette logs the traceback.
        return error_response(internal_error(), source)

    app.add_exception_handler(ApiError, on_api_error)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(RequestValidationError, on_validation_error)
    app.add_exception_handler(Exception, on_fault)
