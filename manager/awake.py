"""Keeps a Mac awake while there is work, with one ``caffeinate`` process.

A Mac mini with ``pmset sleep 1`` sleeps in the middle of a job. ``caffeinate -i`` prevents idle sleep
while it runs; ``-w PID`` ends it with the manager, even after a crash.

Rules: ``must_stay_awake`` decides, ``Awake`` acts. There is at most one process. On other systems
nothing happens. A missing ``caffeinate`` is logged once. Not tested on a Mac: the tests use a stand-in
program.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

log = logging.getLogger(__name__)

CAFFEINATE = Path("/usr/bin/caffeinate")
LINGER_S = 10.0  # after the last work, so that a chat does not start a process per message
_GRACE_S = 2.0
_RETRY_S = 60.0  # after it exited unexpectedly


def must_stay_awake(*, busy: bool, worked_at: float | None, now: float) -> bool:
    """Whether the machine must stay awake. *worked_at*: when there was work last, None: never."""
    return busy or (worked_at is not None and 0 <= now - worked_at < LINGER_S)


class Awake:
    """Call ``update`` once a second and ``close`` at the end; both may wait for a process.

    Thread-safe.
    """

    def __init__(self, program: Path = CAFFEINATE, platform: str = sys.platform) -> None:
        self._program = program
        self._works = platform == "darwin"
        self._process: subprocess.Popen[bytes] | None = None
        self._worked_at: float | None = None
        self._not_before = float("-inf")
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<Awake held={self.held}>"

    @property
    def held(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def update(self, busy: bool, now: float) -> None:
        """Start or end the process if necessary."""
        with self._lock:
            if not self._works:
                return
            if busy:
                self._worked_at = now
            needed = must_stay_awake(busy=busy, worked_at=self._worked_at, now=now)
            if self._process is not None and self._process.poll() is not None:
                self._not_before = now + _RETRY_S
                self._process = None
            if not needed:
                self._end()
            elif self._process is None and now >= self._not_before:
                self._start()

    def close(self) -> None:
        """End the process, and start no other."""
        with self._lock:
            self._works = False
            self._end()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _start(self) -> None:
        command = [str(self._program), "-i", "-w", str(os.getpid())]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as exc:
            self._works = False
            log.warning(
                "%s cannot be started (%s): this Mac may sleep while it works; "
                "`sudo pmset -a sleep 0` prevents that",
                self._program,
                exc.strerror or exc,
            )
