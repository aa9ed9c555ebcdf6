"""The exit status for invalid settings, which must not restart the process forever.

With systemd it is 2, which our units list in RestartPreventExitStatus. launchd has no such list: it
restarts a process every ten seconds unless it exits with 0. Our property lists set VISION_SUPERVISOR.
"""

from __future__ import annotations

from collections.abc import Mapping

VARIABLE = "VISION_SUPERVISOR"
WRONG_SETTINGS = 2


def wrong_settings(reason: str, environ: Mapping[str, str]) -> tuple[int, str]:
    """The exit status and the message of a tier whose settings are invalid for *reason*."""
    if environ.get(VARIABLE) != "launchd":
        return WRONG_SETTINGS, reason
    return 0, f"{reason}\nlaunchd will not restart it: correct the settings, then run make restart"
