"""Health, status, and manual loading and unloading of models."""

from __future__ import annotations

import time
from typing import Annotated, Literal

import httpx
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from contracts.control import LoadResponse, ManagerStatus, UnloadResponse
from contracts.errors import UpstreamError
from contracts.wire import KeepAlive
from gateway.routes.models import ModelName
from gateway.routing import find_alias

router = APIRouter(tags=["system"])

IdleTime = Annotated[
    KeepAlive | None,
    Query(
        description="Seconds without requests after which the model unloads, instead of the configured "
        "idle timeout. 0: at once; -1: no idle timeout."
    ),
]


class Health(BaseModel):
    status: Literal["ok", "degraded"]
    manager: Literal["ok", "unreachable"]
    uptime_seconds: float


class Readiness(BaseModel):
    status: Literal["ok", "degraded"]


@router.api_route("/healthz", methods=["GET", "HEAD"])
async def healthz(request: Request) -> Health:
    """Liveness: 200 while the gateway runs.

    ``degraded`` while the manager is unreachable.
    """
    up = await request.app.state.manager.is_up()
    return Health(
        status="ok" if up else "degraded",
        manager="ok" if up else "unreachable",
        uptime_seconds=round(time.monotonic() - request.app.state.started, 1),
    )


@router.api_route(
    "/readyz",
    methods=["GET", "HEAD"],
    responses={
        200: {"description": "Requests can be served."},
        503: {"model": Readiness, "description": "The manager is unreachable."},
    },
)
async def readyz(request: Request, response: Response) -> Readiness:
    """Readiness: 200 when requests can be served, else 503."""
    up = await request.app.state.manager.is_up()
    response.status_code = 200 if up else 503
    return Readiness(status="ok" if up else "degraded")


@router.get("/v1/system/status", responses={200: {"model": ManagerStatus}})
async def system_status(request: Request) -> Response:
    """Get the manager's status: memory, workers, models."""
    return _forwarded(await request.app.state.manager.status())


@router.post("/v1/system/evict/{name}", responses={200: {"model": UnloadResponse}})
async def evict(request: Request, name: ModelName) -> Response:
    """Unload a model once its open requests have finished.

    Also returns 200 if the model is not loaded.
    """
    state = request.app.state
    return _forwarded(await state.manager.stop(find_alias(state.settings, name)))


@router.post("/v1/system/warm/{name}", responses={200: {"model": LoadResponse}})
async def warm(request: Request, name: ModelName, keep_alive: IdleTime = None) -> Response:
    """Load a model; responds when it is ready."""
    state = request.app.state
    return _forwarded(await state.manager.spawn(find_alias(state.settings, name), keep_alive))


def _forwarded(response: httpx.Response) -> Response:
    try:
        body = response.json()
    except ValueError as exc:
        raise UpstreamError("the worker manager's response is not JSON") from exc
    kept = {k: v for k, v in response.headers.items() if k in ("retry-after", "x-should-retry")}
    return JSONResponse(body, response.status_code, headers=kept)
