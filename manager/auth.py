"""The manager's token: if one is set, every route except ``GET /health`` requires it."""

from __future__ import annotations

import secrets

from starlette.types import ASGIApp, Receive, Scope, Send

from contracts.errors import Unauthorized
from web.errors import error_response


class TokenGuard:
    """Passes a request to *app* if it has *token*; an empty token admits every request."""

    def __init__(self, app: ASGIApp, token: str, *, source: str) -> None:
        self._app = app
        self._token = token.encode()
        self._source = source

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self._token or self._allowed(scope):
            await self._app(scope, receive, send)
            return
        error = Unauthorized(
            "this manager requires its token: 'Authorization: Bearer ...' or 'X-Manager-Token: ...'"
        )
        await error_response(error, self._source)(scope, receive, send)

    def _allowed(self, scope: Scope) -> bool:
        if scope["path"] == "/health" and scope["method"] == "GET":
            return True
        given = []
        for key, value in scope["headers"]:
            if key == b"x-manager-token":
                given.append(value)
            elif key == b"authorization" and value[:7].lower() == b"bearer ":
                given.append(value[7:].strip())
        return any([secrets.compare_digest(value, self._token) for value in given])
