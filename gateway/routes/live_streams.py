"""To look on: what happens, what workers write, what was asked last. The page lives on these."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response

from gateway.live_streams import Watch
from gateway.openapi.schemas import LOG_LINES, MANAGER_EVENTS, plain_stream
from gateway.recent_requests import RecentRequests
from gateway.routing import find_alias

router = APIRouter(tags=["system"])

Alias = Annotated[str, Path(description="An alias, or another of the model's names.")]
Lines = Annotated[int, Query(ge=1, le=1000, description="So many of the last lines.")]
Follow = Annotated[bool, Query(description="Stay, and tell each line as it is written.")]
_TEXT: dict[str, Any] = {"text/plain": {"schema": {"type": "string"}}}


@router.get(
    "/v1/system/events",
    response_class=Response,
    responses={200: {"description": "The events.", "content": plain_stream(MANAGER_EVENTS)}},
)
async def system_events(request: Request) -> Response:
    """What happens, as server-sent events.

    Loads, evictions, progress, memory. ``Last-Event-ID`` brings what was missed since. The stream ends
    with the manager or the gateway only.
    """
    return _watch(request, "/events")


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
    """The last lines that a worker wrote.

    As text; with ``follow`` as server-sent events, one for each line, and those to come.
    """
    alias = find_alias(request.app.state.settings, name)
    return _watch(request, f"/logs/{alias}?lines={lines}&follow={int(follow)}")


@router.get("/v1/system/requests", response_model_exclude_none=True)
async def system_requests(request: Request) -> RecentRequests:
    """The last requests that models were asked, newest first.

    With what each cost and nothing of what it said; a restart of the gateway forgets them.
    """
    recent: RecentRequests = request.app.state.recent.newest_first()
    return recent


def _watch(request: Request, path: str) -> Watch:
    state = request.app.state
    return Watch(state.services, state.watchers, path)
