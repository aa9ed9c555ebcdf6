"""A worker's app: health, origin guard, model time, disconnects."""

from __future__ import annotations

import json
import socket
import threading
import time
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from contracts.control import Download, Phase, WorkerHealth
from testkit.fakes.engine import FakeEngine
from tests.workers.apps import DRAW, HELLO, VLM, b64, error_of, png, wait_for, worker
from workers.engine import LoadError


def test_foreign_origins_and_hosts_are_refused(vlm: httpx.Client) -> None:
    chat = {"messages": [{"role": "user", "content": "hi"}]}
    for headers in ({"origin": "http://evil.com"}, {"origin": "null"}, {"host": "evil.com"}):
        response = vlm.post("/v1/chat/completions", json=chat, headers=headers)
        assert response.status_code == 403
        assert response.json()["error"]["source"] == "worker"
    assert vlm.get("/health", headers={"host": "evil.com"}).status_code == 403


class TestHealth:
    def test_a_loading_worker_returns_503_with_its_phase_and_nonce(self) -> None:
        engine = FakeEngine(gate=threading.Event())
        with worker(engine, VLM, ready=False) as client:
            wait_for(lambda: client.get("/health").json()["phase"] == "loading")
            response = client.get("/health")
            health = WorkerHealth.model_validate(response.json())
            assert response.status_code == 503
            assert (health.alias, health.nonce, health.detail) == ("fake", "n0nce", "half way")
            refused = client.post("/v1/chat/completions", json=HELLO)
            assert (refused.status_code, error_of(refused)["code"]) == (503, "unavailable")
            assert refused.headers["retry-after"]
            engine.gate.set()
            wait_for(lambda: client.get("/health").status_code == 200)

    def test_health_responds_at_once_while_the_model_runs(
        self, vlm: httpx.Client, engine: FakeEngine
    ) -> None:
        engine.turnstile.clear()
        with vlm.stream("POST", "/v1/chat/completions", json={**HELLO, "stream": True}) as stream:
            assert stream.status_code == 200
            began = time.monotonic()
            health = WorkerHealth.model_validate(vlm.get("/health").json())
            assert time.monotonic() - began < 0.5
            assert (health.phase, health.active_requests, health.jobs) == (Phase.READY, 1, 1)
            engine.turnstile.set()
            stream.read()
        wait_for(lambda: vlm.get("/health").json()["active_requests"] == 0)
        after = WorkerHealth.model_validate(vlm.get("/health").json())
        assert (after.request_count, after.jobs) == (1, 0)
        assert after.progress > health.progress

    def test_a_download_is_reported_with_its_bytes(self) -> None:
        download = Download(done_bytes=3, total_bytes=9, bytes_per_second=1.5, eta_seconds=4.0)
        engine = FakeEngine(gate=threading.Event(), download=download)
        with worker(engine, VLM, ready=False) as client:
            wait_for(lambda: client.get("/health").json()["phase"] == "downloading")
            health = WorkerHealth.model_validate(client.get("/health").json())
            assert health.download == download
            engine.gate.set()
            wait_for(lambda: client.get("/health").status_code == 200)
            assert client.get("/health").json()["download"] is None

    def test_a_model_that_failed_to_load_is_never_healthy(self) -> None:
        engine = FakeEngine(load_error=LoadError("models.fake.path: nothing there"))
        with worker(engine, VLM, ready=False) as client:
            wait_for(lambda: client.get("/health").json()["phase"] == "failed")
            response = client.get("/health")
            assert response.status_code == 503
            assert response.json()["detail"] == "models.fake.path: nothing there"
            refused = client.post("/v1/chat/completions", json=HELLO)
            assert "nothing there" in error_of(refused)["message"]


class TestModelTime:
    """Seconds of the model, in a header of each response that is not a stream."""

    def test_all_routes_return_it(self, vlm: httpx.Client, image_client: httpx.Client) -> None:
        image = b64(png())
        responses = [
            vlm.post("/v1/chat/completions", json=HELLO),
            vlm.post("/v1/vision/analyze", json={"image": image}),
            image_client.post("/v1/images/generations", json=DRAW),
            image_client.post("/v1/images/edits", json={**DRAW, "image": [image]}),
        ]
        assert [response.status_code for response in responses] == [200] * 4
        assert all(int(response.headers["x-vision-model-ms"]) >= 0 for response in responses)

    def test_it_counts_the_model_s_time(self, vlm: httpx.Client, engine: FakeEngine) -> None:
        engine.turnstile.clear()

        def let_through() -> None:
            engine.working.wait(10)
            time.sleep(0.2)
            engine.turnstile.set()

        threading.Thread(target=let_through).start()
        response = vlm.post("/v1/chat/completions", json=HELLO)
        assert int(response.headers["x-vision-model-ms"]) >= 150

    def test_it_is_zero_without_the_model(self, image_client: httpx.Client) -> None:
        edit = {"prompt": "x", "image": [b64(png())], "strength": 0}
        response = image_client.post("/v1/images/edits", json=edit)
        assert response.headers["x-vision-model-ms"] == "0"

    def test_a_stream_has_it_in_the_log_only(
        self, vlm: httpx.Client, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level("INFO", logger="workers.serving.endpoint"):
            response = vlm.post("/v1/chat/completions", json={**HELLO, "stream": True})
            wait_for(lambda: "model_ms=" in caplog.text)
        assert "x-vision-model-ms" not in response.headers


class TestDisconnects:
    """A client that disconnects cancels its job at the next token or step."""

    def disconnect_during(self, client: httpx.Client, engine: FakeEngine, path: str, body: Any) -> None:
        engine.turnstile.clear()
        url = urlsplit(str(client.base_url))
        raw = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(raw)}\r\n\r\n"
        with socket.create_connection((url.hostname or "", url.port or 0)) as connection:
            connection.sendall(head.encode() + raw)
            assert engine.working.wait(10)
        assert engine.cancelled.wait(10)
        assert engine.emitted == 0
        wait_for(lambda: client.get("/health").json()["active_requests"] == 0)
        engine.turnstile.set()

    @pytest.mark.parametrize("stream", [False, True])
    def test_a_chat_is_cancelled_and_the_next_request_is_served(
        self, vlm: httpx.Client, engine: FakeEngine, stream: bool
    ) -> None:
        self.disconnect_during(vlm, engine, "/v1/chat/completions", {**HELLO, "stream": stream})
        assert vlm.post("/v1/chat/completions", json=HELLO).status_code == 200

    @pytest.mark.parametrize("stream", [False, True])
    def test_an_image_is_cancelled_and_the_next_request_is_served(
        self, image_client: httpx.Client, engine: FakeEngine, stream: bool
    ) -> None:
        self.disconnect_during(
            image_client, engine, "/v1/images/generations", {**DRAW, "stream": stream}
        )
        assert image_client.post("/v1/images/generations", json=DRAW).status_code == 200

    def test_the_log_line_has_counts_and_no_content(
        self, vlm: httpx.Client, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO", "workers")
        secret = {"messages": [{"role": "user", "content": "my secret"}]}
        vlm.post("/v1/chat/completions", json=secret, headers={"x-request-id": "r-1"})
        wait_for(lambda: "request=r-1" in caplog.text)
        (line,) = [r.getMessage() for r in caplog.records if "r-1" in r.getMessage()]
        assert line.startswith("alias=fake request=r-1 POST /v1/chat/completions status=200 ms=")
        assert line.endswith("prompt_tokens=5 completion_tokens=4")
        assert "secret" not in caplog.text
