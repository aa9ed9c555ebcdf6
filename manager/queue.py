"""Tickets that wait for a lease, in order of arrival, and the limit on their number."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from contracts.errors import ApiError
from manager.lease import Ticket


class Queue:
    """A ticket leaves with its result, or is removed.

    *limit*: how many tickets of one alias may wait. *timeout_s*: how long each may wait.
    """

    def __init__(self, limit: int, timeout_s: float, clock: Callable[[], float]) -> None:
        self.limit = limit
        self.timeout_s = timeout_s
        self._clock = clock
        self._tickets: list[Ticket] = []

    def __repr__(self) -> str:
        return f"<Queue {[ticket.alias for ticket in self._tickets]}>"

    def __len__(self) -> int:
        return len(self._tickets)

    def __iter__(self) -> Iterator[Ticket]:
        return iter(self._tickets)

    def waiting_for(self, alias: str) -> int:
        return sum(ticket.alias == alias for ticket in self._tickets)

    def is_full(self, alias: str) -> bool:
        """More tickets of *alias* wait than the limit allows, the newest one included."""
        return self.waiting_for(alias) > self.limit

    def append(self, ticket: Ticket) -> None:
        self._tickets.append(ticket)

    def remove(self, ticket: Ticket) -> None:
        self._tickets.remove(ticket)

    def drop_done(self) -> None:
        """Remove the tickets that have a result."""
        self._tickets = [ticket for ticket in self._tickets if not ticket.result.done()]

    def refuse(self, make: Callable[[], ApiError], alias: str | None = None) -> None:
        """Refuse the tickets of *alias*, or all; each gets its own error object."""
        for ticket in self._tickets:
            if alias in (None, ticket.alias):
                ticket.result.set_exception(make())
        self.drop_done()

    async def wait(self, ticket: Ticket, fetched_at: Callable[[], float]) -> bool:
        """Wait until *ticket* has a result; False: it timed out.

        *fetched_at*: when bytes of its model last arrived. The time does not run during a download.
        """
        while not ticket.result.done():
            left = max(ticket.asked_at, fetched_at()) + self.timeout_s - self._clock()
            if left <= 0:
                return False
            await asyncio.wait({ticket.result}, timeout=left)
        return True
