"""Wraps a whole tier: each request gets an id and a record, and is written as one log line.

Pure ASGI, so that bodies stream through untouched. The id is the client's ``x-request-id`` if it is
plain, else a new one. It is sent upstream in the request headers and returned in the response headers.
Rules: the line is written once, when the request is over, whether a route, a guard or a fault answered
it. Frequent requests that succeed (``quiet``) are logged at DEBUG.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from web.request_record import RequestRecord, has_output

HEADER = b"x-request-id"
PROCESSING_HEADER = b"openai-processing-ms"  # from the request to the response head
_OURS = frozenset({HEADER, PROCESSING_HEADER})
_PLAIN = re.compile(rb"[A-Za-z0-9._-]{1,128}")  # safe in logs and headers


def new_request_id() -> bytes:
    return b"req_" + uuid.uuid4().hex.encode()


def unchanged(path: str) -> str:
    return path


class Observer(Protocol):
    """Receives every request, however it ends. Must be synchronous and quick: each request waits for
    it.
    """

    def began(self) -> None: ...

    def ended(self, record: RequestRecord) -> None: ...


class AccessLog:
    """*source*: the tier's name. *shown*: maps a path to what the log may contain of it."""

    def __init__(
        self,
        app: ASGIApp,
        source: str,
        *,
        quiet: Collection[str] = (),
        shown: Callable[[str], str] = unchanged,
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
        # The raw path is percent-encoded, so it contains neither spaces nor line breaks.
        path = str(scope.get("raw_path") or scope["path"].encode(), "ascii", "backslashreplace")
        record = RequestRecord(
            self._clock(), scope["method"], self._shown(path), request_id.decode("ascii")
        )
        others = [(key, value) for key, value in headers if key != HEADER]
        scope = {**scope, "headers": [*others, (HEADER, request_id)], "record": record}

        async def send_noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                kept = [(k, v) for k, v in message.get("headers", ()) if k.lower() not in _OURS]
                took = (self._clock() - record.began_at) * 1e3
                kept += [(HEADER, request_id), (PROCESSING_HEADER, b"%d" % took)]
                message = {**message, "headers": kept}
            elif body := message.get("body"):
                if record.first_output_ms is None and has_output(body):
                    record.first_output_ms = (self._clock() - record.began_at) * 1e3
                record.note(body)
            await send(message)

        for observer in self._observers:
            observer.began()
        try:
            await self._app(scope, receive, send_noted)
        finally:
            record.total_ms = (self._clock() - record.began_at) * 1e3
            self._log.log(self._level(record, scope["path"]), record)
            for observer in self._observers:
                observer.ended(record)

    def _level(self, record: RequestRecord, path: str) -> int:
        if record.error:
            return logging.WARNING
        well = 0 < record.status < 400
        return logging.DEBUG if well and path in self._quiet else logging.INFO
