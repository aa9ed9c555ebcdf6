"""The gateway's server: what happens when it stops.

On SIGTERM or SIGINT it stops accepting connections and ends the open streams
(``gateway.live_streams``). Other open requests get ``GRACEFUL_S`` seconds to finish.
"""

from __future__ import annotations

import socket

import uvicorn
from starlette.types import ASGIApp

from gateway import SOURCE
from gateway.live_streams import OpenStreams
from web.serve import config_for

GRACEFUL_S = 30


class GatewayServer(uvicorn.Server):
    """A uvicorn server that ends *open_streams* when it stops."""

    def __init__(self, app: ASGIApp, open_streams: OpenStreams) -> None:
        super().__init__(config_for(app, source=SOURCE, graceful_s=GRACEFUL_S))
        self._open_streams = open_streams

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._open_streams.end()
        await super().shutdown(sockets)
