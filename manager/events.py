"""What happens in the manager, told to everybody who listens: an in-process bus for ``GET /events``.

Rules: ``publish`` never waits and never fails because of a reader; it is called in the event loop's
thread. What a slow reader has not read is bounded: it loses the oldest and is told how many ("lost",
which has no id). Ids increase by one, so that a reader that was cut off says the last id it saw and
gets what it missed, as far as ``recent`` reaches. What an id means ends with the process, unless
``first_id`` comes from a clock.

Kinds: transition {alias, from, to, reason, cause}, memory {...}, progress {alias, phase, detail,
download}, drawing {alias, kind, step, steps, picture, pictures, eta_seconds}, pressure {level}, lost
{count}.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from web import sse

KEPT = 200  # events for readers that come back
READER_LIMIT = 256  # unread events of one reader; more than KEPT, or coming back would lose some
HEARTBEAT_S = 15.0
HEARTBEAT = sse.comment("")  # readers skip it; writing it reveals a closed connection


@dataclass(frozen=True, slots=True)
class Happening:
    kind: str
    data: Mapping[str, Any] = field(default_factory=dict)
    id: int = 0  # 0: not to be asked for again


class Subscription:
    """One reader's view of the bus; iterate over it. A wait that is cancelled loses nothing."""

    def __init__(self, missed: Iterable[Happening], lost: int) -> None:
        self._unread = deque(missed, maxlen=READER_LIMIT)
        self._lost = lost
        self._ended = False
        self._wake = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Subscription unread={len(self._unread)} lost={self._lost} ended={self._ended}>"

    def put(self, happening: Happening) -> None:
        self._lost += len(self._unread) == READER_LIMIT
        self._unread.append(happening)
        self._wake.set()

    def end(self) -> None:
        """What is unread can still be read."""
        self._ended = True
        self._wake.set()

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Happening:
        while not self._lost and not self._unread:
            if self._ended:
                raise StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()
        if self._lost:
            count, self._lost = self._lost, 0
            return Happening("lost", {"count": count})
        return self._unread.popleft()


class EventBus:
    def __init__(self, *, first_id: int = 1) -> None:
        self._first_id = self._next_id = first_id
        self._recent: deque[Happening] = deque(maxlen=KEPT)
        self._readers: set[Subscription] = set()
        self._closed = False

    def __repr__(self) -> str:
        return f"<EventBus next={self._next_id} readers={len(self._readers)} closed={self._closed}>"

    @property
    def recent(self) -> list[Happening]:
        """The last events, oldest first."""
        return list(self._recent)

    @property
    def readers(self) -> int:
        return len(self._readers)

    def publish(self, kind: str, data: Mapping[str, Any]) -> None:
        """Tell everybody. After ``close`` nobody is there to be told."""
        if self._closed:
            return
        happening = Happening(kind, dict(data), self._next_id)
        self._next_id += 1
        self._recent.append(happening)
        for reader in self._readers:
            reader.put(happening)

    @contextlib.asynccontextmanager
    async def subscribe(self, last_id: int | None = None) -> AsyncIterator[Subscription]:
        """Listen from now on; *last_id*, the last one seen, gives first what came after it."""
        reader = self._reader(last_id)
        self._readers.add(reader)
        try:
            yield reader
        finally:
            self._readers.discard(reader)

    def close(self) -> None:
        """End all subscriptions, and those to come, once they have been read."""
        self._closed = True
        for reader in self._readers:
            reader.end()

    def _reader(self, last_id: int | None) -> Subscription:
        missed, lost = [], 0
        if last_id is not None:
            # An id that was not given yet, or is from before the first, is of an earlier process.
            ours = self._first_id <= last_id < self._next_id
            missed = [h for h in self._recent if not ours or h.id > last_id]
            lost = missed[0].id - last_id - 1 if ours and missed else 0
        reader = Subscription(missed, lost)
        if self._closed:
            reader.end()
        return reader


def last_event_id(header: str | None) -> int | None:
    """The ``Last-Event-ID`` that a reader sent; None when it sent none, or one that isn't ours."""
    text = (header or "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None


def event_of(happening: Happening) -> bytes:
    """*happening* as one server-sent event."""
    return sse.event(happening.data, name=happening.kind, id=happening.id or None)


async def stream(
    subscription: Subscription, *, heartbeat_s: float = HEARTBEAT_S
) -> AsyncIterator[bytes]:
    """The body of ``GET /events``: something at once, then every event, a comment in between.

    Ends when the bus is closed.
    """
    yield HEARTBEAT
    while True:
        try:
            async with asyncio.timeout(heartbeat_s):
                happening = await anext(subscription)
        except TimeoutError:
            yield HEARTBEAT
        except StopAsyncIteration:
            return
        else:
            yield event_of(happening)
