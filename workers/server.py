"""A worker's process: its socket, its server, its exit.

Rules: ``__main__`` binds the port before anything slow happens, so that a port in use fails at once and
``/health`` responds while libraries are imported. The process exits on a signal, when its parent exits,
or after a failed load, always within seconds. The reason for a failed load is the last line of the log.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import time
from types import FrameType

import uvicorn
from fastapi import FastAPI

from contracts.control import Phase
from contracts.settings.models import ImageSettings, VlmSettings
from web.parent_pipe import leave_with_parent
from web.serve import config_for
from workers.app import create_app
from workers.engine import AnyEngine
from workers.serving.endpoint import SOURCE, Worker

GRACE_S = 1  # seconds that requests have to finish after SIGTERM
FAILED_HEALTH_S = 1.0  # seconds for which /health reports why the load failed, before the exit
PARENT_GRACE_S = 1.5  # seconds from the parent's exit to the hard exit
EXIT_FAILED = 1


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, worker: Worker) -> None:
        super().__init__(config)
        self._worker = worker

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # uvicorn would raise the signal again at the end, and the exit status would be lost.
        self.force_exit = self.should_exit
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Requests still open after the grace period get an error, not just a closed connection.
        asyncio.get_running_loop().call_later(GRACE_S, self._worker.thread.stop_jobs)
        await super().shutdown(sockets)


def make_engine(alias: str, settings: VlmSettings | ImageSettings, wired_limit: int = 0) -> AnyEngine:
    # Neither engine imports its library before ``load``.
    if isinstance(settings, VlmSettings):
        from workers.vlm.engine import VlmEngine

        return VlmEngine(alias, settings, wired_limit)
    from workers.image.engine import MfluxEngine

    return MfluxEngine(alias, settings, wired_limit)


def serve(
    alias: str,
    settings: VlmSettings | ImageSettings,
    sock: socket.socket,
    *,
    nonce: str = "",
    parent_pipe: bool = False,
    engine: AnyEngine | None = None,
    wired_limit: int = 0,
) -> int:
    """Serve until a signal, the parent's exit or a failed load; returns the exit status.

    *wired_limit*: bytes, see ``runtime.limit_memory``; 0 wires nothing.
    """
    server: _Server | None = None

    def on_failed() -> None:
        time.sleep(FAILED_HEALTH_S)
        if server is not None:
            server.should_exit = True

    app: FastAPI = create_app(
        alias,
        settings,
        engine or make_engine(alias, settings, wired_limit),
        nonce=nonce,
        on_failed=on_failed,
    )
    worker: Worker = app.state.worker
    server = _Server(config_for(app, source=SOURCE, graceful_s=GRACE_S + 1), worker)
    if parent_pipe:
        leave_with_parent(PARENT_GRACE_S)
    server.run(sockets=[sock])
    if worker.thread.phase is Phase.FAILED:
        # Without a log prefix, as the last line: the manager shows it as the reason.
        logging.shutdown()
        prefix = "" if worker.thread.lost else "load failed: "
        sys.stderr.write(f"{prefix}{worker.thread.detail}\n")
        return EXIT_FAILED
    return 0


def leave(status: int) -> None:
    """Exit now: the model thread may be inside MLX and must not be torn down there."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
