"""Reports the process's state to systemd (``sd_notify``): ready, alive, stopping.

Rules: without systemd nothing happens. A message that can't be delivered is logged and dropped. The
variables are removed from the environment, so that child processes can't report for this one.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import MutableMapping

log = logging.getLogger(__name__)


class Notifier:
    def __init__(self, address: str = "", watchdog_s: float = 0.0) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_s = watchdog_s  # systemd kills the process after this silence; 0: never

    @classmethod
    def taken_from(cls, environ: MutableMapping[str, str]) -> Notifier:
        address = environ.pop("NOTIFY_SOCKET", "")
        watchdog_us = environ.pop("WATCHDOG_USEC", "")
        environ.pop("WATCHDOG_PID", None)
        return cls(address, int(watchdog_us) / 1e6 if watchdog_us.isdigit() else 0.0)

    def ready(self, what: str) -> None:
        self._send(f"READY=1\nSTATUS={what}")

    async def alive(self) -> None:
        """Call from the event loop: if the loop hangs, systemd ends the process."""
        self._send("WATCHDOG=1")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
                channel.setblocking(False)
                channel.sendto(text.encode(), self._address)
        except OSError as exc:
            log.warning("can't notify systemd of %s: %s", text.partition("\n")[0], exc)
