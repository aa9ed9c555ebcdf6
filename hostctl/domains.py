"""Find the launchd domain of our services on this Mac. Standard library only.

Rules: the installed kind stays until the owner requests the other one (``BOOT=1``, ``BOOT=0``). Agents
stay in the domain in which they are loaded. New ones use gui/UID; without a login at the screen launchd
refuses gui/UID with status 125, and they use user/UID.
"""

from __future__ import annotations

import plistlib
from collections.abc import Mapping
from pathlib import Path
from xml.parsers.expat import ExpatError

from hostctl import launchd
from hostctl.command import output
from hostctl.launchd import SYSTEM, Launchd, label, print_command
from hostctl.services import TIERS, Installation

_NOT_FOUND = 127  # launchctl itself


def find(place: Installation, environ: Mapping[str, str], *, boot: bool | None = None) -> Launchd:
    """The installed services; *boot*: launch daemons (True) or agents (False) instead."""
    daemons = launchd.DAEMONS
    if boot is None:
        daemon = Launchd(place, SYSTEM, daemons=daemons)
        boot = any(daemon.file(tier).exists() for tier in TIERS)
    domain, elsewhere = (SYSTEM, ()) if boot else _agents_domain(place, environ)
    files = Launchd(place, domain, daemons=daemons)
    stop_s = {label(tier): _exit_timeout(files.file(tier)) for tier in TIERS}
    return Launchd(place, domain, elsewhere=elsewhere, stop_s=stop_s, daemons=daemons)


def other_kind(place: Installation, environ: Mapping[str, str], services: Launchd) -> Launchd | None:
    """The other kind of services than *services*, if any is installed."""
    other = find(place, environ, boot=services.kind == "agent")
    return other if any(other.file(tier).exists() for tier in TIERS) else None


def _agents_domain(place: Installation, environ: Mapping[str, str]) -> tuple[str, tuple[str, ...]]:
    """The domain in which agents are or can be loaded, and other domains in which they are."""
    gui, user = f"gui/{place.uid}", f"user/{place.uid}"
    loaded = [
        domain
        for domain in (gui, user)
        if any(output(print_command(domain, tier), environ)[0] == 0 for tier in TIERS)
    ]
    if loaded:
        return loaded[0], tuple(loaded[1:])
    status, _ = output(("launchctl", "print", gui), environ)
    if status in (0, _NOT_FOUND) or output(("launchctl", "print", user), environ)[0] != 0:
        return gui, ()
    return user, ()


def _exit_timeout(file: Path) -> float:
    """``ExitTimeOut`` of definition *file*: seconds that launchd gives the service to exit."""
    try:
        seconds = plistlib.loads(file.read_bytes()).get("ExitTimeOut")
    except (OSError, ValueError, ExpatError, plistlib.InvalidFileException):
        return launchd.STOP_S
    return float(seconds) if isinstance(seconds, int) else launchd.STOP_S
