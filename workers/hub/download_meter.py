"""The progress of a download: bytes, rate and time left; ``contracts.amounts`` puts them into words.

Rules: pure; the caller passes the time (seconds, monotonic). Bytes that were there before the first
sample do not count for the rate.
"""

from __future__ import annotations

from collections import deque

from contracts.control import Download

WINDOW_S = 10.0  # over which the rate is averaged


class DownloadMeter:
    """Turns byte counts into a ``Download`` whose ``done_bytes`` never shrinks."""

    def __init__(self, total_bytes: int, window_s: float = WINDOW_S) -> None:
        self._total = total_bytes
        self._window_s = window_s
        self._samples: deque[tuple[float, int]] = deque()
        self._done = 0

    def advanced(self, done_bytes: int, now: float) -> Download:
        """The progress with *done_bytes* at *now*. Rate and time left are 0 if a whole window brought
        no byte."""
        self._done = max(self._done, min(done_bytes, self._total))
        self._samples.append((now, self._done))
        while len(self._samples) > 2 and self._samples[1][0] <= now - self._window_s:
            self._samples.popleft()
        then, before = self._samples[0]
        rate = (self._done - before) / (now - then) if now > then else 0.0
        return Download(
            done_bytes=self._done,
            total_bytes=self._total,
            bytes_per_second=rate,
            eta_seconds=(self._total - self._done) / rate if rate else 0.0,
        )
