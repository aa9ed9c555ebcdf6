"""``/metrics`` for Prometheus: the gateway's own metrics, and the manager's, which it forwards.

The manager is reachable from this machine only; here a Prometheus elsewhere finds both.
``gateway.metrics`` decides who may read them. They are not part of the client API: docs/monitoring.md
describes them, openapi.yaml does not.
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from gateway.metrics import GatewayMetrics
from web.metrics import exposition

router = APIRouter(include_in_schema=False)


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    counted: GatewayMetrics = request.app.state.metrics
    return await exposition(counted.registry, counted.families())


@router.get("/metrics/manager")
async def manager_metrics(request: Request) -> Response:
    response = await request.app.state.manager.metrics()
    kind = response.headers.get("content-type", "application/json")
    return Response(response.content, response.status_code, headers={"content-type": kind})
