"""A proxied request: one retry, keep_alive, timings, a log line."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from aiohttp import ClientResponse
from multidict import CIMultiDict
from starlette.types import Message, Scope

from gateway.app import create_app
from gateway.checks import check_chat
from gateway.exchange import Exchange, Services, is_retryable
from gateway.images_in.fetching import Fetcher
from gateway.images_out.store import ImageStore
from gateway.manager_client import ManagerClient
from testkit import plain
from testkit.servers import served
from tests.gateway.conftest import make_settings
from tests.gateway.stand_in import StandIn
from tests.gateway.test_routes import B64, HELLO, PNG, VALID, error
from web.relay import open_session
from web.request_record import RequestRecord

CHAT = "/v1/chat/completions"


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """The gateway's log messages so far."""
    collected: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            collected.append(record.getMessage())

    handler = Collect()
    logger = logging.getLogger("gateway")
    logger.addHandler(handler)
    caplog.set_level(logging.INFO, "gateway")
    yield collected
    logger.removeHandler(handler)


# --- the retry ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", VALID)
def test_a_request_is_sent_again_when_its_worker_ended_before_answering(
    client: httpx.Client, manager: StandIn, lines: list[str], path: str
) -> None:
    manager.deaths = 1
    answer = client.post(path, json={**VALID[path], "user": "u"})
    assert answer.status_code == 200
    first, second = manager.received
    assert (first.path, first.body) == (second.path, second.body)
    assert first.headers == second.headers
    assert sum("sent again" in line for line in lines) == 1


def test_a_stream_is_sent_again_too(client: httpx.Client, manager: StandIn) -> None:
    manager.deaths, manager.mode = 1, "break"
    answer = client.post(CHAT, json={**HELLO, "stream": True})
    assert answer.status_code == 200
    assert answer.text.startswith('data: {"i": 0}')
    assert len(manager.received) == 2  # a stream that broke off after it began is not sent again


def test_a_request_is_never_sent_a_third_time(client: httpx.Client, manager: StandIn) -> None:
    manager.deaths = 2
    answer = client.post(CHAT, json=HELLO)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "worker_failed")
    assert "x-vision-retryable" not in answer.headers
    assert len(manager.received) == 2


def test_other_errors_are_not_retried(client: httpx.Client, manager: StandIn) -> None:
    manager.mode = "fail"
    assert client.post(CHAT, json=HELLO).status_code == 429
    assert len(manager.received) == 1


def test_a_client_that_disconnects_during_the_retry_ends_the_request(
    client: httpx.Client, manager: StandIn
) -> None:
    manager.deaths, manager.mode = 1, "hang"
    with pytest.raises(httpx.ReadTimeout):
        client.post(CHAT, json=HELLO, timeout=0.5)
    assert manager.client_left.wait(3)
    assert len(manager.received) == 2


# --- the body -------------------------------------------------------------------------------------

PIECE, PIECES = 1 << 20, 16  # bytes, number
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: 1\n\n"
DIED = b"HTTP/1.1 503 X\r\nx-vision-retryable: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


