"""Every request has an id: the client's ``x-request-id`` when it is plain, else a new one.

Pure ASGI, so that bodies stream through untouched. The id is passed on upstream in the request's
headers and comes back in the answer's.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = b"x-request-id"
_PLAIN = re.compile(rb"[A-Za-z0-9._-]{1,128}")  # it stands in logs and headers


def new_request_id() -> bytes:
    return b"req_" + uuid.uuid4().hex.encode()


class RequestId:
    def __init__(self, app: ASGIApp, make: Callable[[], bytes] = new_request_id) -> None:
        self._app = app
        self._make = make

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = scope["headers"]
        given = next((value for key, value in headers if key == HEADER), b"")
        request_id = given if _PLAIN.fullmatch(given) else self._make()
        others = [(key, value) for key, value in headers if key != HEADER]
        scope = {**scope, "headers": [*others, (HEADER, request_id)]}

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [(k, v) for k, v in message.get("headers", ()) if k.lower() != HEADER]
                message = {**message, "headers": [*kept, (HEADER, request_id)]}
            await send(message)

        await self._app(scope, receive, send_with_id)
