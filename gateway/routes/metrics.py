"""``/metrics`` for Prometheus: the gateway's own figures, and the manager's, which it passes on.

The manager listens where only this machine reaches it; a Prometheus elsewhere finds all that there is
here. Who may read them: ``gateway.metrics``. They are no part of the API that clients program against:
docs/monitoring.md describes them, and not openapi.yaml.
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
    answer = await request.app.state.manager.metrics()
    kind = answer.headers.get("content-type", "application/json")
    return Response(answer.content, answer.status_code, headers={"content-type": kind})
