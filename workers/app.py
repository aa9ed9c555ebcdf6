"""A worker's HTTP app: ``/health`` at any time, the routes of its kind of model once it is loaded."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from contracts.control import Phase
from contracts.errors import NotFound
from contracts.settings.models import ImageSettings, VlmSettings
from web.access_log import AccessLog
from web.errors import error_response, install_error_handlers
from web.origin_guard import OriginGuard, OriginPolicy
from workers.engine import AnyEngine
from workers.image.routes import ImageRoutes
from workers.serving.endpoint import PREPARED, SOURCE, Endpoint, Handler, Worker
from workers.serving.model_thread import ModelThread
from workers.vlm.routes import ChatRoutes

CLOSE_TIMEOUT_S = 1.0  # for the model thread to leave its last token or step

_ROUTES = {
    "vlm": ("/v1/chat/completions", "/v1/vision/analyze"),
    "image": ("/v1/images/generations", "/v1/images/edits"),
}


def create_app(
    alias: str,
    settings: VlmSettings | ImageSettings,
    engine: AnyEngine,
    *,
    nonce: str = "",
    on_failed: Callable[[], None] = lambda: None,
) -> FastAPI:
    """The app of worker *alias*; *engine* is loaded on its own thread when the app starts.

    *on_failed* is called on that thread when the load has failed. ``app.state.worker`` is the
    ``Worker`` that the routes share.
    """
    worker = Worker(
        alias,
        settings,
        engine,
        ModelThread(engine, on_failed=on_failed),
        nonce,
        os.getpid(),
        prepared=prepared(settings),
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        worker.thread.start()
        yield
        worker.thread.stop_jobs()
        worker.thread.close(CLOSE_TIMEOUT_S)

    app = FastAPI(
        title=f"Vision Insight worker {alias}", lifespan=lifespan, docs_url=None, redoc_url=None
    )
    app.state.worker = worker
    install_error_handlers(app, SOURCE)
    # A page in a browser on this machine could find the port.
    app.add_middleware(
        OriginGuard, policy=OriginPolicy(None, body_limit=lambda path: None), source=SOURCE
    )
    app.add_middleware(AccessLog, source=SOURCE)  # the endpoints write their own log lines

    @app.get("/health")
    async def health() -> JSONResponse:
        state = worker.health()
        return JSONResponse(state.model_dump(mode="json"), 200 if state.phase is Phase.READY else 503)

    for path, handle in _handlers(worker, settings).items():
        app.router.routes.append(Route(path, Endpoint(worker, handle), methods=["POST"]))
    for kind, paths in _ROUTES.items():
        if kind != settings.kind:
            for path in paths:
                app.router.routes.append(Route(path, _OtherKind(alias, settings.kind, path)))
    return app


def prepared(settings: VlmSettings | ImageSettings) -> asyncio.Semaphore:
    """Bounds the jobs that hold decoded images: those of one batch and the next."""
    running = settings.max_concurrency if isinstance(settings, VlmSettings) else 1
    return asyncio.Semaphore(max(PREPARED, 2 * running))


def _handlers(worker: Worker, settings: VlmSettings | ImageSettings) -> dict[str, Handler]:
    if isinstance(settings, VlmSettings):
        chat = ChatRoutes(worker, settings)
        return dict(zip(_ROUTES["vlm"], (chat.chat, chat.analyze), strict=True))
    images = ImageRoutes(worker, settings)
    return dict(zip(_ROUTES["image"], (images.generate, images.edit), strict=True))


class _OtherKind:
    """Refuses the routes of the other kind of model."""

    def __init__(self, alias: str, kind: str, path: str) -> None:
        self._error = NotFound(
            f"{alias} is of kind {kind}; it serves {' and '.join(_ROUTES[kind])}, not {path}",
            param="model",
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await error_response(self._error, SOURCE)(scope, receive, send)
