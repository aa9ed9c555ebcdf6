"""How much of the gateway one client may use: a token bucket and a count of open requests per client.

Pure: times are parameters, from one monotonic clock. Bounded: a client is remembered while it matters,
and of clients with ever new addresses only the last few thousand.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from dataclasses import dataclass

_SLACK = 1e-9  # of a token: a client that retries on time is not refused by a rounding error


@dataclass(frozen=True, slots=True)
class Grant:
    """Whether a request may pass, and its client's state afterwards. Seconds."""

    allowed: bool
    remaining: int  # requests that would pass now
    reset_s: float  # until the bucket is full
    retry_after_s: float  # until one request would pass; 0: now


class TokenBuckets:
    """A bucket of *burst* tokens per client, refilled at *per_minute*. A request takes one token."""

    def __init__(self, per_minute: float, burst: int, *, clients: int) -> None:
        self._per_second = per_minute / 60
        self._burst = burst
        self._clients = clients
        # Least recently used first. (tokens, time of that count)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, client: str, now: float) -> Grant:
        tokens, since = self._buckets.pop(client, (float(self._burst), now))
        tokens = min(self._burst, tokens + max(0.0, now - since) * self._per_second)
        allowed = tokens >= 1 - _SLACK
        if allowed:
            tokens = max(0.0, tokens - 1)
        self._buckets[client] = (tokens, now)
        if len(self._buckets) > self._clients:
            self._buckets.popitem(last=False)
        return Grant(
            allowed,
            remaining=int(tokens + _SLACK),
            reset_s=(self._burst - tokens) / self._per_second,
            retry_after_s=max(0.0, 1 - tokens) / self._per_second,
        )


class OpenRequests:
    """Counts each client's open requests, at most *limit*; a client without any is forgotten."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._open)

    def enter(self, client: str) -> bool:
        """Open one more request if the limit allows it; returns whether it does."""
        if self._open[client] >= self._limit:
            return False
        self._open[client] += 1
        return True

    def leave(self, client: str) -> None:
        self._open[client] -= 1
        if not self._open[client]:
            del self._open[client]


def whole_seconds(seconds: float) -> int:
    """The value of ``Retry-After``: never too early, and at least 1."""
    return max(1, math.ceil(seconds - _SLACK))


def duration(seconds: float) -> str:
    """*seconds* as OpenAI writes ``x-ratelimit-reset-requests``: ``120ms``, ``7.66s``, ``6m0s``."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000 - _SLACK)}ms"
    minutes, rest = divmod(seconds, 60)
    shown = f"{rest:.2f}".rstrip("0").rstrip(".")
    return f"{int(minutes)}m{shown}s" if minutes else f"{shown}s"
