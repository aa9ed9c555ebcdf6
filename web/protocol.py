"""uvicorn's HTTP protocol, with one system call for all that one turn of the event loop writes.

uvicorn writes the head of an answer, each part of its body and the end apart, and each write is a
system call that wakes the reader. An answer that is there as a whole leaves as a whole; a part of a
stream leaves at the end of the turn that brought it, as before.
It also bounds what uvicorn does not: the size of a head, and how slowly a request may come
(``web.receive_timeouts``).
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from contracts.errors import (
    ApiError,
    HeadersTooLarge,
    InvalidRequest,
    RequestTimeout,
    Unavailable,
    UrlTooLong,
)
from web.errors import raw_error
from web.framing import FramingProtocol
from web.receive_timeouts import Intake, Limits, Stage

_GATHERED = 1 << 16  # bytes; more than that is left to the transport, whose flow control counts it


class GatheredTransport:
    """A transport whose writes are gathered until the event loop has nothing else to do in its turn."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._parts: list[bytes] = []
        self._size = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)
        self._size += len(data)
        if self._size >= _GATHERED:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        parts, self._parts, self._size = self._parts, [], 0
        if self._transport.is_closing():  # the client went within this turn
            return
        if len(parts) == 1:
            self._transport.write(parts[0])
        elif parts:
            self._transport.write(b"".join(parts))


class GatheringProtocol(FramingProtocol):
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(GatheredTransport(transport, self.loop))  # type: ignore[arg-type]


class _Refused(Exception):
    """Raised inside of the parser, so that it goes no further."""


class BoundedProtocol(GatheringProtocol):
    """uvicorn's protocol with an end to everything that a client may send, and to its taking its time.

    What is refused before there is an ASGI request is answered here, in the shape of all errors.
    """

    limits: ClassVar[Limits] = Limits()
    source: ClassVar[str] = "server"

    _refusal: ApiError | None = None
    _ticking: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._intake = Intake(self.limits)
        if len(self.connections) > self.limits.connections:
            self._refuse(Unavailable("there are too many connections", retry_after=1))
        else:
            self._ticking = self.loop.call_later(self.limits.tick_s, self._tick)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._ticking is not None:
            self._ticking.cancel()
        super().connection_lost(exc)

    # --- size ------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        intake = self._intake
        if intake.stage is Stage.DONE and not self._is_answering():
            intake.enter(Stage.HEAD)
        intake.took(len(data))
        super().data_received(data)
        if intake.size > self.limits.head and intake.stage in (Stage.HEAD, Stage.DONE):
            self._refuse(self._oversized() or self._head_too_large())
        elif intake.stage in (Stage.BODY, Stage.LEFTOVER) and intake.framing > self.limits.head:
            # The parser keeps a trailer until it is whole.
            self._refuse(HeadersTooLarge("the trailers, or extensions of chunks, are too large"))

    def on_body(self, body: bytes) -> None:
        self._intake.passed(len(body))
        super().on_body(body)

    def on_headers_complete(self) -> None:
        error = self._oversized()
        if error is not None:
            self._refusal = error
            raise _Refused
        super().on_headers_complete()
        self._intake.enter(Stage.BODY)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._intake.enter(Stage.DONE)

    def _oversized(self) -> ApiError | None:
        limits = self.limits
        if len(self.url) > limits.url:
            return UrlTooLong(f"the URL is longer than {limits.url} bytes")
        if len(self.headers) > limits.headers:
            return HeadersTooLarge(f"there are more than {limits.headers} headers")
        if self._intake.size > limits.head:
            size = len(self.url) + sum(len(key) + len(value) + 4 for key, value in self.headers)
            if size > limits.head:
                return self._head_too_large()
        return None

    def _head_too_large(self) -> HeadersTooLarge:
        return HeadersTooLarge(f"the headers are larger than {self.limits.head >> 10} KiB")

    # --- time ------------------------------------------------------------------------------------

    def _tick(self) -> None:
        if self.transport.is_closing():
            return
        self._ticking = self.loop.call_later(self.limits.tick_s, self._tick)
        if self._intake.stage is Stage.BODY and self.cycle.response_complete:
            self._intake.enter(Stage.LEFTOVER)
        if self._waits_for_client() and self._intake.tick(self.limits.tick_s):
            self._too_slow()

    def _waits_for_client(self) -> bool:
        if self.flow.read_paused:
            return False
        # An answer that streams is not cut because of what is sent after, or beside, its request.
        return not self._is_answering() or self._is_reading_body()

    def _is_answering(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete

    def _is_reading_body(self) -> bool:
        """Whether a request is on its way to the app, and no byte of its answer on its way back."""
        in_turn = self._intake.stage is Stage.BODY and not self.pipeline
        return in_turn and not self.cycle.response_started

    def _too_slow(self) -> None:
        if self.scope is None:
            self.transport.close()  # it never said a word: a browser's spare connection, or a scan
        else:
            part = "head" if self._intake.stage is Stage.HEAD else "body"
            self._refuse(RequestTimeout(f"the {part} of the request came too slowly"))

    # --- refusing --------------------------------------------------------------------------------

    def send_400_response(self, msg: str) -> None:
        self._refuse(self._refusal or InvalidRequest("this is not valid HTTP"))

    def _refuse(self, error: ApiError) -> None:
        """Answer with *error*, where an answer is due, and hang up."""
        if self.transport.is_closing():
            return
        if self._is_reading_body():
            # Its app is told that the client has gone, and says nothing more.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            self.transport.write(raw_error(error, self.source))
        elif self._intake.stage is Stage.HEAD:
            self.transport.write(raw_error(error, self.source))
        self.transport.close()


def bounded(limits: Limits, source: str) -> type[BoundedProtocol]:
    """The protocol with *limits*, for the tier named *source*."""
    return type("BoundedProtocol", (BoundedProtocol,), {"limits": limits, "source": source})
