"""Keeps a Mac awake while work is open: one ``caffeinate`` process, held by the manager.

A Mac mini with ``sleep 1`` goes to sleep in the middle of a job. ``caffeinate -i`` prevents idle sleep
for as long as it runs, and ``-w PID`` ends it with the manager, whichever way that ends.

Rules: ``awake_is_wanted`` decides, ``Awake`` acts. There is never more than one process. Elsewhere than
on macOS nothing happens. A ``caffeinate`` that is not there costs one line in the log. Never run on a
Mac by the project's tests: they use a stand-in program.
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
LINGER_S = 10.0  # after the last work, so that a conversation does not start a process for each turn
_GRACE_S = 2.0
_RETRY_S = 60.0  # after it has ended by itself


def awake_is_wanted(*, busy: bool, worked_at: float | None, now: float) -> bool:
    """Whether the machine must stay awake. *worked_at*: when work was last open, None: never."""
    return busy or (worked_at is not None and 0 <= now - worked_at < LINGER_S)


class Awake:
    """``look`` at it once a second, ``close`` it at the end; both may wait for a process.

    Safe to call from several threads.
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

    def look(self, busy: bool, now: float) -> None:
        """Start or end the process, if that is due."""
        with self._lock:
            if not self._works:
                return
            if busy:
                self._worked_at = now
            wanted = awake_is_wanted(busy=busy, worked_at=self._worked_at, now=now)
            if self._process is not None and self._process.poll() is not None:
                self._not_before = now + _RETRY_S
                self._process = None
            if not wanted:
                self._end()
            elif self._process is None and now >= self._not_before:
                self._start()

    def close(self) -> None:
        """End the process, and start none any more."""
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
                "%s can't be started (%s): this Mac may go to sleep while it works; "
                "`sudo pmset -a sleep 0` prevents that",
                self._program,
                exc.strerror or exc,
            )
