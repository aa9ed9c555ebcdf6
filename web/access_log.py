"""Stands around a whole tier: each request gets an id and an account, and is one line in the log.

Pure ASGI, so that bodies stream through untouched. The id is the client's ``x-request-id`` when that is
plain, else a new one; it is passed on upstream in the request's headers and comes back in the answer's.
Rules: whatever answers, a route, a guard or a fault, the line is written once, when it is over; what is
asked all the time and is well (``quiet``) is told to nobody but those who debug.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from web.request_record import Account, says_something

HEADER = b"x-request-id"
PROCESSING_HEADER = b"openai-processing-ms"  # of an answer: from the request to the answer's head
_OURS = frozenset({HEADER, PROCESSING_HEADER})
_PLAIN = re.compile(rb"[A-Za-z0-9._-]{1,128}")  # it stands in logs and headers


def new_request_id() -> bytes:
    return b"req_" + uuid.uuid4().hex.encode()


def whole_path(path: str) -> str:
    return path


class Observer(Protocol):
    """Is told of every request, however it ends; synchronous and quick, as each waits for it."""

    def began(self) -> None: ...

    def ended(self, account: Account) -> None: ...


class Access:
    """*source* names the tier; *shown* makes of a path what the log may hold of it."""

    def __init__(
        self,
        app: ASGIApp,
        source: str,
        *,
        quiet: Collection[str] = (),
        shown: Callable[[str], str] = whole_path,
        observers: Sequence[Observer] = (),
        make: Callable[[], bytes] = new_request_id,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._app = app
        self._log = logging.getLogger(f"{source}.access")
        self._quiet = frozenset(quiet)
        self._shown = shown
        self._observers = tuple(observers)
        self._make = make
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = scope["headers"]
        given = next((value for key, value in headers if key == HEADER), b"")
        request_id = given if _PLAIN.fullmatch(given) else self._make()
        # As it came: percent-encoded, it holds neither spaces nor line breaks.
        path = str(scope.get("raw_path") or scope["path"].encode(), "ascii", "backslashreplace")
        account = Account(self._clock(), scope["method"], self._shown(path), request_id.decode("ascii"))
        others = [(key, value) for key, value in headers if key != HEADER]
        scope = {**scope, "headers": [*others, (HEADER, request_id)], "account": account}

        async def send_noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                account.status = message["status"]
                kept = [(k, v) for k, v in message.get("headers", ()) if k.lower() not in _OURS]
                took = (self._clock() - account.began_at) * 1e3
                kept += [(HEADER, request_id), (PROCESSING_HEADER, b"%d" % took)]
                message = {**message, "headers": kept}
            elif body := message.get("body"):
                if account.first_output_ms is None and says_something(body):
                    account.first_output_ms = (self._clock() - account.began_at) * 1e3
                account.note(body)
            await send(message)

        for observer in self._observers:
            observer.began()
        try:
            await self._app(scope, receive, send_noted)
        finally:
            account.total_ms = (self._clock() - account.began_at) * 1e3
            self._log.log(self._level(account, scope["path"]), account)
            for observer in self._observers:
                observer.ended(account)

    def _level(self, account: Account, path: str) -> int:
        if account.error:
            return logging.WARNING
        well = 0 < account.status < 400
        return logging.DEBUG if well and path in self._quiet else logging.INFO
