"""Serving the manager: its signals, and the order in which it shuts down.

It is ready, for the service manager too, when it can be asked; alive while its event loop turns.

On SIGTERM or SIGINT: stop accepting; refuse what waits; let open requests finish within the drain time;
stop all workers; leave. A second SIGINT skips the drain. Workers are stopped whatever happens.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from contracts.settings import Settings
from manager.app import ManagerApp
from manager.docker_bridge import BridgeListener
from manager.proxy import SOURCE
from web.serve import config_for, tune_garbage_collector
from web.systemd_notify import Notifier

_ANSWERS_END_S = 5.0  # after the last worker has been stopped
_MARGIN_S = 5.0


def shutdown_bound_s(settings: Settings) -> float:
    """Longer than an orderly shutdown takes."""
    manager = settings.manager
    return manager.drain_timeout_s + manager.stop_timeout_s + _ANSWERS_END_S + _MARGIN_S


class ManagerServer(uvicorn.Server):
    """uvicorn, with the workers' end fitted into its own; *bridge*: where else to listen."""

    def __init__(
        self,
        app: ManagerApp,
        *,
        notifier: Notifier | None = None,
        bridge: BridgeListener | None = None,
    ) -> None:
        config = config_for(app, source=SOURCE)
        self._notifier = notifier or Notifier()
        if self._notifier.watchdog_s:
            config.callback_notify = self._notifier.alive
            config.timeout_notify = max(1, int(self._notifier.watchdog_s / 3))
        super().__init__(config)
        self._app = app
        self._bridge = bridge
        self._listening: asyncio.Task[None] | None = None

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        tune_garbage_collector()
        super().run(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._bridge is not None:
            listening = self._bridge.run(self.config, self.server_state, self.lifespan.state)
            self._listening = asyncio.create_task(listening, name="bridge")
        self._notifier.ready("serving")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._notifier.stopping()
        if self._listening is not None:
            self._listening.cancel()
        # Beside each other: uvicorn waits for answers, which end at the latest when their workers do.
        closing = asyncio.create_task(self._close_workers())
        serving = asyncio.create_task(super().shutdown(sockets))
        await closing
        await asyncio.wait({serving}, timeout=_ANSWERS_END_S)
        self.force_exit = True
        await asyncio.wait({serving}, timeout=1)
        serving.cancel()  # a client that doesn't read its answer is not waited for
        await self.lifespan.shutdown()

    async def _close_workers(self) -> None:
        draining = asyncio.create_task(self._app.close())
        while not draining.done() and not self.force_exit:
            await asyncio.wait({draining}, timeout=0.1)
        if not draining.done():
            await self._app.close(hurry=True)
        await draining

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        # uvicorn raises the signals anew when it is done, which would end this process before its
        # caller has; an orderly stop is status 0.
        before = {n: signal.signal(n, self.handle_exit) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
