"""How much of the gateway one client may use: a bucket of tokens each, and a count of open requests.

Pure: times are parameters, by one monotonic clock. Bounded: a client is remembered while it matters,
and of those that come by ever new addresses only the last few thousand.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from dataclasses import dataclass

_SLACK = 1e-9  # of a token: who comes back when told is not sent away by a rounding error


@dataclass(frozen=True, slots=True)
class Grant:
    """Whether a request may pass, and how its client stands after it. Seconds."""

    allowed: bool
    remaining: int  # requests that would pass now
    reset_s: float  # until the bucket is full
    retry_after_s: float  # until one request would pass; 0 when one would now


class TokenBuckets:
    """A bucket of *burst* tokens for each client, refilled at *per_minute*; a request takes one."""

    def __init__(self, per_minute: float, burst: int, *, clients: int) -> None:
        self._per_second = per_minute / 60
        self._burst = burst
        self._clients = clients
        # By last use. (tokens, when there were so many)
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
    """How many requests each client has open, *limit* at most; a client without any is forgotten."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._open)

    def enter(self, client: str) -> bool:
        """Whether one more may be open; then it is, until ``leave``."""
        if self._open[client] >= self._limit:
            return False
        self._open[client] += 1
        return True

    def leave(self, client: str) -> None:
        self._open[client] -= 1
        if not self._open[client]:
            del self._open[client]


def whole_seconds(seconds: float) -> int:
    """What ``Retry-After`` says: not before its time, and 1 at least."""
    return max(1, math.ceil(seconds - _SLACK))


def duration(seconds: float) -> str:
    """As OpenAI writes them in ``x-ratelimit-reset-requests``: ``120ms``, ``7.66s``, ``6m0s``."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000 - _SLACK)}ms"
    minutes, rest = divmod(seconds, 60)
    shown = f"{rest:.2f}".rstrip("0").rstrip(".")
    return f"{int(minutes)}m{shown}s" if minutes else f"{shown}s"
