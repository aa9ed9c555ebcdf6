"""Starts a tier's HTTP server: binds first, so that a taken port is one line and no traceback."""

from __future__ import annotations

import gc
import socket

import uvicorn
from starlette.types import ASGIApp

from web.protocol import GatheringProtocol

# Longer than any client of ours keeps an idle connection (web.relay: 30 s), so that a request is never
# sent into a connection that its server has just closed.
KEEP_ALIVE_S = 75


class PortTaken(Exception):
    """Another process listens on the port."""


def spare_the_collector() -> None:
    """Leave what has been imported out of garbage collection, and collect less often.

    For tiers that make the same few objects for each request: a fifth of their time went into walking
    what never dies. To be called when everything is set up.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens on *host*:*port*; raises ``PortTaken``."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        # Bound is not enough: two binds can both succeed, two listens can't.
        sock.listen(2048)
    except OSError as exc:
        sock.close()
        raise PortTaken(f"{host}:{port}: {exc.strerror}") from exc
    return sock


def config_for(app: ASGIApp, *, graceful_s: int | None = None) -> uvicorn.Config:
    """How every tier is served. *graceful_s*: seconds that open requests may last after SIGTERM; None:
    as long as they want, unless the server ends them itself."""
    return uvicorn.Config(
        app,
        loop="uvloop",
        http=GatheringProtocol,
        ws="none",
        lifespan="on",
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=graceful_s,
        access_log=False,
        proxy_headers=False,  # nobody asks who stands behind a proxy
        log_config=None,
    )


def make_server(app: ASGIApp, *, graceful_s: int) -> uvicorn.Server:
    """A server for *app* that is stopped by signals; *graceful_s* as of ``config_for``."""
    return uvicorn.Server(config_for(app, graceful_s=graceful_s))
