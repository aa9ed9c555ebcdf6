"""Health, status, and steering of workers by hand."""

from __future__ import annotations

import time
from typing import Any

import httpx
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from contracts.errors import UpstreamError
from contracts.openai import KeepAlive
from gateway.routing import find_alias

router = APIRouter()


@router.api_route("/healthz", methods=["GET", "HEAD"])
async def healthz(request: Request) -> dict[str, Any]:
    """200 while the gateway lives; ``degraded`` while the manager is away."""
    up = await request.app.state.manager.is_up()
    return {
        "status": "ok" if up else "degraded",
        "manager": "ok" if up else "unreachable",
        "uptime_seconds": round(time.monotonic() - request.app.state.started, 1),
    }


@router.api_route("/readyz", methods=["GET", "HEAD"])
async def readyz(request: Request) -> JSONResponse:
    """200 when requests can be served, else 503: for strict probes."""
    up = await request.app.state.manager.is_up()
    return JSONResponse({"status": "ok" if up else "degraded"}, 200 if up else 503)


@router.get("/v1/system/status")
async def system_status(request: Request) -> Response:
    """The manager's status: memory, workers, models."""
    return _passed_on(await request.app.state.manager.status())


@router.post("/v1/system/evict/{name}")
async def evict(request: Request, name: str) -> Response:
    """Stop a worker once its open requests are done. One that is not loaded is 200 as well."""
    state = request.app.state
    return _passed_on(await state.manager.stop(find_alias(state.settings, name)))


@router.post("/v1/system/warm/{name}")
async def warm(request: Request, name: str, keep_alive: KeepAlive | None = None) -> Response:
    """Load a worker, and answer when it is ready; it then stays for *keep_alive* seconds."""
    state = request.app.state
    return _passed_on(await state.manager.spawn(find_alias(state.settings, name), keep_alive))


def _passed_on(answer: httpx.Response) -> Response:
    try:
        body = answer.json()
    except ValueError as exc:
        raise UpstreamError("the worker manager's answer is not JSON") from exc
    kept = {k: v for k, v in answer.headers.items() if k in ("retry-after", "x-should-retry")}
    return JSONResponse(body, answer.status_code, headers=kept)
