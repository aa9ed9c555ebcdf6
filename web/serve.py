"""Starts a tier's HTTP server: binds first, so that a taken port is one line and no traceback."""

from __future__ import annotations

import gc
import logging
import socket
import sys
import time
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from web.printable import printable
from web.protocol import GatheringProtocol

# Longer than any client of ours keeps an idle connection (web.relay: 30 s), so that a request is never
# sent into a connection that its server has just closed.
KEEP_ALIVE_S = 75


class PortTaken(Exception):
    """Another process listens on the port."""


class LineFormatter(logging.Formatter):
    """``2026-11-26 10:00:00,123 INFO name: message``; each second is put into words once.

    A message is one line without control characters, whatever clients put into it; a traceback's lines
    are indented, so that none of them looks like a message.
    """

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._second, self._words = -1, ""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        second = int(record.created)
        if second != self._second:
            self._second = second
            self._words = time.strftime(self.default_time_format, time.localtime(second))
        return f"{self._words},{int(record.msecs):03d}"

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        return "\n".join(f"  {printable(line)}" for line in super().formatException(ei).split("\n"))


def configure_logging() -> None:
    """One line an event, to standard error; launchd, systemd, Docker or the manager keep them."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    # What no line tells is not looked up for each of them.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # as its documentation advises
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # a client's broken form is no event


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
