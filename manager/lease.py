"""Leases, the right to use one process of a worker, and tickets, requests that wait for a lease."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from manager.launcher.process import Address
from manager.worker import Worker


@dataclass(frozen=True, slots=True)
class Lease:
    """Held from the grant of a request to the end of its response; belongs to one process."""

    worker: Worker
    incarnation: int
    address: Address
    queue_s: float  # from arrival to the grant
    load_s: float  # the part of it during which the worker was loading

    def release(self) -> None:
        self.worker.release(self.incarnation)

    async def broken(self, within_s: float) -> bool:
        """Whether the process has been reaped; waits for it for up to *within_s* seconds."""
        try:
            async with asyncio.timeout(within_s):
                await self.worker.ended(self.incarnation)
        except TimeoutError:
            return False
        return True


class Leasing:
    """A context manager for a lease. A class, because a generator is several times slower."""

    __slots__ = ("_granted", "_lease", "_release")

    def __init__(self, granted: Awaitable[Lease], release: Callable[[Lease], None]) -> None:
        self._granted = granted
        self._release = release

    async def __aenter__(self) -> Lease:
        self._lease = await self._granted
        return self._lease

    async def __aexit__(self, *exc: object) -> None:
        self._release(self._lease)


@dataclass(eq=False, slots=True)
class Ticket:
    """``result`` gets the lease, or the error for the client."""

    alias: str
    asked_at: float
    result: asyncio.Future[Lease] = field(repr=False)
    keep_alive_s: float | None = None  # None: the configured idle timeout
    counts: bool = True  # as a request; False for a load by hand
    pressure: bool = False  # only memory pressure prevents the load

    def grant(self, worker: Worker, now: float) -> None:
        """Grant a lease on *worker*, which is ready."""
        loading_since = max(self.asked_at, worker.launched_at)
        lease = Lease(
            worker=worker,
            incarnation=worker.lease(self.keep_alive_s, counts=self.counts),
            address=worker.address,
            queue_s=now - self.asked_at,
            load_s=max(0.0, worker.life.ready_at - loading_since),
        )
        self.result.set_result(lease)
