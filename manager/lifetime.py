"""How long a worker's process lives: its idle timeout, and what wears it out. Times in seconds.

Rules: pure; requests and measurements are passed in. The idle timeout of the last request
(``keep_alive``) outlives a process that is replaced; the counts do not.
"""

from __future__ import annotations

from dataclasses import dataclass

from contracts.settings import Settings
from manager.watchdog import Growth


@dataclass(frozen=True, slots=True)
class LifetimeLimits:
    """Settings that end or replace a worker's process automatically."""

    idle_timeout_s: float  # -1: never
    max_requests: int = 0  # 0: any number
    growth: float = 0.0  # a share of the baseline; 0: any growth
    growth_after: int = 1  # requests

    @classmethod
    def of(cls, settings: Settings, alias: str) -> LifetimeLimits:
        return cls(
            settings.idle_timeout_s(alias),
            settings.manager.max_requests,
            settings.memory.recycle_growth,
            settings.memory.recycle_after,
        )


class Lifetime:
    """The requests and the growth of one worker's current process, compared with its limits."""

    def __init__(self, limits: LifetimeLimits) -> None:
        self.requests = 0
        self._limits = limits
        self._keep_alive_s: float | None = None  # set by the last request that was granted
        self._growth = Growth(limits.growth, limits.growth_after)

    def __repr__(self) -> str:
        return f"<Lifetime {self.requests} requests, {self._growth}>"

    def begin(self) -> None:
        """Count for a new process."""
        self.requests = 0
        self._growth = Growth(self._limits.growth, self._limits.growth_after)

    def lease(self, keep_alive_s: float | None, *, counts: bool) -> None:
        """A lease was granted. *counts*: to a request, and not only for a load."""
        self.requests += counts
        if counts or keep_alive_s is not None:
            self._keep_alive_s = keep_alive_s

    def measured(self, footprint: int) -> None:
        self._growth.measured(footprint, self.requests)

    def stopped(self) -> None:
        """The worker was stopped and not replaced: the configured idle timeout applies again."""
        self._keep_alive_s = None

    @property
    def idle_timeout_s(self) -> float:
        """How long it stays loaded after its last request; -1: no limit."""
        return self._limits.idle_timeout_s if self._keep_alive_s is None else self._keep_alive_s

    @property
    def admits(self) -> int | None:
        """The number of requests before the process must be replaced; None: any number."""
        limit = self._limits.max_requests
        return limit - self.requests if limit else None

    @property
    def worn_out(self) -> str:
        """Why the process must be replaced; "" when it need not be."""
        if self.admits is not None and self.admits <= 0:
            return f"it has served {self.requests} requests"
        if self._growth.outgrown:
            baseline, footprint = self._growth.baseline, self._growth.footprint
            return f"its footprint grew from {baseline:,} to {footprint:,} bytes"
        return ""
