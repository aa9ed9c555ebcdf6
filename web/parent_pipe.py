"""Leaves with the parent: a process with a pipe as standard input ends when that pipe closes.

A pipe closes when its last writer is gone, however it went: a ``kill -9`` of the parent needs no
handler there. It works alike on macOS and Linux.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading

log = logging.getLogger(__name__)


def leave_with_parent(grace_s: float) -> None:
    """At the end of standard input: SIGTERM to ourselves, and the hard way after *grace_s* seconds."""
    threading.Thread(target=_watch, args=(grace_s,), name="parent-pipe", daemon=True).start()


def _watch(grace_s: float) -> None:
    # os.read, not sys.stdin: a buffered reader holds a lock that interpreter shutdown would wait for.
    while os.read(sys.__stdin__.fileno() if sys.__stdin__ else 0, 4096):
        pass
    log.warning("the parent process is gone: leaving")
    # A server in shutdown may be stuck in a native call; this thread is not.
    timer = threading.Timer(grace_s, os._exit, args=(1,))
    timer.daemon = True
    timer.start()
    os.kill(os.getpid(), signal.SIGTERM)