@pytest.mark.parametrize("heads", [[STREAM], [DIED, STREAM]], ids=["at once", "second time"])
def test_a_body_is_freed_when_the_response_begins(tmp_path: Path, heads: list[bytes]) -> None:
    """Bytes are traced, in whichever object they are; the stand-in manager keeps none."""
    held: dict[str, int] = {}

    async def run() -> None:
        answers = iter(heads)
        begun, over = asyncio.Event(), asyncio.Event()

        async def manager(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            left = int(
                (await reader.readuntil(b"\r\n\r\n")).lower().split(b"content-length: ")[1].split()[0]
            )
            while left:
                left -= len(await reader.read(1 << 16))
            held["before"] = tracemalloc.get_traced_memory()[0] - base
            head = next(answers)
            writer.write(head)
            await writer.drain()
            if head is STREAM:
                await over.wait()
            writer.close()

        async def send(message: Message) -> None:
            if message.get("body"):
                begun.set()

        server = await asyncio.start_server(manager, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server, open_session() as session:
            settings = make_settings(tmp_path, url)
            fetcher = Fetcher(settings)
            services = Services(settings, session, ManagerClient(settings), fetcher, ImageStore(1, 1))
            exchange = Exchange(services, CHAT, check_chat)
            base = tracemalloc.get_traced_memory()[0]
            serving = asyncio.create_task(exchange(SCOPE, large_body(), send))
            await begun.wait()
            held["after"] = tracemalloc.get_traced_memory()[0] - base
            over.set()
            await serving
            await fetcher.close()

    tracemalloc.start()
    try:
        asyncio.run(run())
    finally:
        tracemalloc.stop()
    assert PIECE * PIECES < held["before"] < 1.5 * PIECE * PIECES
    assert held["after"] < PIECE


SCOPE: Scope = {
    "type": "http",
    "method": "POST",
    "path": CHAT,
    "headers": [],
    "record": RequestRecord(0),
}


def large_body() -> Any:
    """A ``receive`` that makes the pieces of a chat request on demand."""
    head, tail = b'{"messages": [{"role": "user", "content": "hi"}], "user": "', b'"}'
    sizes = iter([-1, *[PIECE] * PIECES, -2])

    async def receive() -> Message:
        size = next(sizes, None)
        if size is None:
            await asyncio.Event().wait()
        data = {-1: head, -2: tail}.get(size or 0) or b"x" * (size or 0)
        return {"type": "http.request", "body": data, "more_body": size != -2}

    return receive


# --- keep_alive -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", VALID)
@pytest.mark.parametrize(("seconds", "sent"), [(0, "0.0"), (-1, "-1.0"), (2.5, "2.5"), (600, "600.0")])
def test_keep_alive_goes_to_the_manager_in_a_header_and_stays_in_the_body(
    client: httpx.Client, manager: StandIn, path: str, seconds: float, sent: str
) -> None:
    body = json.dumps({**VALID[path], "keep_alive": seconds}).encode()
    assert client.post(path, content=body).status_code == 200
    assert manager.received[0].headers["x-vision-keep-alive"] == sent
    assert manager.received[0].body == body


@pytest.mark.parametrize("given", [{}, {"keep_alive": None}])
def test_a_client_s_keep_alive_header_is_not_forwarded(
    client: httpx.Client, manager: StandIn, given: dict[str, Any]
) -> None:
    client.post(CHAT, json={**HELLO, **given}, headers={"x-vision-keep-alive": "-1"})
    assert "x-vision-keep-alive" not in manager.received[0].headers


@pytest.mark.parametrize("path", VALID)
@pytest.mark.parametrize(
    "wrong", ['"5m"', '"5"', "NaN", "Infinity", "-2", "-1.001", "true", "[1]", "1e999"]
)
def test_an_invalid_keep_alive_is_a_400_that_names_the_field(
    client: httpx.Client, manager: StandIn, path: str, wrong: str
) -> None:
    body = json.dumps({**VALID[path], "keep_alive": "?"}).replace('"?"', wrong)
    answer = client.post(path, content=body)
    assert answer.status_code == 400
    assert error(answer)["param"] == "keep_alive"
    assert manager.received == []


def test_keep_alive_of_a_form_is_sent_as_well(client: httpx.Client, manager: StandIn) -> None:
    fields = {"prompt": "p", "keep_alive": "7.5"}
    assert client.post("/v1/images/edits", data=fields, files=[("image", PNG)]).status_code == 200
    assert manager.received[0].headers["x-vision-keep-alive"] == "7.5"
    assert json.loads(manager.received[0].body) == {"prompt": "p", "keep_alive": 7.5, "image": [B64]}


def test_warm_forwards_keep_alive(client: httpx.Client, manager: StandIn) -> None:
    assert client.post("/v1/system/warm/alpha?keep_alive=-1").status_code == 200
    assert manager.control == ["/spawn/a?keep_alive=-1.0"]


@pytest.mark.parametrize("wrong", ["5m", "nan", "-2", ""])
def test_warm_refuses_a_wrong_keep_alive(client: httpx.Client, manager: StandIn, wrong: str) -> None:
    answer = client.post(f"/v1/system/warm/a?keep_alive={wrong}")
    assert answer.status_code == 400
    assert error(answer)["param"] == "keep_alive"
    assert manager.control == []


# --- timings and the log --------------------------------------------------------------------------


def test_the_timings_reach_the_client(client: httpx.Client) -> None:
    headers = client.post(CHAT, json=HELLO).headers
    timings = [headers[f"x-vision-{what}-ms"] for what in ("queue", "load", "model")]
    assert timings == ["12", "5", "34"]


def test_each_request_is_one_line_in_the_log(client: httpx.Client, lines: list[str]) -> None:
    client.post(CHAT, json=HELLO, headers={"x-request-id": "r-1"})
    (line,) = lines
    assert re.fullmatch(
        r"POST /v1/chat/completions \[r-1\] alias=a status=200 queue_ms=12 load_ms=5 model_ms=34"
        r" total_ms=\d+\.\d bytes=\d+",
        line,
    )


def test_a_refused_request_is_one_line_too(client: httpx.Client, lines: list[str]) -> None:
    client.post(CHAT, json={})
    (line,) = lines
    assert " alias=- status=400 total_ms=" in line


def test_a_client_that_disconnected_is_one_line_too(
    client: httpx.Client, manager: StandIn, lines: list[str]
) -> None:
    manager.mode = "stream"
    with client.stream("POST", CHAT, json={**HELLO, "stream": True}) as answer:
        next(answer.iter_lines())
    assert manager.client_left.wait(3)
    (line,) = lines
    assert " alias=a status=499 " in line


# --- internal errors ------------------------------------------------------------------------------


def test_an_internal_error_has_openais_shape_and_reveals_nothing(
    client: httpx.Client, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: object, checked: object, scope: Scope) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(Exchange, "_send_once", broken)
    answer = client.post(CHAT, json=HELLO)
    assert (answer.status_code, answer.json()["error"]["source"]) == (500, "gateway")
    assert "secret" not in answer.text
    assert any("internal error" in line for line in lines)


def test_a_connection_header_can_not_remove_the_manager_s_token(
    tmp_path: Path, manager: StandIn, manager_url: str
) -> None:
    settings = make_settings(tmp_path, manager_url, "manager: {token: t0ken}\n")
    named = "keep-alive, authorization, content-type, x-request-id, x-vision-keep-alive"
    with served(create_app(settings)) as url:
        plain.post(url + CHAT, json={**HELLO, "keep_alive": 5}, headers={"connection": named})
    headers = manager.received[0].headers
    assert headers["authorization"] == "Bearer t0ken"
    assert headers["content-type"] == "application/json"
    assert headers["x-vision-keep-alive"] == "5.0"
    assert headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize(
    ("status", "marked", "retryable"),
    [(503, True, True), (200, True, False), (500, True, False), (503, False, False)],
)
def test_only_a_marked_503_is_retryable(status: int, marked: bool, retryable: bool) -> None:
    headers = CIMultiDict({"X-Vision-Retryable": "1"} if marked else {})
    response = SimpleNamespace(status=status, headers=headers)
    assert is_retryable(cast(ClientResponse, response)) is retryable
