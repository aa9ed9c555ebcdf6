"""Starts a tier's HTTP server. It binds first: a taken port is one log line, not a traceback."""

from __future__ import annotations

import gc
import resource
import socket

import uvicorn
from starlette.types import ASGIApp

from web.http_protocol import protocol_class
from web.receive_timeouts import Limits

# Longer than our own clients keep an idle connection (web.relay: 30 s), so that no request is sent
# into a connection that the server has just closed.
KEEP_ALIVE_S = 75
DEFAULT_LIMITS = Limits()
_OPEN_FILES = 8192  # one per connection, and one more to the next tier


class PortTaken(Exception):
    """Another process listens on the port."""


def tune_garbage_collector() -> None:
    """Exclude imported objects from garbage collection, and collect less often.

    For tiers that create the same few objects for each request: a fifth of their time went into
    scanning objects that never die. Call it when setup is complete.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens on *host*:*port*. Raises ``PortTaken``."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        # bind() is not enough: two binds can both succeed, two listens can't.
        sock.listen(2048)
    except OSError as exc:
        sock.close()
        raise PortTaken(f"{host}:{port}: {exc.strerror}") from exc
    return sock


def allow_many_connections() -> None:
    """Raise this process's limit of open files. launchd allows 256, too few for a server."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def config_for(
    app: ASGIApp,
    *,
    source: str = "server",
    graceful_s: int | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> uvicorn.Config:
    """The server configuration of every tier. *source*: the tier's name in errors. *graceful_s*:
    seconds that open requests get after SIGTERM; None: no limit.
    """
    return uvicorn.Config(
        app,
        loop="uvloop",
        http=protocol_class(limits, source),
        ws="none",
        lifespan="on",
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=graceful_s,
        access_log=False,
        proxy_headers=False,  # the address of a proxy's client is not used
        log_config=None,
    )


def make_server(
    app: ASGIApp, *, graceful_s: int, source: str = "server", limits: Limits = DEFAULT_LIMITS
) -> uvicorn.Server:
    """A server for *app* that stops on signals; other arguments as in ``config_for``."""
    return uvicorn.Server(config_for(app, source=source, graceful_s=graceful_s, limits=limits))
