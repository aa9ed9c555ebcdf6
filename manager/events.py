"""An in-process event bus for ``GET /events``.

Rules: ``publish`` never waits and never fails because of a reader; call it in the thread of the event
loop. The unread events of a reader are bounded: a slow reader loses the oldest ones and gets their
number in a "lost" event, which has no id. Ids increase by one. A reader that reconnects sends the last
id it received and gets the later events that are still in ``recent``. Ids are unique across processes
if ``first_id`` comes from a clock.

Kinds and fields: ``transition {alias, from, to, reason, cause}``, ``memory {...}``,
``progress {alias, phase, download}``, ``drawing {alias, kind, step, steps, picture, pictures,
eta_seconds}``, ``pressure {level}``, ``lost {count}``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from web import sse

KEPT = 200  # events for readers that reconnect
READER_LIMIT = 256  # unread events of one reader; more than KEPT, or a reconnect would lose some
CHECK_EVERY_S = 15.0
CONNECTION_CHECK = sse.comment("")  # readers skip it; writing it reveals a closed connection


@dataclass(frozen=True, slots=True)
class BusEvent:
    kind: str
    data: Mapping[str, Any] = field(default_factory=dict)
    id: int = 0  # 0: cannot be requested again


class Subscription:
    """The events of one reader; iterate over it. Cancelling a wait loses no event."""

    def __init__(self, missed: Iterable[BusEvent], lost: int) -> None:
        self._unread = deque(missed, maxlen=READER_LIMIT)
        self._lost = lost
        self._ended = False
        self._wake = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Subscription unread={len(self._unread)} lost={self._lost} ended={self._ended}>"

    def put(self, event: BusEvent) -> None:
        self._lost += len(self._unread) == READER_LIMIT
        self._unread.append(event)
        self._wake.set()

    def end(self) -> None:
        """Add no more events; unread ones can still be read."""
        self._ended = True
        self._wake.set()

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> BusEvent:
        while not self._lost and not self._unread:
            if self._ended:
                raise StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()
        if self._lost:
            count, self._lost = self._lost, 0
            return BusEvent("lost", {"count": count})
        return self._unread.popleft()


class EventBus:
    def __init__(self, *, first_id: int = 1) -> None:
        self._first_id = self._next_id = first_id
        self._recent: deque[BusEvent] = deque(maxlen=KEPT)
        self._readers: set[Subscription] = set()
        self._closed = False

    def __repr__(self) -> str:
        return f"<EventBus next={self._next_id} readers={len(self._readers)} closed={self._closed}>"

    @property
    def recent(self) -> list[BusEvent]:
        """The last events, oldest first."""
        return list(self._recent)

    @property
    def readers(self) -> int:
        return len(self._readers)

    def publish(self, kind: str, data: Mapping[str, Any]) -> None:
        """Give the event to all readers. Has no effect after ``close``."""
        if self._closed:
            return
        event = BusEvent(kind, dict(data), self._next_id)
        self._next_id += 1
        self._recent.append(event)
        for reader in self._readers:
            reader.put(event)

    @contextlib.asynccontextmanager
    async def subscribe(self, last_id: int | None = None) -> AsyncIterator[Subscription]:
        """Receive events from now on; with *last_id*, the later recent events first."""
        reader = self._reader(last_id)
        self._readers.add(reader)
        try:
            yield reader
        finally:
            self._readers.discard(reader)

    def close(self) -> None:
        """End all subscriptions, and later ones, after their unread events."""
        self._closed = True
        for reader in self._readers:
            reader.end()

    def _reader(self, last_id: int | None) -> Subscription:
        missed, lost = [], 0
        if last_id is not None:
            # An id outside the range of this process comes from an earlier process.
            ours = self._first_id <= last_id < self._next_id
            missed = [e for e in self._recent if not ours or e.id > last_id]
            lost = missed[0].id - last_id - 1 if ours and missed else 0
        reader = Subscription(missed, lost)
        if self._closed:
            reader.end()
        return reader


def last_event_id(header: str | None) -> int | None:
    """The ``Last-Event-ID`` header as a number; None when it is missing or not a number."""
    text = (header or "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None


def event_of(event: BusEvent) -> bytes:
    """*event* as one server-sent event."""
    return sse.event(event.data, name=event.kind, id=event.id or None)


async def stream(
    subscription: Subscription, *, check_every_s: float = CHECK_EVERY_S
) -> AsyncIterator[bytes]:
    """The body of ``GET /events``: events, and a comment at the start and after each ``check_every_s``.

    Ends when the bus is closed.
    """
    yield CONNECTION_CHECK
    while True:
        try:
            async with asyncio.timeout(check_every_s):
                event = await anext(subscription)
        except TimeoutError:
            yield CONNECTION_CHECK
        except StopAsyncIteration:
            return
        else:
            yield event_of(event)
