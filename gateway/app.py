"""Puts the gateway together: routes, key, cross-origin rules, request ids, errors.

What models answer goes straight to its route: what FastAPI and Starlette do around one costs as much as
the rest of the gateway. Everything else, and everything about these routes but the answering itself
(their description, a wrong method), goes by way of FastAPI.
"""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from contracts.control import LOAD_HEADER, MODEL_HEADER, QUEUE_HEADER
from contracts.settings import Settings
from gateway import container
from gateway.api_keys import read_keyring
from gateway.auth import RATE_HEADERS, Gate
from gateway.exchange import SOURCE, Services
from gateway.images_in.fetching import Fetcher, Resolve
from gateway.images_out.links import shown
from gateway.images_out.store import Pictures
from gateway.live_streams import Watchers
from gateway.manager_client import ManagerClient
from gateway.metrics import GatewayMetrics
from gateway.recent_requests import Recent
from gateway.routes import (
    docs,
    files,
    inference,
    live_streams,
    metrics,
    models,
    page,
    responses,
    system,
)
from web.access_log import PROCESSING_HEADER, Access, Observer
from web.errors import install_error_handlers
from web.origin_guard import SMALL_BODY, Door, DoorGuard
from web.relay import open_session

log = logging.getLogger(__name__)

_TIMINGS = [header.decode() for header in (PROCESSING_HEADER, QUEUE_HEADER, LOAD_HEADER, MODEL_HEADER)]
_QUIET = (
    "/healthz",
    "/readyz",
    "/metrics",
    "/metrics/manager",
)  # asked every few seconds, by dashboards and health checks


class Front:
    """Lets the *straight* routes of *app*, by their paths, answer without it."""

    def __init__(self, app: FastAPI, straight: list[inference.ProxiedRoute]) -> None:
        self._app = app
        self._straight = {("POST", route.path): route for route in straight}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = None
        if scope["type"] == "http":
            route = self._straight.get((scope["method"], scope["path"]))
        if route is None:
            await self._app(scope, receive, send)
        else:
            scope["app"] = self._app
            await route.handle(scope, receive, send)


def create_app(
    settings: Settings,
    *,
    clock: Callable[[], float] = time.monotonic,
    wall_clock: Callable[[], float] = time.time,
    watchers: Watchers | None = None,
    resolve: Resolve | None = None,
    tls: ssl.SSLContext | None = None,
    container_marks: Sequence[Path] = container.MARKS,
) -> ASGIApp:
    """*clock*: monotonic seconds, by which the URLs of pictures expire and rates are counted.

    *wall_clock*: Unix time, of what people read. *watchers*: for whoever ends their streams.
    *resolve*, *tls*: how names in image URLs are looked up, and whose certificates are trusted.
    *container_marks*: files that exist in a container alone.
    Raises ``SettingsError`` for a file of keys that can't be used.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.manager = manager = ManagerClient(settings)
        session = open_session()
        fetcher = Fetcher(settings, resolve=resolve, tls=tls)
        app.state.services = Services(settings, session, manager, fetcher, app.state.pictures)
        try:
            yield
        finally:
            # The workers stay: a restart of the gateway must not cost a load.
            await fetcher.close()
            await manager.close()
            await session.close()

    # The description is ours (gateway.openapi); a path with a slash too many is another path.
    app = FastAPI(lifespan=lifespan, openapi_url=None, redirect_slashes=False)
    app.state.settings = settings
    app.state.created = int(time.time())
    app.state.started = time.monotonic()
    app.state.watchers = Watchers() if watchers is None else watchers
    app.state.recent = recent = Recent(inference.PATHS, clock=wall_clock)
    limits = settings.gateway
    app.state.pictures = Pictures(limits.image_url_ttl_s, limits.image_url_max_mb << 20, clock=clock)
    groups = (inference, responses, models, files, system, live_streams, docs, page)
    routers = [group.router for group in groups]
    observers: list[Observer] = [recent]
    if limits.metrics != "off":
        routers.append(metrics.router)
        templates = [route.path for router in routers for route in router.routes]
        app.state.metrics = GatewayMetrics(settings, templates, app.state.pictures)
        observers.append(app.state.metrics)
    for router in routers:
        app.include_router(router)
    install_error_handlers(app, SOURCE)
    app.state.keyring = keyring = read_keyring(limits)
    if keyring:
        log.info("keys: %r", keyring)
    else:
        log.warning("no API key is set: /v1/* is open to everybody who can reach this port")
    contained = container.is_contained(container_marks)
    if warning := container.shared_limits(limits, has_keys=bool(keyring), contained=contained):
        log.warning("%s", warning)
    entry: ASGIApp = Gate(Front(app, inference.ROUTES), keyring, limits, clock=clock)
    if settings.gateway.cors_origins:
        entry = CORSMiddleware(
            entry,
            allow_origins=settings.gateway.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["x-request-id", "retry-after", *RATE_HEADERS, *_TIMINGS],
        )
    guarded = DoorGuard(entry, door(settings), source=SOURCE)
    return Access(guarded, SOURCE, quiet=_QUIET, shown=shown, observers=observers)


def door(settings: Settings) -> Door:
    """Who may come in to the gateway, and with how large a body."""
    gateway = settings.gateway
    limits = {route.path: gateway.max_body_mb << 20 for route in inference.ROUTES}
    return Door(
        "gateway",
        allowed_hosts=gateway.allowed_hosts,
        origins=gateway.cors_origins,
        public_url=gateway.public_url,
        body_limit=lambda path: limits.get(path, SMALL_BODY),
    )
