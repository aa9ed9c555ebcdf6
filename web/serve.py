"""Starts a tier's HTTP server. Binds first, so that a taken port is one log line and no traceback."""

from __future__ import annotations

import errno
import gc
import resource
import socket

import uvicorn
from starlette.types import ASGIApp

from web.http_protocol import protocol_class
from web.ports import EVERYWHERE, authority, is_everywhere, taken_at
from web.receive_timeouts import Limits

# Longer than our own clients keep an idle connection (web.relay: 30 s), so that no request is sent
# into a connection that the server has just closed.
KEEP_ALIVE_S = 75
DEFAULT_LIMITS = Limits()
_OPEN_FILES = 8192  # one per connection, and one more for its connection to the next tier
# The kernel reduces it to its own limit: net.core.somaxconn (Linux), kern.ipc.somaxconn (macOS: 128).
_BACKLOG = 2048
# The errors of a kernel without IPv6, or with IPv6 disabled.
_NO_IPV6 = frozenset(
    {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT, errno.EPFNOSUPPORT}
)


class PortTaken(Exception):
    """The port is not available; the message says why."""


def tune_garbage_collector() -> None:
    """Exclude imported objects from garbage collection, and collect less often.

    For tiers that create the same few objects for each request: a fifth of their time went into
    scanning objects that never die. Call it when setup is complete.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens on *host*:*port*.

    Raises ``PortTaken``, also if the system would allow a second listener next to another program's.
    """
    _require_free(host, port)
    return _listening(host, port)


def bind_all(host: str, port: int) -> list[socket.socket]:
    """Like ``bind``, but "all addresses" means IPv4 and, if this machine has it, IPv6.

    Each family has its own socket, so that the address of an IPv4 client has no ``::ffff:`` prefix.
    """
    if not is_everywhere(host):
        return [bind(host, port)]
    _require_free(host, port)
    ipv4, ipv6 = EVERYWHERE
    first = _listening(ipv4, port)
    try:
        return [first, _listening(ipv6, first.getsockname()[1], ipv6_only=True)]
    except PortTaken as exc:
        cause = exc.__cause__
        if isinstance(cause, OSError) and cause.errno in _NO_IPV6:
            return [first]
        first.close()
        raise


def urls(sockets: list[socket.socket]) -> str:
    """The URLs of *sockets*, for the log."""
    return ", ".join(f"http://{authority(*s.getsockname()[:2])}" for s in sockets)


def _require_free(host: str, port: int) -> None:
    if port and (address := taken_at(host, port)):
        raise PortTaken(
            f"{authority(host, port)}: another program has {authority(address, port)}; stop it "
            f"(lsof -nP -iTCP:{port} -sTCP:LISTEN names it)"
        )


def _listening(host: str, port: int, *, ipv6_only: bool = False) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as exc:
        raise PortTaken(f"{authority(host, port)}: {exc.strerror}") from exc
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if ipv6_only:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host, port))
        # bind() is not enough: two calls can both succeed. Two calls of listen() can't.
        sock.listen(_BACKLOG)
    except OSError as exc:
        sock.close()
        raise PortTaken(f"{authority(host, port)}: {exc.strerror}") from exc
    return sock


def allow_many_connections() -> None:
    """Raise this process's limit of open files. launchd allows 256, too few for a server."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < target:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))


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
