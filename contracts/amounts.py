"""Format bytes, rates and durations as text. 1 GB is 1,000,000,000 bytes, as on the Hub. Pure."""

from __future__ import annotations

from contracts.control import Download

_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
_MINUTES_FROM_S = 120
_HOURS_FROM_S = 2 * 3600


def size_text(count: float) -> str:
    """*count* bytes as text: ``6.2 GB``, ``35 MB``."""
    scale, unit = _unit(count)
    return f"{_short(count / scale)} {unit}"


def part_text(done: float, total: float) -> str:
    """``1.2 of 4.5 GB``"""
    scale, unit = _unit(total)
    return f"{_short(done / scale)} of {_short(total / scale)} {unit}"


def left_text(download: Download) -> str:
    """``93 of 177 MB, about 42 s left``; unknown parts are left out."""
    if not download.total_bytes:
        return "its size is not known yet"
    parts = [part_text(download.done_bytes, download.total_bytes)]
    if download.eta_seconds:
        parts.append(f"about {_time_text(download.eta_seconds)} left")
    return ", ".join(parts)


def progress_text(download: Download) -> str:
    """``1.2 of 4.5 GB, 35 MB/s, about 95 s left``; an unknown time is left out."""
    parts = [
        part_text(download.done_bytes, download.total_bytes),
        f"{size_text(download.bytes_per_second)}/s",
    ]
    if download.eta_seconds:
        parts.append(f"about {_time_text(download.eta_seconds)} left")
    return ", ".join(parts)


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
