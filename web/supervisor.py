"""What starts this process again when it ends, and the exit status that it understands.

systemd takes 2 as "wrong settings, don't start it again" (RestartPreventExitStatus). launchd has no
such list: it starts whatever did not end with 0 again, every ten seconds for ever. Its property
lists set VISION_SUPERVISOR.
"""

from __future__ import annotations

from collections.abc import Mapping

VARIABLE = "VISION_SUPERVISOR"
WRONG_SETTINGS = 2


def wrong_settings(reason: str, environ: Mapping[str, str]) -> tuple[int, str]:
    """The exit status of a tier that can't use its settings, and what it says."""
    if environ.get(VARIABLE) != "launchd":
        return WRONG_SETTINGS, reason
    return 0, f"{reason}\nlaunchd does not start it again: correct the settings, then make restart"
