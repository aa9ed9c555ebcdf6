"""The control routes, for operators, the dashboard and the gateway.

Rules: a route translates between HTTP and the pool and decides nothing. POST routes always respond with
a JSON object: the dashboard treats anything else as a failure.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import PlainTextResponse, Response, StreamingResponse

from contracts.control import LoadResponse, ManagerStatus, UnloadResponse
from contracts.wire import KeepAlive
from manager.events import EventBus, last_event_id, stream
from manager.launcher.pulls import Pulls
from manager.pool import Pool
from web import sse

_NO_CACHE = {"cache-control": "no-cache"}


def control_routes(
    *,
    pool: Pool,
    pulls: Pulls,
    events: EventBus,
    uptime_s: Callable[[], float],
    status: Callable[[], ManagerStatus],
    metrics: Callable[[], Awaitable[Response]],
) -> APIRouter:
    """*metrics* gives the response of ``GET /metrics``."""
    router = APIRouter()

    @router.get("/health")
    async def get_health() -> dict[str, Any]:
        return {"status": "ok", "uptime_seconds": round(uptime_s(), 3)}

    @router.get("/status")
    async def get_status() -> ManagerStatus:
        return status()

    @router.get("/metrics", response_class=PlainTextResponse)
    async def get_metrics() -> Response:
        """Metrics for Prometheus."""
        return await metrics()

    @router.post("/spawn/{alias}")
    async def spawn(alias: str, keep_alive: KeepAlive | None = None) -> LoadResponse:
        """Load *alias*, and respond when it is ready."""
        async with pool.lease(alias, keep_alive=keep_alive, counts=False) as lease:
            return LoadResponse(
                alias=alias,
                port=lease.address.port,
                pid=lease.worker.handle.pid if lease.worker.handle else 0,
                state=lease.worker.state,
                load_seconds=round(lease.load_s, 3),
            )

    @router.post("/stop/{alias}")
    async def stop(alias: str) -> UnloadResponse:
        """Stop *alias* after its open requests."""
        was_loaded = await pool.stop(alias)
        return UnloadResponse(alias=alias, was_loaded=was_loaded, state=pool.worker(alias).state)

    @router.post("/stop-all")
    async def stop_all() -> dict[str, Any]:
        return {"success": True, "stopped": await pool.stop_all()}

    @router.post("/touch/{alias}")
    async def touch(alias: str) -> dict[str, Any]:
        """Restart the idle time of *alias*."""
        return {
            "success": True,
            "alias": alias,
            "loaded": pool.touch(alias),
            "state": pool.worker(alias).state,
        }

    @router.post("/pull/{alias}")
    async def pull(alias: str) -> dict[str, Any]:
        """Download the files of *alias* without loading it, and respond when it is done.

        Progress is in ``/status`` and ``/events``. The download continues when the client leaves.
        """
        outcome = await pulls.pull(alias, pool.worker(alias).model)
        return {
            "success": True,
            "alias": alias,
            "fetched_bytes": outcome.fetched_bytes,
            "seconds": round(outcome.seconds, 3),
        }

    @router.get("/events")
    async def get_events(request: Request) -> Response:
        """Server-sent events: transitions, progress of loads and of images, memory, pressure."""
        last_id = last_event_id(request.headers.get("last-event-id"))

        async def body() -> AsyncIterator[bytes]:
            async with events.subscribe(last_id) as subscription:
                async for chunk in stream(subscription):
                    yield chunk

        return StreamingResponse(body(), media_type=sse.CONTENT_TYPE, headers=_NO_CACHE)

    @router.get("/logs/{alias}")
    async def get_logs(
        alias: str, follow: bool = False, lines: Annotated[int, Query(ge=1, le=1000)] = 50
    ) -> Response:
        """The last log lines of *alias*; with ``follow=1``, one server-sent event per line."""
        worker_log = pool.worker(alias).log
        if not follow:
            return PlainTextResponse("".join(f"{line}\n" for line in worker_log.last_lines(lines)))

        async def body() -> AsyncIterator[bytes]:
            async with worker_log.follow(lines) as follower:
                async for batch in follower:
                    for line in batch:
                        yield sse.event(line)

        return StreamingResponse(body(), media_type=sse.CONTENT_TYPE, headers=_NO_CACHE)

    return router
