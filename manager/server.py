"""The manager's server: signals and the order of shutdown.

It reports ready to the service manager when it accepts requests, and alive while its event loop runs.

On SIGTERM or SIGINT:

1. Stop accepting connections.
2. Refuse waiting requests.
3. Let open requests finish within the drain timeout.
4. Stop all workers, in any case.
5. Exit.

A second SIGINT skips step 3.
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

_RESPONSES_END_S = 5.0  # after the last worker has been stopped
_MARGIN_S = 5.0


def shutdown_bound_s(settings: Settings) -> float:
    """An upper bound for the duration of an orderly shutdown."""
    manager = settings.manager
    return manager.drain_timeout_s + manager.stop_timeout_s + _RESPONSES_END_S + _MARGIN_S


class ManagerServer(uvicorn.Server):
    """uvicorn, which also stops the workers when it shuts down; *bridge*: a second listener."""

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
        # Concurrently: uvicorn waits for responses, which end at the latest when their workers do.
        closing = asyncio.create_task(self._close_workers())
        serving = asyncio.create_task(super().shutdown(sockets))
        await closing
        await asyncio.wait({serving}, timeout=_RESPONSES_END_S)
        self.force_exit = True
        await asyncio.wait({serving}, timeout=1)
        serving.cancel()  # do not wait for clients that do not read their response
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
        # uvicorn raises the signals again after the shutdown, which would end this process too early;
        # an orderly stop has exit status 0.
        before = {n: signal.signal(n, self.handle_exit) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
