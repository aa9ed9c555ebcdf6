"""Puts the gateway together: routes, key, cross-origin rules, request ids, errors."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from contracts.control import LOAD_HEADER, MODEL_HEADER, QUEUE_HEADER
from contracts.settings import Settings
from gateway.auth import RequireKey
from gateway.manager_client import ManagerClient
from gateway.routes import catalogue, inference, system
from web.errors import install_error_handlers
from web.relay import open_session
from web.request_id import RequestId

log = logging.getLogger(__name__)

_TIMINGS = [header.decode() for header in (QUEUE_HEADER, LOAD_HEADER, MODEL_HEADER)]


def create_app(settings: Settings) -> FastAPI:
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

    app = FastAPI(title="Vision Insight API", version="0.1.0", lifespan=lifespan)
    app.state.settings = settings
    app.state.created = int(time.time())
    app.state.started = time.monotonic()
    app.router.routes[:0] = inference.router.routes  # first, and not nested: they are the hot path
    for routes in (catalogue, system):
        app.include_router(routes.router)
    install_error_handlers(app, "gateway")
    key = settings.gateway.required_key
    if key is None:
        log.warning("no API key is set: /v1/* is open to everybody who can reach this port")
    else:
        app.add_middleware(RequireKey, key=key)
    if settings.gateway.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.gateway.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["x-request-id", "retry-after", *_TIMINGS],
        )
    app.add_middleware(RequestId)
    return app
