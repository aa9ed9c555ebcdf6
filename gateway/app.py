"""Puts the gateway together: routes, key, cross-origin rules, request ids, errors.

What models answer goes straight to its route: what FastAPI and Starlette do around one costs as much as
the rest of the gateway. Everything else, and everything about these routes but the answering itself
(their description, a wrong method), goes by way of FastAPI.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from contracts.control import LOAD_HEADER, MODEL_HEADER, QUEUE_HEADER
from contracts.settings import Settings
from gateway.auth import RequireKey
from gateway.manager_client import ManagerClient
from gateway.pictures import Pictures
from gateway.routes import catalogue, docs, files, inference, system
from web.errors import install_error_handlers
from web.relay import open_session
from web.request_id import RequestId

log = logging.getLogger(__name__)

_TIMINGS = [header.decode() for header in (QUEUE_HEADER, LOAD_HEADER, MODEL_HEADER)]


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


def create_app(settings: Settings, *, clock: Callable[[], float] = time.monotonic) -> ASGIApp:
    """*clock*: monotonic seconds, by which the URLs of pictures expire."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.session = open_session()
        app.state.manager = ManagerClient(settings)
        try:
            yield
        finally:
            # The workers stay: a restart of the gateway must not cost a load.
            await app.state.manager.close()
            await app.state.session.close()

    # The description is ours (gateway.openapi); a path with a slash too many is another path.
    app = FastAPI(lifespan=lifespan, openapi_url=None, redirect_slashes=False)
    app.state.settings = settings
    app.state.created = int(time.time())
    app.state.started = time.monotonic()
    limits = settings.gateway
    app.state.pictures = Pictures(limits.image_url_ttl_s, limits.image_url_max_mb << 20, clock=clock)
    for routes in (inference, catalogue, files, system, docs):
        app.include_router(routes.router)
    install_error_handlers(app, "gateway")
    entry: ASGIApp = Front(app, inference.ROUTES)
    key = settings.gateway.required_key
    if key is None:
        log.warning("no API key is set: /v1/* is open to everybody who can reach this port")
    else:
        entry = RequireKey(entry, key=key)
    if settings.gateway.cors_origins:
        entry = CORSMiddleware(
            entry,
            allow_origins=settings.gateway.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["x-request-id", "retry-after", *_TIMINGS],
        )
    return RequestId(entry)
