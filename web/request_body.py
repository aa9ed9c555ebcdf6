"""The client's side of one request: its body in chunks, and whether the client is still connected.

ASGI has one ``receive`` for both. Outside ``while_connected``, a chunk is received when the caller
asks for it. Inside it, one task receives: first the rest of the body, then the disconnect. It reads
ahead a bounded number of bytes, so that a waiting request holds little memory.

The limit of a body is enforced here: by ``Content-Length`` before the body is received
(``declared_too_large``, which ``web.origin_guard`` calls), and by counting its bytes
(``RequestBody.chunks``).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

from starlette.types import Receive

from contracts.errors import PayloadTooLarge

READ_AHEAD = 1 << 20  # bytes
SMALL_BODY = 1 << 16  # bytes; the limit of routes that read no body

T = TypeVar("T")


def too_large(limit: int) -> PayloadTooLarge:
    """The error for a request body of more than *limit* bytes."""
    size = f"{limit >> 20} MiB" if limit >= 1 << 20 else f"{limit >> 10} KiB"
    return PayloadTooLarge(f"the request body is larger than {size} ({limit} bytes)")


def declared_too_large(content_length: bytes | None, limit: int) -> PayloadTooLarge | None:
    """The error for a body whose ``Content-Length`` exceeds *limit* bytes; None: it does not.

    None too for a body without a valid length; its bytes are counted while it is received.
    """
    if content_length is not None and content_length.isdigit() and int(content_length) > limit:
        return too_large(limit)
    return None


class ClientGone(Exception):
    """The client closed its connection; nobody is left to answer."""


class RequestBody:
    """``async with RequestBody(receive) as request_body`` receives the request while the block runs."""

    def __init__(self, receive: Receive, *, read_ahead: int = READ_AHEAD) -> None:
        self._receive = receive
        self._read_ahead = read_ahead
        self._chunks: deque[bytes] = deque()
        self._buffered = 0
        self._complete = False
        self._gone = False
        self._changed = asyncio.Event()
        self._has_space = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None
        self._working: asyncio.Task[Any] | None = None  # cancelled when the client leaves

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.cancel()
            while not self._reader.done():  # noqa: ASYNC110 - one turn, cheaper than asyncio.wait
                await asyncio.sleep(0)

    async def _take(self) -> None:
        """Process one message of ``receive``."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._gone = True
            return
        chunk = message.get("body", b"")
        if chunk:
            self._chunks.append(chunk)
            self._buffered += len(chunk)
        self._complete = self._complete or not message.get("more_body", False)

    async def _read(self) -> None:
        while not self._gone:
            await self._take()
            self._changed.set()
            while self._buffered >= self._read_ahead and not self._complete and not self._gone:
                self._has_space.clear()
                await self._has_space.wait()
        if self._working is not None:
            self._working.cancel()

    async def chunks(self, limit: int | None = None) -> AsyncGenerator[bytes, None]:
        """The body. Raises ``ClientGone`` if it ends before it is complete.

        Raises ``PayloadTooLarge`` as soon as it has more than *limit* bytes; None: no limit.
        """
        size = 0
        while True:
            while self._chunks:
                chunk = self._chunks.popleft()
                self._buffered -= len(chunk)
                self._has_space.set()
                size += len(chunk)
                if limit is not None and size > limit:
                    raise too_large(limit)
                yield chunk
            if self._complete:
                return
            if self._gone:
                raise ClientGone
            if self._reader is None:
                await self._take()
            else:
                self._changed.clear()
                await self._changed.wait()

    async def read(self, limit: int) -> bytes:
        """The whole body. Raises ``PayloadTooLarge`` as soon as it has more than *limit* bytes."""
        parts = [chunk async for chunk in self.chunks(limit)]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def while_connected(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of *work*. When the client disconnects, *work* is cancelled and ``ClientGone``
        raised.

        *work* runs in the calling task, as under ``asyncio.timeout``: a separate task would cost a
        third of a hop.
        """
        if self._gone:
            work.close()
            raise ClientGone
        task = asyncio.current_task()
        assert task is not None
        self._working = task
        if self._reader is None:
            self._reader = asyncio.create_task(self._read())
        try:
            return await work
        except asyncio.CancelledError:
            # Cancelled because the client has gone, unless something else cancelled the task too.
            if self._gone and task.uncancel() == 0:
                raise ClientGone from None
            raise
        finally:
            self._working = None
