"""Serving the gateway: uvicorn, with the streams that never end by themselves ended when it stops."""

from __future__ import annotations

import socket

import uvicorn
from starlette.types import ASGIApp

from gateway.exchange import SOURCE
from gateway.live_streams import Watchers
from web.serve import config_for


class GatewayServer(uvicorn.Server):
    """*watchers*: those of *app*. Open requests may last *graceful_s* seconds after SIGTERM."""

    def __init__(self, app: ASGIApp, watchers: Watchers, *, graceful_s: int) -> None:
        super().__init__(config_for(app, source=SOURCE, graceful_s=graceful_s))
        self._watchers = watchers

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._watchers.end()
        await super().shutdown(sockets)
