"""An image server that sends arbitrary bytes: a test decides what it sends, and how fast."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

Behaviour = Callable[[socket.socket], None]


def answer(body: bytes, *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {size}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def redirect(location: str, status: str = "302 Found", *headers: str) -> bytes:
    return answer(b"elsewhere", f"Location: {location}", *headers, status=status)


@dataclass
class Elsewhere:
    """``pages``: for each path, the bytes of the response, or a function of the connection."""

    port: int = 0
    pages: dict[str, bytes | Behaviour] = field(default_factory=dict)
    heads: list[bytes] = field(default_factory=list)  # of the requests, as received
    connections: int = 0
    open: int = 0
    most_open: int = 0
    gone: threading.Event = field(default_factory=threading.Event)  # a client disconnected early
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def url(self, path: str, host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}{path}"

    @property
    def paths(self) -> list[str]:
        return [head.split(b" ")[1].decode() for head in self.heads]

    def serve(self, connection: socket.socket) -> None:
        with self._lock:
            self.connections += 1
            self.open += 1
            self.most_open = max(self.most_open, self.open)
        try:
            with connection:
                self._serve(connection)
        except OSError:
            self.gone.set()
        finally:
            with self._lock:
                self.open -= 1

    def _serve(self, connection: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            chunk = connection.recv(65536)
            if not chunk:
                return
            head += chunk
        self.heads.append(head)
        page = self.pages.get(head.split(b" ")[1].decode(), answer(b"", status="404 Not Found"))
        if callable(page):
            page(connection)
        else:
            connection.sendall(page)
            with suppress(OSError):
                connection.shutdown(socket.SHUT_WR)


@contextmanager
def elsewhere(host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> Iterator[Elsewhere]:
    """Serve each connection in its own thread while the block runs."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, 0), family=family)
    server = Elsewhere(listener.getsockname()[1])

    def shake_hands_and_serve(connection: socket.socket) -> None:
        if tls is not None:
            try:
                connection = tls.wrap_socket(connection, server_side=True)
            except OSError:  # the client refused the certificate
                connection.close()
                return
        server.serve(connection)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.settimeout(20)
            threading.Thread(target=shake_hands_and_serve, args=[connection], daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield server
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
