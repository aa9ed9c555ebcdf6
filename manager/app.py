"""The manager's HTTP face: control routes by FastAPI, and beside them the proxy, which is raw ASGI.

Rules: routes translate between HTTP and the pool and decide nothing. ``GET /health`` needs neither the
pool nor the token. Answers of POST routes are always objects: the dashboard takes anything else as a
failure.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from contracts.control import ManagerStatus
from contracts.settings import GIB, Settings
from manager import memory
from manager.auth import TokenGuard
from manager.memory import MemoryReading
from manager.pool import Pool
from manager.process import Launcher, LocalLauncher
from manager.proxy import PREFIX, SOURCE, Proxy
from manager.readiness import HttpProbe
from manager.status import WorkerReport, manager_status
from manager.worker import Timeouts, Worker
from web.errors import install_error_handlers
from web.relay import open_session
from web.request_id import RequestId

if TYPE_CHECKING:
    from aiohttp import ClientSession

log = logging.getLogger(__name__)


class ManagerApp:
    """The whole manager as one ASGI app."""

    def __init__(
        self,
        settings: Settings,
        *,
        launcher: Launcher | None = None,
        clock: Callable[[], float] = time.monotonic,
        read_memory: Callable[[], MemoryReading] = memory.read,
        timeouts: Timeouts | None = None,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._read_memory = read_memory
        self._started_at = clock()
        self._session: ClientSession | None = None
        self._probe = HttpProbe()
        self.pool = Pool(
            settings,
            launcher or LocalLauncher(),
            self._probe,
            budget=settings.memory.budget_bytes(read_memory().total),
            clock=clock,
            timeouts=timeouts,
        )
        self._control = self._routes()
        self._proxy = Proxy(self.pool, self._open_session)
        self._entry = RequestId(TokenGuard(self._switch, settings.manager.token, source=SOURCE))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._entry(scope, receive, send)

    async def _switch(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(PREFIX):
            await self._proxy(scope, receive, send)
        else:
            await self._control(scope, receive, send)

    def _open_session(self) -> ClientSession:
        assert self._session is not None, "the app was not started"
        return self._session

    @asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        async with open_session() as self._session:
            log.info("budget for all workers: %.1f GB", self.pool.budget / GIB)
            self.pool.start()
            try:
                yield
            finally:
                await self.pool.close()
                await self._probe.aclose()

    def status(self) -> ManagerStatus:
        return manager_status(
            [self._report(worker) for worker in self.pool.workers.values()],
            self._read_memory(),
            self._settings,
            budget=self.pool.budget,
            started_at=self._started_at,
            now=self._clock(),
        )

    def _report(self, worker: Worker) -> WorkerReport:
        life, handle = worker.life, worker.handle
        return WorkerReport(
            alias=worker.alias,
            model=worker.model,
            state=worker.state,
            memory=worker.memory,
            charged=worker.charged,
            pid=handle.pid if handle else 0,
            port=handle.address.port if handle else worker.model.port,
            leases=life.leases,
            queued=self.pool.queued(worker.alias),
            request_count=worker.request_count,
            launched_at=worker.launched_at,
            last_used=life.last_used,
            retry_at=life.retry_at,
            phase=worker.phase,
            last_error=worker.last_error,
        )

    def _routes(self) -> FastAPI:
        app = FastAPI(
            title="Vision Insight worker manager",
            lifespan=self._lifespan,
            docs_url=None,
            redoc_url=None,
        )
        install_error_handlers(app, SOURCE)
        pool = self.pool

        @app.get("/health")
        async def health() -> dict[str, Any]:
            return {"status": "ok", "uptime_seconds": round(self._clock() - self._started_at, 3)}

        @app.get("/status")
        async def status() -> ManagerStatus:
            return self.status()

        @app.post("/spawn/{alias}")
        async def spawn(alias: str) -> dict[str, Any]:
            async with pool.lease(alias) as lease:
                return {
                    "success": True,
                    "alias": alias,
                    "port": lease.address.port,
                    "pid": lease.worker.handle.pid if lease.worker.handle else 0,
                    "state": lease.worker.state,
                    "load_seconds": round(lease.load_s, 3),
                }

        @app.post("/stop/{alias}")
        async def stop(alias: str) -> dict[str, Any]:
            was_loaded = await pool.stop(alias)
            return {
                "success": True,
                "alias": alias,
                "was_loaded": was_loaded,
                "state": pool.worker(alias).state,
            }

        @app.post("/stop-all")
        async def stop_all() -> dict[str, Any]:
            return {"success": True, "stopped": await pool.stop_all()}

        @app.post("/touch/{alias}")
        async def touch(alias: str) -> dict[str, Any]:
            return {
                "success": True,
                "alias": alias,
                "loaded": pool.touch(alias),
                "state": pool.worker(alias).state,
            }

        return app
