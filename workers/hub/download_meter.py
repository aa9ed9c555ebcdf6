"""How far a download is: bytes, rate and time left, as values and as words.

Rules: pure; the clock is the caller's (seconds, monotonic). What was there before the first sample is
no part of the rate. Words use decimal units, as disks and the Hub do.
"""

from __future__ import annotations

from collections import deque

from contracts.control import Download

WINDOW_S = 10.0  # that the rate is the mean of
_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
_MINUTES_FROM_S = 120
_HOURS_FROM_S = 2 * 3600


class DownloadMeter:
    """Turns counts of bytes into a ``Download`` whose ``done_bytes`` never shrinks."""

    def __init__(self, total_bytes: int, window_s: float = WINDOW_S) -> None:
        self._total = total_bytes
        self._window_s = window_s
        self._samples: deque[tuple[float, int]] = deque()
        self._done = 0

    def advanced(self, done_bytes: int, now: float) -> Download:
        """*done_bytes* are there at *now*. Without any for a whole window, rate and time left are 0."""
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


def size_text(count: float) -> str:
    """*count* bytes in words: ``6.2 GB``, ``35 MB``."""
    scale, unit = _unit(count)
    return f"{_short(count / scale)} {unit}"


def progress_text(download: Download) -> str:
    """``1.2 of 4.5 GB, 35 MB/s, about 95 s left``; without what is not known."""
    scale, unit = _unit(download.total_bytes)
    done, total = (_short(count / scale) for count in (download.done_bytes, download.total_bytes))
    said = [f"{done} of {total} {unit}", f"{size_text(download.bytes_per_second)}/s"]
    if download.eta_seconds:
        said.append(f"about {_time_text(download.eta_seconds)} left")
    return ", ".join(said)


def _unit(count: float) -> tuple[float, str]:
    return next(((scale, unit) for scale, unit in _UNITS if count >= scale), (1.0, "bytes"))


def _short(number: float) -> str:
    return f"{number:.1f}" if 0 < number < 9.95 and number != int(number) else f"{number:.0f}"


def _time_text(seconds: float) -> str:
    if seconds < _MINUTES_FROM_S:
        return f"{max(1, round(seconds))} s"
    if seconds < _HOURS_FROM_S:
        return f"{round(seconds / 60)} min"
    return f"{round(seconds / 3600)} h"
