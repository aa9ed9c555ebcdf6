"""Slow clients: a stalled connection is closed; a slow upload with progress and a response are not cut.

A small app on the server that all tiers use, with limits of tenths of a second.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from starlette.types import Receive, Scope, Send

from testkit.servers import served
from testkit.stacks import wait_for
from tests.security.wire import Answer, connect, drip, read, send
from web.receive_timeouts import Limits

LIMITS = Limits(head_s=0.25, silence_s=0.25, body_s=0.4, body_rate=200, tick_s=0.025, connections=20)
POST = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


class Counter:
    """Responds with the size of the body. ``/stream`` streams for 0.75 s, ``/early`` responds before it
    reads the body, ``/busy`` starts to read after 0.75 s.
    """

    def __init__(self) -> None:
        self.gone = threading.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for what in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{what}.complete"})
            return
        if scope["path"] == "/busy":
            await asyncio.sleep(0.75)
        size = 0 if scope["path"] == "/early" else await self._size(receive)
        if size is None:
            self.gone.set()
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if scope["path"] == "/stream":
            for _ in range(15):
                await send({"type": "http.response.body", "body": b".", "more_body": True})
                await asyncio.sleep(0.05)
        await send({"type": "http.response.body", "body": b"%d" % size})

    async def _size(self, receive: Receive) -> int | None:
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
        return size


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, Counter]]:
    app = Counter()
    with served(app, limits=LIMITS) as url:
        yield url, app


@pytest.fixture
def url(server: tuple[str, Counter]) -> str:
    return server[0]


def took(answer: Answer, began: float, least: float = 0.2) -> Answer:
    """*answer*, which arrived soon after the limit."""
    elapsed = time.monotonic() - began
    assert least <= elapsed < 10
    return answer


def test_a_silent_connection_is_closed_without_a_response(url: str) -> None:
    began = time.monotonic()
    assert took(send(url), began).status == 0


@pytest.mark.parametrize(
    "head",
    [
        [b"G"],
        [b"GET / HTTP/1.1\r\n"],
        [bytes([byte]) for byte in b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 500],
        [b"GET / HTTP/1.1\r\nHost: a\r\n", *(b"X-%d: a\r\n" % n for n in range(90))],
        [b"\r\n"] * 200,
    ],
)
def test_a_head_that_is_never_complete_is_a_408(url: str, head: list[bytes]) -> None:
    began = time.monotonic()
    answer = took(send(url, *head, pause_s=0.01), began)
    # A client that is still sending may lose the response: its connection is reset.
    assert answer.status in (408, 0)
    if answer.status:
        assert answer.error["code"] == "request_timeout"


def test_the_next_request_s_head_has_its_own_timeout(url: str) -> None:
    with connect(url) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert sock.recv(1000).endswith(b"0\r\n\r\n")
        time.sleep(0.6)  # no limit between two requests
        sock.sendall(b"GET / HTTP/1.1\r\n")
        began = time.monotonic()
        answer = took(read(sock), began)
    assert (answer.status, answer.error["type"]) == (408, "invalid_request_error")


@pytest.mark.parametrize("head", [POST + b"Content-Length: 1000\r\n\r\n", CHUNKED + b"5\r\nabcde\r\n"])
def test_a_stalled_body_is_a_408_and_a_disconnect_for_the_app(
    server: tuple[str, Counter], head: bytes
) -> None:
    url, app = server
    app.gone.clear()
    began = time.monotonic()
    answer = took(send(url, head, b"abc" if b"Length" in head else b""), began)
    assert answer.status == 408
    assert "body" in answer.error["message"]
    wait_for(app.gone.is_set)


def test_a_dripping_body_times_out(url: str) -> None:
    began = time.monotonic()
    with connect(url) as sock:
        # 80 bytes per second; 200 are required.
        sent = drip(sock, [CHUNKED, *[b"1\r\na\r\n"] * 80], 0.075)
        assert sent < 60, "it was cut while it still sent"
    assert 0.35 < time.monotonic() - began < 10


def test_a_steady_slow_upload_is_accepted(url: str) -> None:
    # Three times the time of a body, at twice the required rate.
    size, step = 600, 20
    head = POST + b"Content-Length: %d\r\n\r\n" % size
    began = time.monotonic()
    answer = send(url, head, *[b"a" * step] * (size // step), pause_s=0.04)
    assert (answer.status, answer.body) == (200, b"3\r\n600\r\n0\r\n\r\n")
    assert time.monotonic() - began > 1.2


def test_a_stream_longer_than_any_timeout_is_not_cut(url: str) -> None:
    began = time.monotonic()
    answer = send(url, b"GET /stream HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert answer.status == 200
    assert answer.body.endswith(b"0\r\n\r\n")
    assert time.monotonic() - began > 0.7


def test_half_a_request_after_a_stream_does_not_cut_the_stream(url: str) -> None:
    with connect(url) as sock:
        sock.sendall(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\nGET /half HTTP/1.1\r\n")
        stream = b""
        while not stream.endswith(b"\r\n0\r\n\r\n"):
            stream += sock.recv(1000)
        assert stream.count(b"\r\n.\r\n") == 15
        sock.sendall(b"Host: a\r\n")
        assert read(sock).status == 408, "and then that one is late"


def test_a_head_sent_during_a_stream_is_bounded(url: str) -> None:
    with connect(url) as sock:
        sock.sendall(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nX: ")
        assert drip(sock, [b"a" * (1 << 16)] * 400, 0) < 400


def test_nothing_is_mixed_into_a_stream(url: str) -> None:
    with connect(url) as sock:
        sock.sendall(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n")
        assert sock.recv(1000)
        sock.sendall(b"garbage\r\n\r\n")
        rest = b""
        while chunk := sock.recv(1000):
            rest += chunk
    assert b"HTTP/1.1" not in rest


def test_time_without_reading_does_not_count(url: str) -> None:
    # More than the buffers hold, so that the sender waits for the app.
    size = 8 << 20
    head = POST.replace(b"POST /", b"POST /busy") + b"Content-Length: %d\r\n\r\n" % size
    answer = send(url, head + bytes(size))
    assert (answer.status, answer.body) == (200, b"7\r\n%d\r\n0\r\n\r\n" % size)


def test_the_rest_of_an_answered_body_times_out(url: str) -> None:
    head = b"POST /early HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"1000\r\n" + bytes(0x1000) + b"\r\n"
    began = time.monotonic()
    with connect(url) as sock:
        sent = drip(sock, [head, *[chunk] * 500], 0.01)
        assert sent < 400, "it was cut although it sent fast"
    assert time.monotonic() - began < 8


@pytest.mark.parametrize(
    "endless", [b"0\r\nx: ", b"5;", b"0\r\n"], ids=["trailer", "extension", "lines"]
)
def test_trailers_and_chunk_extensions_are_bounded(url: str, endless: bytes) -> None:
    piece = b"x: y\r\n" * 1000 if endless.endswith(b"\n") else b"y" * 6000
    answer = send(url, CHUNKED, endless, *[piece] * 12, pause_s=0.005)
    assert answer.status == 431
    assert "trailers" in answer.error["message"]


def test_too_many_connections_are_refused_with_an_error(url: str) -> None:
    wait_for(lambda: send(url, POST + b"\r\n").status == 200)
    open_ones = [connect(url) for _ in range(LIMITS.connections)]
    try:
        with connect(url) as sock:
            answer = read(sock)
        assert (answer.status, answer.error["code"]) == (503, "unavailable")
        assert "retry-after: 1" in answer.head
    finally:
        for sock in open_ones:
            sock.close()
    wait_for(lambda: send(url, POST + b"\r\n").status == 200)


def test_a_suspended_server_times_no_client_out() -> None:
    """The event loop is blocked for longer than the limit, while the client has sent everything."""

    class Blocked(Counter):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                time.sleep(0.75)  # noqa: ASYNC251 - that is the fault
            await super().__call__(scope, receive, send)

    limits = replace(LIMITS, head_s=0.2, silence_s=0.2)
    with served(Blocked(), limits=limits) as url, connect(url) as late, connect(url) as first:
        first.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        late.sendall(POST + b"Content-Length: 2\r\n\r\na")
        time.sleep(0.1)
        late.sendall(b"b")
        assert read(first).status == 200
        assert read(late).status == 200
