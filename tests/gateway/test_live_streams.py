"""The manager's events and logs through the gateway, and the list of recent requests."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from gateway.app import create_app
from gateway.live_streams import OpenStreams
from gateway.recent_requests import KEPT, RequestHistory
from gateway.server import GatewayServer
from testkit import plain
from testkit.servers import free_port, served
from tests.gateway.conftest import make_settings
from web.request_record import RequestRecord
from web.serve import bind


class Manager:
    """Answers /events with one event and then silence, and /logs with the query."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.left = threading.Event()

    def app(self) -> Starlette:
        return Starlette(routes=[Route("/events", self.events), Route("/logs/{alias}", self.logs)])

    async def events(self, request: Request) -> Response:
        self.headers = dict(request.headers)

        async def body() -> AsyncIterator[bytes]:
            try:
                yield b'id: 7\nevent: pressure\ndata: {"level": "normal"}\n\n'
                await asyncio.sleep(60)
            finally:
                self.left.set()

        return StreamingResponse(body(), media_type="text/event-stream")

    async def logs(self, request: Request) -> Response:
        return PlainTextResponse(f"{request.path_params['alias']}?{request.url.query}\n")


def first_event(lines: httpx.Response) -> list[str]:
    reported: list[str] = []
    for line in lines.iter_lines():
        if not line:
            break
        reported.append(line)
    return reported


def test_events_are_forwarded_as_they_arrive_and_last_event_id_is_sent_on(tmp_path: Path) -> None:
    manager = Manager()
    with served(manager.app()) as manager_url:
        settings = make_settings(tmp_path, manager_url, "manager: {token: t}\ngateway: {api_key: k}\n")
        with served(create_app(settings)) as url:
            headers = {"authorization": "Bearer k", "last-event-id": "6", "cookie": "private=1"}
            with plain.stream("GET", f"{url}/v1/system/events", headers=headers) as answer:
                assert answer.headers["content-type"].startswith("text/event-stream")
                assert first_event(answer)[0] == "id: 7"
            assert manager.left.wait(5), "a reader that leaves closes the manager's side"
    assert manager.headers["last-event-id"] == "6"
    assert manager.headers["authorization"] == "Bearer t", "the client's key goes no further"
    assert "cookie" not in manager.headers


def test_a_log_is_found_by_any_name_of_the_model(tmp_path: Path) -> None:
    with (
        served(Manager().app()) as manager_url,
        served(create_app(make_settings(tmp_path, manager_url))) as url,
    ):
        answer = plain.get(f"{url}/v1/system/logs/alpha?lines=3")
        assert answer.text == "a?lines=3&follow=0\n"
        assert plain.get(f"{url}/v1/system/logs/nobody").status_code == 404
        assert plain.get(f"{url}/v1/system/logs/a?lines=0").json()["error"]["param"] == "lines"


def test_an_unreachable_manager_is_a_503(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, f"http://127.0.0.1:{free_port()}")
    with served(create_app(settings)) as url:
        answer = plain.get(f"{url}/v1/system/events")
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "manager_unreachable"


def test_a_stopping_gateway_ends_open_streams_with_a_reason(tmp_path: Path) -> None:
    open_streams = OpenStreams()
    with served(Manager().app()) as manager_url:
        app = create_app(make_settings(tmp_path, manager_url), open_streams=open_streams)
        server = GatewayServer(app, open_streams)
        sock = bind("127.0.0.1", 0)
        serving = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
        serving.start()
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        with plain.stream("GET", f"{url}/v1/system/events") as answer:
            lines = answer.iter_lines()
            assert next(lines) == "id: 7"
            assert len(open_streams) == 1
            server.should_exit = True
            assert "the gateway is stopping" in "".join(lines)
        serving.join(10)
        sock.close()
    assert not serving.is_alive()
    assert len(open_streams) == 0


def test_recent_requests_report_their_cost_and_not_their_content() -> None:
    recent = RequestHistory({"/v1/chat/completions"}, clock=lambda: 1000.0)
    record = RequestRecord(
        0.0, "POST", "/v1/chat/completions", "req_1", key="anna", alias="a", status=200
    )
    record.queue_ms, record.load_ms, record.total_ms, record.prompt = 5, 4, 20.04, "a secret"
    recent.ended(record)
    (reported,) = recent.newest_first().data
    assert reported.model_dump(exclude_none=True) == {
        "at": 1000.0,
        "path": "/v1/chat/completions",
        "request_id": "req_1",
        "alias": "a",
        "status": 200,
        "total_ms": 20.0,
        "queue_ms": 5,
        "load_ms": 4,
    }


def test_only_the_latest_requests_to_models_are_listed() -> None:
    recent = RequestHistory({"/v1/chat/completions"}, clock=lambda: 0.0)
    recent.ended(RequestRecord(0.0, "GET", "/v1/chat/completions"))
    recent.ended(RequestRecord(0.0, "POST", "/v1/system/warm/a"))
    assert recent.newest_first().data == []
    for number in range(KEPT + 5):
        recent.ended(RequestRecord(0.0, "POST", "/v1/chat/completions", f"r{number}"))
    reported = [one.request_id for one in recent.newest_first().data]
    assert (reported[0], reported[-1], len(reported)) == (f"r{KEPT + 4}", "r5", KEPT)


def test_a_request_is_listed_when_it_is_finished(client: httpx.Client) -> None:
    client.post("/v1/chat/completions", json={"messages": []}, headers={"x-request-id": "of-the-list"})
    newest = client.get("/v1/system/requests").json()["data"][0]
    assert (newest["request_id"], newest["status"]) == ("of-the-list", 400)
