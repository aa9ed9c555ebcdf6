"""Ends this process with its parent: when the pipe that is standard input closes.

A pipe closes when its last writer is gone, even after ``kill -9``, so the parent needs no handler.
Works the same on macOS and Linux.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading

log = logging.getLogger(__name__)


def leave_with_parent(grace_s: float) -> None:
    """At the end of standard input, send SIGTERM to this process; exit hard after *grace_s* seconds."""
    threading.Thread(target=_watch, args=(grace_s,), name="parent-pipe", daemon=True).start()


def _watch(grace_s: float) -> None:
    # os.read, not sys.stdin: a buffered reader holds a lock that interpreter shutdown waits for.
    while os.read(sys.__stdin__.fileno() if sys.__stdin__ else 0, 4096):
        pass
    log.warning("the parent process is gone: shutting down")
    # A server in shutdown may be stuck in a native call; this thread is not.
    timer = threading.Timer(grace_s, os._exit, args=(1,))
    timer.daemon = True
    timer.start()
    os.kill(os.getpid(), signal.SIGTERM)
