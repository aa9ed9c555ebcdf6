"""Assembles the gateway: routes, keys, cross-origin rules, request ids, errors.

Routes answered by models bypass FastAPI: its and Starlette's work around a request costs as much as
the rest of the gateway. Everything else goes through FastAPI, as do the description and the wrong
methods of those routes.
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
from gateway import SOURCE, container
from gateway.access_control import RATE_HEADERS, AccessControl
from gateway.auth import read_keyring
from gateway.exchange import Services
from gateway.images_in.fetching import Fetcher, Resolve
from gateway.images_out.links import shown
from gateway.images_out.store import ImageStore
from gateway.live_streams import OpenStreams
from gateway.manager_client import ManagerClient
from gateway.metrics import GatewayMetrics
from gateway.recent_requests import RequestHistory
from gateway.routes import PUBLIC, docs, inference, metrics, page, stored_responses
from web.access_log import PROCESSING_HEADER, AccessLog, Observer
from web.errors import install_error_handlers
from web.origin_guard import OriginGuard, OriginPolicy
from web.relay import open_session
from web.request_body import SMALL_BODY

log = logging.getLogger(__name__)

_TIMINGS = [header.decode() for header in (PROCESSING_HEADER, QUEUE_HEADER, LOAD_HEADER, MODEL_HEADER)]
# Polled every few seconds by dashboards and health checks.
_QUIET = ("/healthz", "/readyz", "/metrics", "/metrics/manager")


class DirectRoutes:
    """Sends requests for the *direct* routes, found by path, past *app*."""

    def __init__(self, app: FastAPI, direct: list[inference.ProxiedRoute]) -> None:
        self._app = app
        self._direct = {("POST", route.path): route for route in direct}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = None
        if scope["type"] == "http":
            route = self._direct.get((scope["method"], scope["path"]))
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
    open_streams: OpenStreams | None = None,
    resolve: Resolve | None = None,
    tls: ssl.SSLContext | None = None,
    container_marks: Sequence[Path] = container.MARKS,
) -> ASGIApp:
    """*clock*: monotonic seconds, for the expiry of image URLs and for rates.

    *wall_clock*: Unix time, for what people see. *open_streams*: given by a server that ends them.
    *resolve*, *tls*: name lookup and trusted certificates for image URLs. Raises ``SettingsError`` for
    an invalid key file. *container_marks*: files that exist only in a container.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.manager = manager = ManagerClient(settings)
        session = open_session()
        fetcher = Fetcher(settings, resolve=resolve, tls=tls)
        app.state.services = Services(settings, session, manager, fetcher, app.state.images)
        try:
            yield
        finally:
            # Workers keep running: a gateway restart must not cost a load.
            await fetcher.close()
            await manager.close()
            await session.close()

    # gateway.openapi describes the API. A path with an extra slash is another path.
    app = FastAPI(lifespan=lifespan, openapi_url=None, redirect_slashes=False)
    app.state.settings = settings
    app.state.created = int(time.time())
    app.state.started = time.monotonic()
    app.state.open_streams = OpenStreams() if open_streams is None else open_streams
    app.state.recent = recent = RequestHistory(inference.PATHS, clock=wall_clock)
    limits = settings.gateway
    app.state.images = ImageStore(limits.image_url_ttl_s, limits.image_url_max_mb << 20, clock=clock)
    routers = [group.router for group in (*PUBLIC, stored_responses, docs, page)]
    observers: list[Observer] = [recent]
    if limits.metrics != "off":
        routers.append(metrics.router)
        templates = [route.path for router in routers for route in router.routes]
        app.state.metrics = GatewayMetrics(settings, templates, app.state.images)
        observers.append(app.state.metrics)
    for router in routers:
        app.include_router(router)
    install_error_handlers(app, SOURCE, not_found_hint="; API routes start with /v1/")
    app.state.keyring = keyring = read_keyring(limits)
    if keyring:
        log.info("keys: %r", keyring)
    else:
        log.warning("no API key is set: /v1/* is open to everyone who can reach this port")
    contained = container.is_contained(container_marks)
    if warning := container.shared_limits(limits, has_keys=bool(keyring), contained=contained):
        log.warning("%s", warning)
    entry: ASGIApp = AccessControl(DirectRoutes(app, inference.ROUTES), keyring, limits, clock=clock)
    if settings.gateway.cors_origins:
        entry = CORSMiddleware(
            entry,
            allow_origins=settings.gateway.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["x-request-id", "retry-after", *RATE_HEADERS, *_TIMINGS],
        )
    guarded = OriginGuard(entry, origin_policy(settings), source=SOURCE)
    return AccessLog(guarded, SOURCE, quiet=_QUIET, shown=shown, observers=observers)


def origin_policy(settings: Settings) -> OriginPolicy:
    """Which hosts and origins may use the gateway, and with how large a body."""
    gateway = settings.gateway
    limits = {route.path: gateway.max_body_mb << 20 for route in inference.ROUTES}
    return OriginPolicy(
        "gateway",
        allowed_hosts=gateway.allowed_hosts,
        origins=gateway.cors_origins,
        public_url=gateway.public_url,
        body_limit=lambda path: limits.get(path, SMALL_BODY),
    )
