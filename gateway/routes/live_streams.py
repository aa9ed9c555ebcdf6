"""Live observation: events, worker logs, recent requests. The page is built on these."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response

from gateway.live_streams import ManagerStream
from gateway.openapi.schemas import LOG_LINES, MANAGER_EVENTS, plain_stream
from gateway.recent_requests import RecentRequests
from gateway.routing import find_alias

router = APIRouter(tags=["system"])

Alias = Annotated[str, Path(description="Alias, or another name of the model.")]
Lines = Annotated[int, Query(ge=1, le=1000, description="Number of lines.")]
Follow = Annotated[bool, Query(description="Keep the stream open and send new lines.")]
_TEXT: dict[str, Any] = {"text/plain": {"schema": {"type": "string"}}}


@router.get(
    "/v1/system/events",
    response_class=Response,
    responses={200: {"description": "The events.", "content": plain_stream(MANAGER_EVENTS)}},
)
async def system_events(request: Request) -> Response:
    """Follow the system's events, as server-sent events.

    Events about loads, unloads, progress and memory. ``Last-Event-ID`` resumes after the last event
    that the client received. The stream ends only when the manager or the gateway stops.
    """
    return _stream(request, "/events")


@router.get(
    "/v1/system/logs/{name}",
    response_class=Response,
    responses={
        200: {"description": "The lines.", "content": {**_TEXT, **plain_stream(LOG_LINES)}},
    },
)
async def system_logs(
    request: Request, name: Alias, lines: Lines = 50, follow: Follow = False
) -> Response:
    """Get the last lines of a worker's log.

    Plain text. With ``follow``, server-sent events: one per line, first the last lines, then each new
    one.
    """
    alias = find_alias(request.app.state.settings, name)
    return _stream(request, f"/logs/{alias}?lines={lines}&follow={int(follow)}")


@router.get("/v1/system/requests", response_model_exclude_none=True)
async def system_requests(request: Request) -> RecentRequests:
    """List the last requests to models, newest first.

    Status, times and token counts of each request, without its content. A restart of the gateway clears
    the list.
    """
    recent: RecentRequests = request.app.state.recent.newest_first()
    return recent


def _stream(request: Request, path: str) -> ManagerStream:
    state = request.app.state
    return ManagerStream(state.services, state.open_streams, path)
