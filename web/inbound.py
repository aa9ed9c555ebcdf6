"""The client's side of one request: its body, chunk by chunk, and whether the client is still there.

ASGI has one ``receive`` for both, so one task reads it: first the body, then the disconnect. The body
is read ahead by a bounded number of bytes, so that a request that waits for something holds little.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

from starlette.types import Receive

from contracts.errors import PayloadTooLarge

READ_AHEAD = 1 << 20  # bytes

T = TypeVar("T")


class ClientGone(Exception):
    """The client closed its connection; there is nobody to answer."""


class Inbound:
    """``async with Inbound(receive) as inbound`` reads the request for as long as the block runs."""

    def __init__(self, receive: Receive, *, read_ahead: int = READ_AHEAD) -> None:
        self._receive = receive
        self._read_ahead = read_ahead
        self._chunks: deque[bytes] = deque()
        self._buffered = 0
        self._complete = False
        self._gone = asyncio.Event()
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        assert self._reader is not None
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)

    async def _read(self) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._gone.set()
                self._changed.set()
                return
            chunk = message.get("body", b"")
            if chunk:
                self._chunks.append(chunk)
                self._buffered += len(chunk)
            self._complete = self._complete or not message.get("more_body", False)
            self._changed.set()
            while self._buffered >= self._read_ahead and not self._complete:
                self._room.clear()
                await self._room.wait()

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body; raises ``ClientGone`` when it ends before it is whole."""
        while True:
            while self._chunks:
                chunk = self._chunks.popleft()
                self._buffered -= len(chunk)
                self._room.set()
                yield chunk
            if self._complete:
                return
            if self._gone.is_set():
                raise ClientGone
            self._changed.clear()
            await self._changed.wait()

    async def body(self, limit: int) -> bytes:
        """The whole body; raises ``PayloadTooLarge`` as soon as it passes *limit* bytes."""
        parts, size = [], 0
        async for chunk in self.chunks():
            size += len(chunk)
            if size > limit:
                raise PayloadTooLarge(f"the request body is larger than {limit} bytes")
            parts.append(chunk)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def gone(self) -> None:
        """Returns when the client has left."""
        await self._gone.wait()

    async def while_here(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of *work*, which is cancelled, with ``ClientGone``, when the client leaves."""
        task = asyncio.create_task(work)
        left = asyncio.create_task(self.gone())
        try:
            await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise ClientGone
            return task.result()
        finally:
            await _cancelled(task, left)


async def _cancelled(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    waiting: Awaitable[Any] = asyncio.gather(*tasks, return_exceptions=True)
    await waiting
