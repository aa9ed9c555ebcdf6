"""The optional API key: with one set, every ``/v1/*`` request must carry it.

``Authorization: Bearer KEY`` or ``X-API-Key: KEY``; compared in constant time. The files of pictures
need none: their names are keys themselves, for browsers and for whoever is given the link.
"""

from __future__ import annotations

import hmac

from starlette.types import ASGIApp, Receive, Scope, Send

from contracts.errors import Unauthorized
from gateway.links import FILES
from web.errors import error_response

PROTECTED = "/v1/"


class RequireKey:
    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app = app
        self._key = key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not is_protected(scope["path"]):
            await self._app(scope, receive, send)
            return
        given = given_key(scope["headers"])
        if given is not None and hmac.compare_digest(given, self._key):
            await self._app(scope, receive, send)
            return
        what = "no API key was given" if given is None else "the API key is not the right one"
        error = Unauthorized(f"{what}: send it as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'")
        await error_response(error, "gateway")(scope, receive, send)


def is_protected(path: str) -> bool:
    return path.startswith(PROTECTED) and not path.startswith(FILES)


def given_key(headers: list[tuple[bytes, bytes]]) -> bytes | None:
    """The key that a request carries; a bearer token wins over ``X-API-Key``."""
    found = {key.lower(): value for key, value in headers}
    scheme, _, token = found.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer" and token.strip():
        return token.strip()
    return found.get(b"x-api-key")
