"""The probe of a worker's health: it returns in time, whatever listens on the port."""

from __future__ import annotations

import asyncio
import socket

import pytest

from manager.launcher.process import Address
from manager.readiness import PROBE_TIMEOUT_S, HttpProbe, ProbeResponse
from tests.security.elsewhere import Behaviour, elsewhere


def probed(response: bytes | Behaviour, timeout_s: float = PROBE_TIMEOUT_S) -> ProbeResponse | None:
    """The result of a probe of a server that sends this."""

    async def ask(port: int) -> ProbeResponse | None:
        probe = HttpProbe(timeout_s)
        try:
            return await probe(Address("127.0.0.1", port))
        finally:
            await probe.aclose()

    with elsewhere() as server:
        server.pages["/health"] = response
        return asyncio.run(ask(server.port))


def test_a_probe_returns_status_and_body() -> None:
    response = b"HTTP/1.1 503 Not Yet\r\ncontent-length: 2\r\n\r\n{}"
    assert probed(response) == ProbeResponse(503, b"{}")


def test_a_redirect_is_not_followed() -> None:
    response = b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n"
    assert probed(response) == ProbeResponse(302, b"")


def test_an_endless_body_is_read_up_to_a_limit() -> None:
    response = b"HTTP/1.1 200 OK\r\ncontent-length: 9000000\r\n\r\n" + bytes(1 << 20)
    answer = probed(response)
    assert answer is not None
    assert len(answer.body) < 1 << 20


@pytest.mark.parametrize(
    "response",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + bytes(1 << 20),
    ],
)
def test_a_server_without_valid_http_gives_no_response(response: bytes) -> None:
    assert probed(response) is None


def test_a_response_without_end_times_out() -> None:
    def dribbles(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n")
        connection.settimeout(0.05)
        while True:
            connection.sendall(b"a")
            try:
                if not connection.recv(1):
                    return
            except TimeoutError:
                pass

    assert probed(dribbles, timeout_s=0.3) is None
