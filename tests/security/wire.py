"""Raw requests that no HTTP client would send."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterable
from typing import Any, NamedTuple
from urllib.parse import urlsplit

WAIT_S = 20.0


class Answer(NamedTuple):
    """``status`` 0: the server closed the connection without a response."""

    status: int
    head: str
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        problem: dict[str, Any] = json.loads(self.body)["error"]
        assert set(problem) == {"message", "type", "param", "code", "source"}
        return problem


def connect(url: str) -> socket.socket:
    parts = urlsplit(url)
    assert parts.hostname is not None
    return socket.create_connection((parts.hostname, parts.port or 80), timeout=WAIT_S)


def send(url: str, *parts: bytes, pause_s: float = 0.0) -> Answer:
    """Send *parts* with pauses, and read until the server closes the connection."""
    with connect(url) as sock:
        drip(sock, parts, pause_s)
        return read(sock)


def drip(sock: socket.socket, parts: Iterable[bytes], pause_s: float) -> int:
    """Send *parts* until the server stops accepting them; returns the number sent."""
    sent = 0
    for part in parts:
        try:
            sock.sendall(part)
        except OSError:
            break
        sent += 1
        if pause_s:
            time.sleep(pause_s)
    return sent


def read(sock: socket.socket) -> Answer:
    """Everything until the end of the connection, as one response."""
    data = b""
    try:
        while chunk := sock.recv(1 << 16):
            data += chunk
    except ConnectionResetError:
        pass  # closed while we were still sending
    head, _, body = data.partition(b"\r\n\r\n")
    status = int(head.split(b" ")[1]) if head else 0
    return Answer(status, head.decode("latin-1"), body)


def request(
    target: str,
    *headers: tuple[str, str],
    method: str = "GET",
    host: str | None = "127.0.0.1",
    body: bytes | None = None,
) -> bytes:
    """One request as bytes; the connection is closed after its response."""
    lines = [f"{method} {target} HTTP/1.1", "Connection: close"]
    if host is not None:
        lines.append(f"Host: {host}")
    lines += [f"{key}: {value}" for key, value in headers]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")
