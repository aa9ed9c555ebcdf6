"""Whether a starting worker is ready and makes progress: a pure judge, and the probe that feeds it.

Rules: a worker is ready when ``/health`` responds 200 with the nonce and the pid of the launched
process; any other response on the port comes from another process. Progress is a change of phase or
detail. The timeout runs from the last progress, so a slow load continues and a hanging one fails. Time
in which the manager itself did not run does not count.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NamedTuple

import aiohttp
from pydantic import ValidationError

from contracts.control import Download, Phase, WorkerHealth
from manager.launcher.process import Address

PROBE_TIMEOUT_S = 2.0
SLEPT_S = 5.0  # a longer gap between polls means that the manager did not run
_BODY_LIMIT = 1 << 16  # bytes; another process may send anything


class ProbeResponse(NamedTuple):
    """A response to ``GET /health``."""

    status: int
    body: bytes


Probe = Callable[[Address], Awaitable[ProbeResponse | None]]  # None: no response


@dataclass(slots=True)
class Readiness:
    """The progress of one process that loads."""

    nonce: str
    pid: int
    timeout_s: float
    progressed_at: float
    phase: str = "starting"
    detail: str = ""
    done_bytes: int = 0  # of a download
    fetched_at: float = float("-inf")  # when bytes of a download last arrived or were verified
    foreign: bool = False  # another process responds on the port
    health: WorkerHealth | None = None  # the last response of this process
    polled_at: float = 0.0  # 0: never
    began_at: float = 0.0

    def __post_init__(self) -> None:
        self.began_at = self.progressed_at

    def update(self, answer: ProbeResponse | None, now: float) -> bool:
        """Record the result of a probe; True when the worker is ready."""
        if answer is None:
            return False
        health = parse_health(answer)
        if health is None or (health.nonce, health.pid) != (self.nonce, self.pid):
            self.foreign = True
            return False
        self.foreign = False
        self.health = health
        done = moved(health.download) if health.download else 0
        if (health.phase, health.detail, done) != (self.phase, self.detail, self.done_bytes):
            if done > self.done_bytes:
                self.fetched_at = now
            self.phase, self.detail, self.done_bytes = health.phase, health.detail, done
            self.progressed_at = now
        return answer.status == 200

    @property
    def download(self) -> Download | None:
        return self.health.download if self.health is not None else None

    @property
    def failed(self) -> bool:
        """The worker reports that its load failed."""
        return self.phase == Phase.FAILED

    def polled(self, now: float) -> None:
        """Record the time of a poll.

        After a gap in which the manager did not run (sleep, a changed clock) the timeout starts again.
        """
        gap, self.polled_at = now - (self.polled_at or now), now
        if not 0 <= gap <= SLEPT_S:
            self.progressed_at = now

    def overdue(self, now: float) -> bool:
        return now - self.progressed_at >= self.timeout_s

    @property
    def complaint(self) -> str:
        """Why the load is stopped, for people."""
        if self.foreign:
            return "another process responds on its port"
        return f"no progress for {self.timeout_s:g} s while {self}"

    def __str__(self) -> str:
        return f"{self.phase} ({self.detail})" if self.detail else self.phase


def moved(download: Download) -> int:
    """A number that grows with each byte of *download* that arrived or was verified."""
    return download.done_bytes + download.verified_bytes


def parse_health(answer: ProbeResponse | None) -> WorkerHealth | None:
    """The health in *answer*; None when there is none."""
    if answer is None:
        return None
    try:
        return WorkerHealth.model_validate_json(answer.body)
    except ValidationError:
        return None


class HttpProbe:
    """Polls ``/health``, each time over a new connection: an old one may lead to an old process."""

    def __init__(self, timeout_s: float = PROBE_TIMEOUT_S) -> None:
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)  # another process may never finish
        self._session: aiohttp.ClientSession | None = None  # made in the loop that uses it

    async def __call__(self, address: Address) -> ProbeResponse | None:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0, force_close=True)
            self._session = aiohttp.ClientSession(connector=connector, timeout=self._timeout)
        url = f"http://{address}/health"
        try:
            async with self._session.get(url, allow_redirects=False) as response:
                body = b""
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) > _BODY_LIMIT:
                        break
                return ProbeResponse(response.status, body)
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()
