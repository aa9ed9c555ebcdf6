"""Assembles the manager: pool, ticker, pulls, events, control routes (FastAPI), proxy (raw ASGI).

Rules: nothing is decided here. ``GET /health`` needs neither the pool nor the token.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from contracts.control import Download, ManagerStatus
from contracts.settings import Settings
from contracts.settings.base import GIB
from manager.auth import TokenGuard
from manager.awake import Awake
from manager.ceiling import LIMIT_FILE, Budget, mac_of
from manager.events import EventBus
from manager.launcher.process import LocalLauncher, worker_argv
from manager.launcher.pulls import Pulls
from manager.launcher.standby import DEFAULT_FROM, Parker, Standbys
from manager.memory import pressure, system
from manager.memory.peaks import Peaks
from manager.memory.pressure import Pressure
from manager.memory.system import MemoryReading
from manager.metrics import ManagerMetrics, families
from manager.pool import Pool
from manager.proxy import PREFIX, SOURCE, Proxy
from manager.readiness import HttpProbe
from manager.routes import control_routes
from manager.status import BudgetReport, WorkerReport, manager_status
from manager.ticker import Ticker
from manager.worker_run import Timeouts
from web.access_log import AccessLog
from web.errors import install_error_handlers
from web.metrics import exposition
from web.origin_guard import ANY, OriginGuard, OriginPolicy
from web.relay import open_session
from web.request_body import SMALL_BODY

if TYPE_CHECKING:
    from starlette.responses import Response
    from starlette.types import ASGIApp

log = logging.getLogger(__name__)

_QUIET = ("/health", "/status", "/metrics")  # polled every few seconds by the gateway and dashboards


class ManagerApp:
    """The whole manager as one ASGI app."""

    def __init__(
        self,
        settings: Settings,
        *,
        launcher: Parker | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        read_memory: Callable[[], MemoryReading] = system.read,
        read_pressure: Callable[[], Pressure | None] = pressure.read,
        timeouts: Timeouts | None = None,
        awake: Awake | None = None,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._wall_clock = wall_clock
        self._read_memory = read_memory
        self._started_at = clock()
        self._probe = HttpProbe()
        total = read_memory().total
        # Event ids of an earlier process are never mistaken for ids of this one.
        self.events = EventBus(first_id=int(wall_clock() * 1000))
        self.metrics = ManagerMetrics(settings, clock=clock)
        self.peaks = Peaks(Path(settings.manager.state_dir) / "peaks.json", wall_clock=wall_clock)
        self.pulls = Pulls(on_change=self._pull_changed, clock=clock)
        self.standbys = standbys(settings, launcher, total)
        self._budget = Budget(
            settings.memory, total, mac_of(total), Path(settings.manager.state_dir) / LIMIT_FILE
        )
        self.pool = Pool(
            settings,
            self.standbys or launcher or LocalLauncher(worker_argv(settings.workers)),
            self._probe,
            budget=self._budget.bytes,
            clock=clock,
            timeouts=timeouts,
            peaks=self.peaks,
            read_memory=read_memory,
            standbys=self.standbys,
            fetching=self.pulls.progress,
            pulled_at=self.pulls.fetched_at,
            outdated=lambda alias: self.pulls.update(alias, settings.models[alias]),
            publish=self._publish,
        )
        self._awake = awake or Awake()
        self.ticker = Ticker(
            self.pool,
            peaks=self.peaks,
            events=self.events,
            clock=clock,
            read_pressure=read_pressure,
            read_memory=read_memory,
            standbys=self.standbys,
            budget=self._budget,
            awake=self._awake,
            pulling=self._pulling,
        )
        self._proxy = Proxy(self.pool)
        self._control = FastAPI(
            title="Vision Insight worker manager",
            lifespan=self._lifespan,
            docs_url=None,
            redoc_url=None,
        )
        install_error_handlers(self._control, SOURCE)
        self._control.include_router(
            control_routes(
                pool=self.pool,
                pulls=self.pulls,
                events=self.events,
                uptime_s=lambda: clock() - self._started_at,
                status=self.status,
                metrics=self._exposition,
            )
        )
        guarded: ASGIApp = TokenGuard(self._switch, settings.manager.token, source=SOURCE)
        guarded = OriginGuard(guarded, origin_policy(settings), source=SOURCE)
        self._entry = AccessLog(guarded, SOURCE, quiet=_QUIET, observers=[self.metrics])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._entry(scope, receive, send)

    async def _switch(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(PREFIX):
            await self._proxy(scope, receive, send)
        else:
            await self._control(scope, receive, send)

    @asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        async with open_session() as self._proxy.session:
            log.info("budget for all workers: %.1f GB (%s)", self._budget.bytes / GIB, self._budget.why)
            self.pool.start()
            ticking = asyncio.create_task(self.ticker.run(), name="ticker")
            try:
                yield
            finally:
                ticking.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await ticking
                await self.close()
                await self._probe.aclose()

    async def close(self, *, hurry: bool = False) -> None:
        """Stop all workers, pulls and standbys; *hurry*: without draining. May be called twice."""
        closing = [self.pool.close(hurry=hurry), self.pulls.close()]
        if self.standbys is not None:
            closing.append(self.standbys.close())
        await asyncio.gather(*closing)
        self.events.close()
        await asyncio.to_thread(self.peaks.save)
        await asyncio.to_thread(self._budget.save)
        await asyncio.to_thread(self._awake.close)

    def _publish(self, kind: str, data: Mapping[str, Any]) -> None:
        self.metrics.count(kind, data)
        self.events.publish(kind, data)

    def _pulling(self) -> bool:
        return any(self.pulls.progress(alias) is not None for alias in self.pool.workers)

    def _pull_changed(self, alias: str, download: Download | None) -> None:
        phase, data = ("downloading", download.model_dump()) if download else ("", None)
        if download and 0 < download.total_bytes <= download.done_bytes:
            phase = "verifying"
        self.events.publish("progress", {"alias": alias, "phase": phase, "download": data})

    def status(self) -> ManagerStatus:
        return manager_status(
            self._reports(),
            self._read_memory(),
            self._settings,
            budget=self._budget_report(),
            started_at=self._started_at,
            now=self._clock(),
            wall_now=self._wall_clock(),
        )

    async def _exposition(self) -> Response:
        """The response of ``GET /metrics``."""
        found = families(self._reports(), self._read_memory(), self._budget_report())
        return await exposition(self.metrics.registry, found)

    def _budget_report(self) -> BudgetReport:
        standbys = self.standbys
        count = standbys.count if standbys else 0
        return BudgetReport(
            budget=self.pool.budget,
            budget_reason=self._budget.why,
            standbys=count,
            standbys_ready=standbys.ready if standbys else 0,
            standby_memory=count * standbys.memory_each if standbys else 0,
            pressure=self.ticker.pressure,
        )

    def _reports(self) -> list[WorkerReport]:
        return [w.report(self.pool.queued(w.alias)) for w in self.pool.workers.values()]


def origin_policy(settings: Settings) -> OriginPolicy:
    """Which hosts and origins may use the manager; the gateway's name for it is allowed.

    ``*`` among the gateway's CORS origins does not apply here: pages that may use the API must not stop
    workers. Bodies for workers have no limit here; the gateway and the worker limit them.
    """
    return OriginPolicy(
        "manager",
        allowed_hosts=[*settings.manager.allowed_hosts, settings.gateway.manager_host],
        origins=[origin for origin in settings.gateway.cors_origins if origin != ANY],
        body_limit=lambda path: None if path.startswith(PREFIX) else SMALL_BODY,
    )


def standbys(settings: Settings, launcher: Parker | None, total: int) -> Standbys | None:
    """The standby workers for *settings* on a machine with *total* bytes of memory."""
    count = settings.manager.standby
    if count is None:
        count = 1 if launcher is None and total >= DEFAULT_FROM else 0
    kinds = sorted({model.kind for model in settings.models.values()})
    local = launcher or LocalLauncher(worker_argv(settings.workers))
    return Standbys(local, kinds, count) if count else None
