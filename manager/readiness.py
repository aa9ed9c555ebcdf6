"""Is a starting worker ready, and does it get on? A pure judge, and the probe that feeds it.

Rules: ready is only who answers 200 with the nonce and the pid of the process that was launched; any
other answer on the port is a stranger's. Progress is a change of phase or detail; the deadline runs
from the last progress, so that a slow load that gets on is never given up, and one that hangs is.
Time in which the manager itself stood still does not count.
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
SLEPT_S = 5.0  # between two polls; longer than any takes
_BODY_LIMIT = 1 << 16  # bytes; a stranger may send anything


class Answer(NamedTuple):
    """What ``GET /health`` gave."""

    status: int
    body: bytes


Probe = Callable[[Address], Awaitable[Answer | None]]  # None: no answer


@dataclass(slots=True)
class Readiness:
    """What is known of one process on its way to ready."""

    nonce: str
    pid: int
    timeout_s: float
    progressed_at: float
    phase: str = "starting"
    detail: str = ""
    done_bytes: int = 0  # of a download
    fetched_at: float = float("-inf")  # when bytes of a download last came, or were verified
    stranger: bool = False
    health: WorkerHealth | None = None  # the last of its own
    polled_at: float = 0.0  # 0: not yet
    began_at: float = 0.0

    def __post_init__(self) -> None:
        self.began_at = self.progressed_at

    def heard(self, answer: Answer | None, now: float) -> bool:
        """Take in what the probe heard; True when the worker is ready."""
        if answer is None:
            return False
        health = parse_health(answer)
        if health is None or (health.nonce, health.pid) != (self.nonce, self.pid):
            self.stranger = True
            return False
        self.stranger = False
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
        """The worker itself says that it can't."""
        return self.phase == Phase.FAILED

    def polled(self, now: float) -> None:
        """To be told of every poll: time in which the manager did not run (the machine slept, the clock
        was set) is held against nobody."""
        gap, self.polled_at = now - (self.polled_at or now), now
        if not 0 <= gap <= SLEPT_S:
            self.progressed_at = now

    def overdue(self, now: float) -> bool:
        return now - self.progressed_at >= self.timeout_s

    @property
    def complaint(self) -> str:
        """Why it was given up, for people."""
        if self.stranger:
            return "another process answers on its port"
        return f"no progress for {self.timeout_s:g} s while {self}"

    def __str__(self) -> str:
        return f"{self.phase} ({self.detail})" if self.detail else self.phase


def moved(download: Download) -> int:
    """A number that grows with each byte of *download* that came or was verified."""
    return download.done_bytes + download.verified_bytes


def parse_health(answer: Answer | None) -> WorkerHealth | None:
    """The health in *answer*; None when it holds none."""
    if answer is None:
        return None
    try:
        return WorkerHealth.model_validate_json(answer.body)
    except ValidationError:
        return None


class HttpProbe:
    """Asks ``/health`` over a fresh connection each time: an old one may lead to an old process."""

    def __init__(self, timeout_s: float = PROBE_TIMEOUT_S) -> None:
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)  # a stranger may dribble
        self._session: aiohttp.ClientSession | None = None  # it belongs to the loop that uses it

    async def __call__(self, address: Address) -> Answer | None:
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
                return Answer(response.status, body)
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()
