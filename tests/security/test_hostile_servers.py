"""A hostile image server can cause an error, and nothing else."""

from __future__ import annotations

import asyncio
import base64
import gzip
import socket
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.images_in.fetching import SLOTS
from testkit.images import GREEN_STAR, png
from testkit.stacks import wait_for
from tests.gateway.stand_in import StandIn
from tests.security.conftest import ALLOWED, PARAM, Names, chat, gateway, problem
from tests.security.elsewhere import Elsewhere, answer, elsewhere
from tests.workers.serving.test_image_codec import png_claiming

CHAT = "/v1/chat/completions"
STAR = png(GREEN_STAR)
STAR_URI = f"data:image/png;base64,{base64.b64encode(STAR).decode()}"


def endless(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + STAR)
    while True:
        connection.sendall(b"\0" * 65536)


def endless_chunks(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        connection.sendall(b"10000\r\n" + b"\0" * 65536 + b"\r\n")


def drip(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n")
    while True:
        connection.sendall(b"\x89")
        time.sleep(0.05)


def endless_head(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        connection.sendall(b"X-Filler: " + b"x" * 4000 + b"\r\n")


def endless_hints(connection: socket.socket) -> None:
    while True:
        connection.sendall(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        time.sleep(0.01)


def silent(connection: socket.socket) -> None:
    connection.recv(1)


GZIP_BOMB = gzip.compress(bytes(16 << 20))

HOSTILE: dict[str, tuple[Any, int, str]] = {
    "endless body": (endless, 413, "1 MiB"),
    "endless chunks": (endless_chunks, 413, "1 MiB"),
    "a body with a large content-length": (answer(STAR, length=10**12), 413, "1 MiB"),
    "an absurd length": (answer(STAR, length=10**400), 400, "can't fetch"),
    "a body shorter than its length": (
        answer(STAR, length=len(STAR) + 1), 400, "before the image was complete",
    ),
    "an invalid length": (answer(STAR).replace(b"th: ", b"th: x"), 400, "can't fetch"),
    "two lengths": (answer(STAR, "Content-Length: 5"), 400, "can't fetch"),
    "endless head": (endless_head, 400, "can't fetch"),
    "a closed connection": (b"", 400, "can't fetch"),
    "no HTTP": (b"\x89PNG\r\n\x1a\n" + STAR, 400, "can't fetch"),
    "a gzip bomb": (
        answer(GZIP_BOMB, "Content-Encoding: gzip"), 400, "compressed",
    ),
    "a gzip bomb that does not say so": (answer(GZIP_BOMB), 400, "not lead to an image"),
    "a brotli body": (answer(STAR, "Content-Encoding: br"), 400, "compressed"),
    "a page": (answer(b"<html>", "Content-Type: image/png"), 400, "not lead to an image"),
    "an SVG": (answer(b"<svg/>", "Content-Type: image/svg+xml"), 400, "not lead to an image"),
    "nothing": (answer(b""), 400, "not lead to an image"),
    "no content": (b"HTTP/1.1 204 No\r\n\r\n", 400, "204"),
    "a part": (answer(STAR, status="206 Partial"), 400, "206"),
    "an error": (answer(STAR, status="500 X"), 400, "500"),
    "a request for a password": (
        answer(STAR, 'WWW-Authenticate: Basic realm="x"', status="401 X"), 400, "401",
    ),
    "a protocol switch": (answer(STAR, "Upgrade: x", status="101 X"), 400, ""),
    "a pixel bomb": (answer(png_claiming(60_000, 60_000)), 400, "64 million pixels"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_server_costs_a_clear_error_and_nothing_else(
    client: httpx.Client, manager: StandIn, there: Elsewhere, name: str
) -> None:
    page, status, words = HOSTILE[name]
    there.pages["/x"] = page
    begun = time.monotonic()
    error = problem(client.post(CHAT, json=chat(there.url("/x"))), status)
    assert words in error["message"]
    assert error["param"] == PARAM
    assert time.monotonic() - begun < 10
    assert manager.received == []


def test_a_slow_server_times_out(client: httpx.Client, manager: StandIn, there: Elsewhere) -> None:
    slow = {"/drip": drip, "/silence": silent, "/hints": endless_hints}
    there.pages |= slow
    begun = time.monotonic()
    with ThreadPoolExecutor() as pool:
        asked = [pool.submit(client.post, CHAT, json=chat(there.url(path))) for path in slow]
        drips, *others = [problem(asking.result()) for asking in asked]
    assert 1.9 < time.monotonic() - begun < 10
    assert "within 2 s" in drips["message"]
    assert all("can't fetch" in error["message"] for error in others)
    assert manager.received == []


def test_a_body_longer_than_content_length_is_cut_there(
    client: httpx.Client, manager: StandIn, there: Elsewhere
) -> None:
    there.pages["/x"] = answer(STAR + b"GET /admin HTTP/1.1\r\n\r\n", length=len(STAR))
    assert client.post(CHAT, json=chat(there.url("/x"))).status_code == 200
    assert STAR_URI in manager.received[0].body.decode()


def test_an_image_needs_no_content_type(client: httpx.Client, there: Elsewhere) -> None:
    there.pages["/x"] = answer(STAR, "Content-Type: application/octet-stream")
    assert client.post(CHAT, json=chat(there.url("/x"))).status_code == 200


def test_concurrent_fetches_are_limited(client: httpx.Client, there: Elsewhere) -> None:
    def slowly(connection: socket.socket) -> None:
        time.sleep(0.1)
        connection.sendall(answer(STAR))

    for name in range(12):
        there.pages[f"/{name}"] = slowly
    urls = [there.url(f"/{name}") for name in range(12)]
    assert client.post(CHAT, json=chat(*urls)).status_code == 200
    assert there.most_open == 4
    threads = [
        threading.Thread(target=client.post, args=[CHAT], kwargs={"json": chat(*urls)})
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 4 < there.most_open <= 8
    assert there.connections == 60


def test_the_first_failure_cancels_the_other_fetches(client: httpx.Client, there: Elsewhere) -> None:
    there.pages["/drip"] = drip
    begun = time.monotonic()
    error = problem(client.post(CHAT, json=chat(there.url("/drip"), there.url("/none"))))
    assert error["param"] == PARAM.replace("content[1]", "content[2]")
    assert time.monotonic() - begun < 1.5
    assert there.gone.wait(5)


def test_a_disconnect_cancels_the_fetches(
    client: httpx.Client, manager: StandIn, there: Elsewhere
) -> None:
    there.pages["/drip"] = drip
    with pytest.raises(httpx.ReadTimeout):
        client.post(CHAT, json=chat(there.url("/drip")), timeout=0.5)
    assert there.gone.wait(1.4)  # before the fetch timeout
    assert manager.received == []


def test_slow_name_lookups_do_not_block_other_requests(
    tmp_path: Path, manager: StandIn, manager_url: str
) -> None:
    class Slow(Names):
        async def resolve(self, host: str, port: int) -> list[str]:
            self.asked.append(host)
            await asyncio.sleep(60)
            return []

    allowed = ALLOWED.replace("fetch_timeout_s: 2", "fetch_timeout_s: 1")
    slow, asked = Slow(), SLOTS + 1
    with gateway(tmp_path, manager_url, allowed, slow) as http, ThreadPoolExecutor(asked) as pool:
        waiting = [pool.submit(http.post, CHAT, json=chat("http://slow.test/x")) for _ in range(asked)]
        wait_for(lambda: len(slow.asked) == SLOTS)
        assert http.post(CHAT, json=chat(STAR_URI)).status_code == 200
        assert not any(request.done() for request in waiting)


def test_refused_images_cost_no_memory(tmp_path: Path, manager_url: str) -> None:
    """Measured in this process, in which the gateway runs."""
    bomb = answer(gzip.compress(bytes(64 << 20)), "Content-Encoding: gzip")
    assert len(bomb) < 1 << 20
    with elsewhere() as there, gateway(tmp_path, manager_url, ALLOWED, Names()) as http:
        there.pages = {"/bomb": bomb, "/endless": endless, "/announced": answer(STAR, length=10**9)}
        tracemalloc.start()
        try:
            for path in there.pages:
                assert http.post(CHAT, json=chat(there.url(path))).status_code in (400, 413)
            most = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert most < 16 << 20
