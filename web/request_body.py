"""The client's side of one request: its body, chunk by chunk, and whether the client is still there.

ASGI has one ``receive`` for both. Before ``while_here`` it is read when a chunk is asked for; during it
one task reads it, first the rest of the body, then the disconnect. The body is read ahead by a bounded
number of bytes, so that a request that waits for something holds little.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

from starlette.types import Receive

from contracts.errors import PayloadTooLarge

READ_AHEAD = 1 << 20  # bytes

T = TypeVar("T")


def too_large(limit: int) -> PayloadTooLarge:
    """A request's body has more than *limit* bytes."""
    told = f"{limit >> 20} MiB" if limit >= 1 << 20 else f"{limit >> 10} KiB"
    return PayloadTooLarge(f"the request body is larger than {told} ({limit} bytes)")


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
        self._gone = False
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None
        self._at_work: asyncio.Task[Any] | None = None  # cancelled when the client leaves

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
        """One message of ``receive``."""
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
                self._room.clear()
                await self._room.wait()
        if self._at_work is not None:
            self._at_work.cancel()

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
            if self._gone:
                raise ClientGone
            if self._reader is None:
                await self._take()
            else:
                self._changed.clear()
                await self._changed.wait()

    async def body(self, limit: int) -> bytes:
        """The whole body; raises ``PayloadTooLarge`` as soon as it passes *limit* bytes."""
        parts, size = [], 0
        async for chunk in self.chunks():
            size += len(chunk)
            if size > limit:
                raise too_large(limit)
            parts.append(chunk)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def while_here(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of *work*, which is cancelled, with ``ClientGone``, when the client leaves.

        It runs in the task that asks, as under ``asyncio.timeout``: a task of its own costs as much as
        a third of a hop.
        """
        if self._gone:
            work.close()
            raise ClientGone
        task = asyncio.current_task()
        assert task is not None
        self._at_work = task
        if self._reader is None:
            self._reader = asyncio.create_task(self._read())
        try:
            return await work
        except asyncio.CancelledError:
            # Cancelled by the client's leaving, unless somebody else has asked for it as well.
            if self._gone and task.uncancel() == 0:
                raise ClientGone from None
            raise
        finally:
            self._at_work = None
