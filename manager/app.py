"""The manager put together: pool, keeper, pulls, events; control routes by FastAPI, the proxy beside.

Rules: nothing is decided here. ``GET /health`` needs neither the pool nor the token.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
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
from manager.ceiling import Budget, mac_of
from manager.events import EventBus
from manager.launcher.process import LocalLauncher, worker_argv
from manager.launcher.pulls import Pulls
from manager.launcher.standby import TO_HAVE_FROM, Parker, Standbys
from manager.memory import pressure, system
from manager.memory.peaks import Peaks
from manager.memory.pressure import Pressure
from manager.memory.system import MemoryReading
from manager.metrics import ManagerMetrics, families
from manager.pool import Pool
from manager.proxy import PREFIX, SOURCE, Proxy
from manager.readiness import HttpProbe
from manager.routes import control_routes
from manager.status import Room, WorkerReport, manager_status
from manager.ticker import Keeper
from manager.worker import Worker
from manager.worker_run import Timeouts
from web.access_log import AccessLog
from web.errors import install_error_handlers
from web.origin_guard import ANY, SMALL_BODY, OriginGuard, OriginPolicy
from web.relay import open_session

if TYPE_CHECKING:
    from aiohttp import ClientSession
    from prometheus_client.metrics_core import Metric
    from starlette.types import ASGIApp

log = logging.getLogger(__name__)

_QUIET = ("/health", "/status", "/metrics")  # asked every few seconds, by the gateway and by dashboards


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
        self._session: ClientSession | None = None
        self._probe = HttpProbe()
        total = read_memory().total
        # An id of an earlier process is never taken for one of this.
        self.events = EventBus(first_id=int(wall_clock() * 1000))
        self.metrics = ManagerMetrics(settings, clock=clock)
        self.peaks = Peaks(Path(settings.manager.state_dir) / "peaks.json", wall_clock=wall_clock)
        self.pulls = Pulls(on_change=self._pull_changed, clock=clock)
        self.standbys = standbys(settings, launcher, total)
        self._budget = Budget(
            settings.memory, total, mac_of(total), Path(settings.manager.state_dir) / "gpu.json"
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
            publish=self._happened,
        )
        self._awake = awake or Awake()
        self.keeper = Keeper(
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
        self._proxy = Proxy(self.pool, self._open_session)
        self._control = FastAPI(
            title="Vision Insight worker manager",
            lifespan=self._lifespan,
            docs_url=None,
            redoc_url=None,
        )
        install_error_handlers(self._control, SOURCE)
        self._control.include_router(control_routes(self))
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

    def _open_session(self) -> ClientSession:
        assert self._session is not None, "the app was not started"
        return self._session

    @asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        async with open_session() as self._session:
            log.info("budget for all workers: %.1f GB (%s)", self._budget.bytes / GIB, self._budget.why)
            self.pool.start()
            keeping = asyncio.create_task(self.keeper.run(), name="keeper")
            try:
                yield
            finally:
                keeping.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await keeping
                await self.close()
                await self._probe.aclose()

    async def close(self, *, hurry: bool = False) -> None:
        """Stop all that runs; *hurry*: without draining it. What is done already costs nothing more."""
        closing = [self.pool.close(hurry=hurry), self.pulls.close()]
        if self.standbys is not None:
            closing.append(self.standbys.close())
        await asyncio.gather(*closing)
        self.events.close()
        await asyncio.to_thread(self.peaks.save)
        await asyncio.to_thread(self._budget.save)
        await asyncio.to_thread(self._awake.close)

    @property
    def uptime_s(self) -> float:
        return self._clock() - self._started_at

    def _happened(self, kind: str, data: Mapping[str, Any]) -> None:
        self.metrics.happened(kind, data)
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
            room=self._room(),
            started_at=self._started_at,
            now=self._clock(),
        )

    def families(self) -> Iterator[Metric]:
        """What there is now, for ``GET /metrics``."""
        return families(self._reports(), self._read_memory(), self._room())

    def _room(self) -> Room:
        standbys = self.standbys
        count = standbys.count if standbys else 0
        return Room(
            budget=self.pool.budget,
            budget_reason=self._budget.why,
            standbys=count,
            standbys_ready=standbys.ready if standbys else 0,
            standby_memory=count * standbys.memory_each if standbys else 0,
            pressure=self.keeper.pressure,
        )

    def _reports(self) -> list[WorkerReport]:
        return [self._report(worker) for worker in self.pool.workers.values()]

    def _report(self, worker: Worker) -> WorkerReport:
        life, handle, learned = worker.life, worker.handle, worker.learned
        return WorkerReport(
            alias=worker.alias,
            model=worker.model,
            state=worker.state,
            memory=worker.memory,
            learned=learned.bytes if learned else 0,
            learned_age_s=max(0.0, self._wall_clock() - learned.learned_at) if learned else 0.0,
            footprint=worker.footprint,
            peak=worker.peak,
            charged=worker.charged,
            pid=handle.pid if handle else 0,
            port=handle.address.port if handle else worker.model.port,
            leases=life.leases,
            queued=self.pool.queued(worker.alias),
            request_count=worker.request_count,
            launched_at=worker.launched_at,
            last_used=life.last_used,
            retry_at=life.retry_at,
            idle_timeout_s=worker.idle_timeout_s,
            phase=worker.phase,
            download=worker.download,
            revision=worker.revision,
            drawing=worker.drawing,
            last_error=worker.last_error,
            work=worker.work,
            caches=worker.caches,
        )


def origin_policy(settings: Settings) -> OriginPolicy:
    """Who may come in to the manager: the name that the gateway finds it by among others.

    That every page may use the API does not mean that every page may stop workers. What goes to a
    worker has been measured by the gateway, and is by the worker.
    """
    return OriginPolicy(
        "manager",
        allowed_hosts=[*settings.manager.allowed_hosts, settings.gateway.manager_host],
        origins=[origin for origin in settings.gateway.cors_origins if origin != ANY],
        body_limit=lambda path: None if path.startswith(PREFIX) else SMALL_BODY,
    )


def standbys(settings: Settings, launcher: Parker | None, total: int) -> Standbys | None:
    """The standby workers that *settings* want on a machine with *total* bytes of memory."""
    wanted = settings.manager.standby
    if wanted is None:
        wanted = 1 if launcher is None and total >= TO_HAVE_FROM else 0
    kinds = sorted({model.kind for model in settings.models.values()})
    local = launcher or LocalLauncher(worker_argv(settings.workers))
    return Standbys(local, kinds, wanted) if wanted else None
