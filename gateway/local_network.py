"""macOS' Local Network privacy: what it looks like from here, and what the user can do about it.

macOS 15 and later keep a program off the local network until its user allows it. A launchd agent
gets no question and no notice: its connections fail with ``EHOSTUNREACH`` (65, "No route to host")
at once, also to addresses that other programs reach. Loopback and the internet are not concerned.
Pure; never seen on a Mac.
"""

from __future__ import annotations

import errno

CURE = (
    "macOS may keep this program off the local network: allow Python in System Settings > Privacy & "
    "Security > Local Network, or run the gateway in Docker (docs/install.md)"
)


def hint(exc: BaseException, platform: str) -> str:
    """``CURE`` when *exc* comes from a host without a route on macOS; else ""."""
    return CURE if platform == "darwin" and _has_no_route(exc) else ""


def _has_no_route(exc: BaseException | None) -> bool:
    """Whether ``EHOSTUNREACH`` is what *exc*, or what caused it, says."""
    if exc is None:
        return False
    if isinstance(exc, OSError) and exc.errno == errno.EHOSTUNREACH:
        return True
    inner = exc.exceptions if isinstance(exc, BaseExceptionGroup) else ()
    return any(map(_has_no_route, (*inner, exc.__cause__ or exc.__context__)))
