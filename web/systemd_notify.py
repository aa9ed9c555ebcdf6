"""Tells the service manager how the process is (systemd's ``sd_notify``): ready, alive, stopping.

Rules: without systemd nothing happens; a message that can't be delivered costs nothing but the
watchdog's patience. The variables are taken out of the environment, so that no child speaks for us.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import MutableMapping

log = logging.getLogger(__name__)


class Notifier:
    def __init__(self, address: str = "", watchdog_s: float = 0.0) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_s = watchdog_s  # killed when not heard of for so long; 0: never

    @classmethod
    def taken_from(cls, environ: MutableMapping[str, str]) -> Notifier:
        address = environ.pop("NOTIFY_SOCKET", "")
        watchdog_us = environ.pop("WATCHDOG_USEC", "")
        environ.pop("WATCHDOG_PID", None)
        return cls(address, int(watchdog_us) / 1e6 if watchdog_us.isdigit() else 0.0)

    def ready(self, what: str) -> None:
        self._say(f"READY=1\nSTATUS={what}")

    async def alive(self) -> None:
        """To be called from the event loop: if that stands still, systemd ends the process."""
        self._say("WATCHDOG=1")

    def stopping(self) -> None:
        self._say("STOPPING=1")

    def _say(self, text: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
                channel.setblocking(False)
                channel.sendto(text.encode(), self._address)
        except OSError as exc:
            log.warning("systemd can't be told %s: %s", text.partition("\n")[0], exc)
