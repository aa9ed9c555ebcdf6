"""uvicorn's HTTP protocol with four changes.

* **One write per event loop turn.** uvicorn writes the head, each body part and the end separately;
  each write is a system call that wakes the reader. Here everything written in one turn is sent
  together. A part of a stream still leaves at the end of the turn that produced it.
* **Limits** on what uvicorn leaves open: the size of a request head, and how slowly a request may
  arrive (``web.receive_timeouts``).
* **Trailers** of a chunked body are not headers (RFC 9110, 6.5.1) and are dropped. uvicorn adds them
  to the headers of a request that arrives in one piece, after those headers were checked.
* **An upgrade** that is not offered is ignored (RFC 9110, 7.8). The parser would drop the body of such
  a request, and everything after it on the connection. Java's client asks for ``h2c`` with every first
  request.

Overrides undocumented methods and attributes of uvicorn, so pyproject.toml pins its version and
tests/web/test_http_protocol.py names it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, ClassVar

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from contracts.errors import (
    ApiError,
    HeadersTooLarge,
    InvalidRequest,
    RequestTimeout,
    Unavailable,
    UrlTooLong,
)
from web.errors import raw_error
from web.receive_timeouts import Limits, ReceiveTimer, Stage

_COALESCED_BYTES = 1 << 16  # larger writes go straight to the transport, whose flow control counts them


class FramingProtocol(HttpToolsProtocol):
    """Drops trailers and ignores upgrades."""

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as exc:
            self._read_without_upgrade(data[exc.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")

    def _read_without_upgrade(self, rest: bytes) -> None:
        """Parse the current head, and the *rest* of the data after it, with a new parser."""
        line = (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        # Values from the parser contain no line ends.
        fields = [b"%b: %b\r\n" % field for field in self.headers if field[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # same as uvicorn
        self.data_received(b"%b %b HTTP/%b\r\n" % line + b"".join(fields) + b"\r\n" + rest)

    def _asks_for_upgrade(self) -> bool:
        # The parser reports CONNECT as an upgrade too. Its target is no path: an error like any other.
        return bool(self.parser.should_upgrade()) and self.parser.get_method() != b"CONNECT"

    def on_headers_complete(self) -> None:
        if not self._asks_for_upgrade():
            super().on_headers_complete()
            # Headers that arrive after this are trailers. The request keeps its own list.
            self.headers = deque(maxlen=0)  # type: ignore[assignment]

    def on_message_complete(self) -> None:
        if not self._asks_for_upgrade():
            super().on_message_complete()


class CoalescingTransport:
    """A transport that collects writes until the end of the current event loop turn."""

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
        if self._size >= _COALESCED_BYTES:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        parts, self._parts, self._size = self._parts, [], 0
        if self._transport.is_closing():  # the client closed the connection during this turn
            return
        if len(parts) == 1:
            self._transport.write(parts[0])
        elif parts:
            self._transport.write(b"".join(parts))


class _Refused(Exception):
    """Raised inside the parser to stop it."""


class BoundedProtocol(FramingProtocol):
    """Limits the size of everything a client may send, and the time it may take.

    Requests refused before an ASGI request exists are answered here, with the usual error body.
    """

    limits: ClassVar[Limits] = Limits()
    source: ClassVar[str] = "server"

    _refusal: ApiError | None = None
    _ticking: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(CoalescingTransport(transport, self.loop))  # type: ignore[arg-type]
        self._timer = ReceiveTimer(self.limits)
        if len(self.connections) > self.limits.connections:
            self._refuse(Unavailable("too many connections", retry_after=1))
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
        timer = self._timer
        if timer.stage is Stage.DONE and not self._is_answering():
            timer.enter(Stage.HEAD)
        timer.received(len(data))
        super().data_received(data)
        if timer.size > self.limits.head and timer.stage in (Stage.HEAD, Stage.DONE):
            self._refuse(self._oversized() or self._head_too_large())
        elif timer.stage in (Stage.BODY, Stage.LEFTOVER) and timer.framing_bytes > self.limits.head:
            # The parser buffers a trailer until it is complete.
            self._refuse(HeadersTooLarge("the trailers or chunk extensions are too large"))

    def on_body(self, body: bytes) -> None:
        self._timer.received_body(len(body))
        super().on_body(body)

    def on_headers_complete(self) -> None:
        error = self._oversized()
        if error is not None:
            self._refusal = error
            raise _Refused
        super().on_headers_complete()
        self._timer.enter(Stage.BODY)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._timer.enter(Stage.DONE)

    def _oversized(self) -> ApiError | None:
        limits = self.limits
        if len(self.url) > limits.url:
            return UrlTooLong(f"the URL is longer than {limits.url} bytes")
        if len(self.headers) > limits.headers:
            return HeadersTooLarge(f"the request has more than {limits.headers} headers")
        if self._timer.size > limits.head:
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
        if self._timer.stage is Stage.BODY and self.cycle.response_complete:
            self._timer.enter(Stage.LEFTOVER)
        if self._waits_for_client() and self._timer.tick(self.limits.tick_s):
            self._too_slow()

    def _waits_for_client(self) -> bool:
        if self.flow.read_paused:
            return False
        # A streaming response is not cut because of data that the client sends in the meantime.
        return not self._is_answering() or self._is_reading_body()

    def _is_answering(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete

    def _is_reading_body(self) -> bool:
        """Whether the app has a request whose body is incomplete and has sent nothing yet."""
        in_turn = self._timer.stage is Stage.BODY and not self.pipeline
        return in_turn and not self.cycle.response_started

    def _too_slow(self) -> None:
        if self.scope is None:
            self.transport.close()  # nothing was sent: a browser's spare connection, or a port scan
        else:
            part = "head" if self._timer.stage is Stage.HEAD else "body"
            self._refuse(RequestTimeout(f"the request {part} arrived too slowly"))

    # --- refusing --------------------------------------------------------------------------------

    def send_400_response(self, msg: str) -> None:
        self._refuse(self._refusal or InvalidRequest("the request is not valid HTTP"))

    def _refuse(self, error: ApiError) -> None:
        """Send *error* if a response is due, then close the connection."""
        if self.transport.is_closing():
            return
        if self._is_reading_body():
            # The app sees a disconnected client and sends nothing more.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            self.transport.write(raw_error(error, self.source))
        elif self._timer.stage is Stage.HEAD:
            self.transport.write(raw_error(error, self.source))
        self.transport.close()


def protocol_class(limits: Limits, source: str) -> type[BoundedProtocol]:
    """The protocol class with *limits*, for the tier named *source*."""
    return type("BoundedProtocol", (BoundedProtocol,), {"limits": limits, "source": source})
