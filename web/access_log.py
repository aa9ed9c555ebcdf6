"""Wraps a whole tier: each request gets an id and a record, and is written as one log line.

Pure ASGI, so that bodies stream through untouched. The id (``web.request_id``) is sent upstream
in the request headers and returned in the response headers.
Rules: the line is written once, when the request is over, whether a route, a guard or a fault answered
it. A request that the server cancels, because the tier is stopping, gets a 503: uvicorn would send a
500 in plain text. Frequent requests that succeed (``quiet``) are logged at DEBUG.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contracts.errors import Unavailable
from web.errors import error_response
from web.request_id import REQUEST_ID_HEADER, new_request_id, request_id_for
from web.request_record import RequestRecord, has_output

PROCESSING_HEADER = b"openai-processing-ms"  # from the request to the response head
_RESTART_S = 5  # after which a stopped tier may be back
_OURS = frozenset({REQUEST_ID_HEADER, PROCESSING_HEADER})


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
        self._source = source
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
        given = next((value for key, value in headers if key == REQUEST_ID_HEADER), b"")
        request_id = request_id_for(given, self._make)
        # The raw path is percent-encoded, so it contains neither spaces nor line breaks.
        path = str(scope.get("raw_path") or scope["path"].encode(), "ascii", "backslashreplace")
        record = RequestRecord(
            self._clock(), scope["method"], self._shown(path), request_id.decode("ascii")
        )
        others = [(key, value) for key, value in headers if key != REQUEST_ID_HEADER]
        scope = {**scope, "headers": [*others, (REQUEST_ID_HEADER, request_id)], "record": record}

        async def send_noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                kept = [(k, v) for k, v in message.get("headers", ()) if k.lower() not in _OURS]
                took = (self._clock() - record.began_at) * 1e3
                kept += [(REQUEST_ID_HEADER, request_id), (PROCESSING_HEADER, b"%d" % took)]
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
        except asyncio.CancelledError:
            if record.status:  # the response has begun, so the server cuts the connection
                raise
            stopping = Unavailable(f"the {self._source} is stopping", retry_after=_RESTART_S)
            record.error = stopping.message
            await error_response(stopping, self._source)(scope, receive, send_noted)
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
