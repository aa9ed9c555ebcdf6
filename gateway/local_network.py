"""Detects when macOS blocks the local network (Local Network privacy), and says how to allow it. Pure.

macOS 15 and later block a program's access to the local network until the user allows it. For a launchd
agent macOS shows no prompt: its connections fail at once with ``EHOSTUNREACH`` (65, "No route to
host"), even to addresses that other programs reach. Loopback and the internet are not affected. Not
tested on a Mac.
"""

from __future__ import annotations

import errno

CURE = (
    "macOS may block the local network for this program: allow Python in System Settings > Privacy & "
    "Security > Local Network, or run the gateway in Docker (docs/install.md)"
)


def hint(exc: BaseException, platform: str) -> str:
    """``CURE`` if *exc* reports a host without a route on macOS; otherwise ""."""
    return CURE if platform == "darwin" and _has_no_route(exc) else ""


def _has_no_route(exc: BaseException | None) -> bool:
    """Whether *exc* or one of its causes is ``EHOSTUNREACH``."""
    if exc is None:
        return False
    if isinstance(exc, OSError) and exc.errno == errno.EHOSTUNREACH:
        return True
    inner = exc.exceptions if isinstance(exc, BaseExceptionGroup) else ()
    return any(map(_has_no_route, (*inner, exc.__cause__ or exc.__context__)))
