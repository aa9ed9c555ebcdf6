"""Renders every error of an app in OpenAI's shape: the only place where error answers are made."""

from __future__ import annotations

import json
import logging
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
from contracts.wire.openai import param_name
from web.sse import error_event

log = logging.getLogger(__name__)


def error_response(error: ApiError, source: str) -> JSONResponse:
    return JSONResponse(error.body(source), error.status, headers=error.headers())


def raw_error(error: ApiError, source: str) -> bytes:
    """The answer as it stands on the wire, for what is refused before it has become a request."""
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


def install_error_handlers(app: FastAPI, source: str) -> None:
    """Make *app* answer every error as ``{"error": ...}``; *source* is the name of the tier."""

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
            hint = "" if path.startswith("/v1/") else "; the API's routes begin with /v1/"
            error = NotFound(f"no route {request.method} {path}{hint if source == 'gateway' else ''}")
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
        # Starlette logs the traceback; the client is told nothing about the inside.
        return error_response(InternalError("internal error; the log has the details"), source)

    app.add_exception_handler(ApiError, on_api_error)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(RequestValidationError, on_validation_error)
    app.add_exception_handler(Exception, on_fault)
