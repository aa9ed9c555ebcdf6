"""uvicorn's HTTP protocol, with one system call for all that one turn of the event loop writes.

uvicorn writes the head of an answer, each part of its body and the end apart, and each write is a
system call that wakes the reader. An answer that is there as a whole leaves as a whole; a part of a
stream leaves at the end of the turn that brought it, as before.
"""

from __future__ import annotations

import asyncio
from typing import Any

from web.framing import FramingProtocol

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
