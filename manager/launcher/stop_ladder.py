"""The end of the stop ladder: SIGTERM, wait, SIGKILL, reap. For workers, standby workers and pulls.

Rules: what comes before SIGTERM (draining a worker, a last measurement) is in ``manager.worker_run``.
"""

from __future__ import annotations

import asyncio
import logging

from manager.launcher.process import Handle, StopSignal

log = logging.getLogger(__name__)


async def stop(handle: Handle, exited: asyncio.Future[int], grace_s: float, *, name: str = "") -> int:
    """Stop *handle* and return its exit status; sends nothing once *exited* is done.

    *exited*: ends with ``handle.wait()``. *grace_s*: from SIGTERM to SIGKILL. *name*: for the log line
    before a SIGKILL; without one, nothing is logged.
    """
    if not exited.done():
        handle.signal(StopSignal.TERMINATE)
        await asyncio.wait({exited}, timeout=grace_s)
    if not exited.done():
        if name:
            log.warning("%s: pid %d ignores SIGTERM; killing it", name, handle.pid)
        handle.signal(StopSignal.KILL)
    return await exited
