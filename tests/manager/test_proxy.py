"""The proxy: it forwards bytes both ways, holds a lease during the response, reports errors."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import socket
from collections.abc import Iterator

import httpx
import psutil
import pytest

from tests.manager.conftest import Bench, Manager, error_of, eventually

pytestmark = pytest.mark.process


def test_a_request_reaches_the_worker_as_it_was_sent(bench: Bench) -> None:
    with bench.manager() as manager:
        seen = manager.http.request(
            "PATCH",
            "/workers/a/v1/x%2Fy?q=1&q=%20z",
            content=b"payload",
            headers={"x-custom": "1", "content-type": "text/x", "accept": "text/y"},
        ).json()
    assert (seen["method"], seen["target"]) == ("PATCH", "/v1/x%2Fy?q=1&q=%20z")
    headers = dict(seen["headers"])
    assert (headers["x-custom"], headers["content-type"], headers["accept"]) == (
        "1",
        "text/x",
        "text/y",
    )
    assert (seen["body"], headers["content-length"]) == (7, "7")


def test_a_request_without_a_body_has_none_at_the_worker(bench: Bench) -> None:
    with bench.manager() as manager:
        seen = manager.http.get("/workers/a/echo").json()
    assert (seen["method"], seen["target"], seen["body"]) == ("GET", "/echo", 0)
    assert not {"content-length", "transfer-encoding"} & dict(seen["headers"]).keys()


def test_the_manager_s_keys_are_not_forwarded(bench: Bench) -> None:
    with bench.manager() as manager:
        keys = {"authorization": "Bearer secret", "x-manager-token": "secret"}
        seen = manager.ask(headers=keys).json()
    assert not keys.keys() & dict(seen["headers"]).keys()


def test_a_large_chunked_body_arrives_complete(bench: Bench) -> None:
    pieces = [os.urandom(1 << 20) for _ in range(8)]

    def content() -> Iterator[bytes]:
        yield from pieces

    with bench.manager() as manager:
        seen = manager.ask(content=content()).json()
    assert seen["sha256"] == hashlib.sha256(b"".join(pieces)).hexdigest()
    assert dict(seen["headers"])["transfer-encoding"] == "chunked"


def test_memory_stays_flat_while_large_bodies_are_forwarded(bench: Bench) -> None:
    megabytes = 100
    with bench.manager() as manager:
        assert manager.ask().status_code == 200
        before = psutil.Process().memory_info().rss
        peak = before
        with manager.http.stream("POST", f"/workers/a/blob?bytes={megabytes << 20}") as answer:
            size = 0
            for number, chunk in enumerate(answer.iter_raw()):
                size += len(chunk)
                if number % 50 == 0:
                    peak = max(peak, psutil.Process().memory_info().rss)
        assert size == megabytes << 20
    assert peak - before < 50 << 20


def test_a_worker_s_own_status_and_body_pass_through(bench: Bench) -> None:
    with bench.manager() as manager:
        answer = manager.ask(path="echo?status=418")
        assert answer.status_code == 418
        assert answer.json()["target"] == "/echo?status=418"
        missing = manager.ask(path="echo?status=503")
        assert missing.status_code == 503
        assert "x-vision-retryable" not in missing.headers


def test_a_response_has_headers_for_queue_time_and_load_time(bench: Bench) -> None:
    with bench.manager({"a": bench.model(phases=[["loading", "", 0.3]])}) as manager:
        cold, warm = manager.ask(), manager.ask()
    assert int(cold.headers["x-vision-queue-ms"]) >= int(cold.headers["x-vision-load-ms"]) >= 300
    assert (warm.headers["x-vision-queue-ms"], warm.headers["x-vision-load-ms"]) == ("0", "0")


def test_each_request_is_one_line_in_the_log(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    with bench.manager() as manager:
        size = len(manager.ask(headers={"x-request-id": "r-1"}).content)
        manager.http.post("/workers/nobody/echo", headers={"x-request-id": "r-2"})
        eventually(lambda: any("[r-2]" in line for line in caplog.messages))
    (good,) = [line for line in caplog.messages if "[r-1]" in line]
    assert re.fullmatch(
        r"POST /workers/a/echo \[r-1\] alias=a status=200 queue_ms=\d+ load_ms=\d+"
        rf" total_ms=[\d.]+ bytes={size}",
        good,
    )
    (bad,) = [line for line in caplog.messages if "[r-2]" in line]
    assert re.search(r"alias=nobody status=404 total_ms=[\d.]+ bytes=\d+ error=.*nobody", bad)


# --- keep_alive -----------------------------------------------------------------------------------


def test_keep_alive_is_for_the_manager_and_not_for_the_worker(bench: Bench) -> None:
    with bench.manager() as manager:
        seen = manager.ask(headers={"x-vision-keep-alive": "30"}).json()
    assert "x-vision-keep-alive" not in dict(seen["headers"])


def test_a_keep_alive_that_is_no_number_of_seconds_is_a_400_and_loads_nothing(bench: Bench) -> None:
    with bench.manager() as manager:
        for wrong in ("5m", "nan", "inf", "-2", ""):
            answer = manager.ask(headers={"x-vision-keep-alive": wrong})
            assert (answer.status_code, error_of(answer)["param"]) == (400, "keep_alive"), wrong
            assert manager.state() == "stopped"


def test_a_request_id_is_forwarded_and_returned_or_generated(bench: Bench) -> None:
    with bench.manager() as manager:
        given = manager.ask(headers={"x-request-id": "mine-1"})
        assert given.headers["x-request-id"] == "mine-1"
        assert dict(given.json()["headers"])["x-request-id"] == "mine-1"
        made = manager.ask()
        assert re.fullmatch("req_[0-9a-f]{32}", made.headers["x-request-id"])
        assert dict(made.json()["headers"])["x-request-id"] == made.headers["x-request-id"]


def test_an_unknown_alias_is_a_404(bench: Bench) -> None:
    with bench.manager() as manager:
        for path in ("/workers/nobody/echo", "/workers/", "/workers//echo", "/workers/%61/echo"):
            answer = manager.http.post(path)
            assert (answer.status_code, error_of(answer)["code"]) == (404, "model_not_found"), path


def test_a_stream_arrives_event_by_event(bench: Bench) -> None:
    with (
        bench.manager() as manager,
        manager.http.stream("POST", f"/workers/a/sse?n=3&until={bench.flag}") as answer,
    ):
        assert answer.headers["content-type"] == "text/event-stream"
        events = answer.iter_lines()
        assert [next(events) for _ in range(6)] == ["data: 0", "", "data: 1", "", "data: 2", ""]
        bench.raise_flag()  # the worker continues only now
        assert list(events) == ["data: [DONE]", ""]


# --- workers that die -----------------------------------------------------------------------------


def test_a_worker_that_dies_before_its_response_is_a_retryable_503(bench: Bench) -> None:
    with bench.manager() as manager:
        answer = manager.ask(path="die", json={})
        assert (answer.status_code, error_of(answer)["code"]) == (503, "worker_failed")
        assert answer.headers["x-vision-retryable"] == "1"
        assert "exit status 7" in error_of(answer)["message"]
        assert manager.state() == "failed"  # a retry never reaches the dead process
        assert manager.ask().status_code == 200


def test_a_worker_that_dies_between_grant_and_connection_is_a_retryable_503(bench: Bench) -> None:
    with bench.manager() as manager:
        assert manager.ask().status_code == 200
        # A dead process whose exit the manager has not noticed yet.
        worker = manager.app.pool.worker("a")
        assert worker.handle is not None
        pid = worker.handle.pid
        os.kill(pid, signal.SIGKILL)
        answer = manager.ask()
        if answer.status_code == 200:  # noticed, and a new process was started
            assert manager.pid() != pid
        else:
            assert answer.headers["x-vision-retryable"] == "1"
            assert "killed by SIGKILL" in error_of(answer)["message"]


def test_a_worker_that_closes_the_connection_without_a_response_is_reported(bench: Bench) -> None:
    with bench.manager() as manager:
        answer = manager.ask(path="hang-up")
        assert (answer.status_code, error_of(answer)["code"]) == (503, "worker_failed")
        assert manager.state() == "ready"


def test_a_worker_that_dies_in_the_middle_of_a_stream_ends_it_with_an_error_event(bench: Bench) -> None:
    with bench.manager() as manager:
        answer = manager.ask(path="sse?n=2&die=1")
        assert answer.status_code == 200
        *_, last = answer.text.strip().split("\n\n")
        assert answer.text.startswith("data: 0\n\ndata: 1\n\n")
        assert last.startswith("event: error\ndata: ")
        assert '"code": "worker_failed"' in last
        assert "[DONE]" not in answer.text


def test_an_abort_by_metal_is_reported_with_its_cure_everywhere(bench: Bench) -> None:
    words = (
        "libc++abi: terminating due to uncaught exception of type std::runtime_error: [METAL] Command"
        " buffer execution failed: Impacting Interactivity"
        " (0000000e:kIOGPUCommandBufferCallbackErrorImpactingInteractivity)\n"
    )
    cure = "let the display sleep"
    with bench.manager({"a": bench.model(last_words=words)}) as manager:
        assert cure in error_of(manager.ask(path="die"))["message"]
        assert cure in manager.model()["last_error"]
        eventually(lambda: manager.ask().status_code == 200)
        assert cure in manager.ask(path="sse?n=1&die=1").text, "in the event that ends the stream"
        manager.in_state("failed")
        with manager.http.stream("GET", "/events", headers={"last-event-id": "0"}) as events:
            text = next(line for line in events.iter_lines() if '"failed"' in line)
        assert cure in text


def test_a_worker_that_dies_during_another_response_cuts_it_visibly(bench: Bench) -> None:
    with bench.manager() as manager, pytest.raises(httpx.RemoteProtocolError):
        manager.ask(path="blob?bytes=1000000&die=1")


# --- clients that leave ---------------------------------------------------------------------------


def leaving_client(manager: Manager, target: str) -> socket.socket:
    """A connection with a request for *target*; closing it is leaving."""
    host, _, port = manager.url.removeprefix("http://").partition(":")
    connection = socket.create_connection((host, int(port)))
    connection.sendall(f"POST {target} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n".encode())
    return connection


def test_a_client_that_leaves_in_the_middle_of_a_stream_closes_the_upstream_and_frees_the_lease(
    bench: Bench,
) -> None:
    with bench.manager() as manager:
        client = leaving_client(manager, f"/workers/a/sse?n=2&until={bench.flag}")
        bench.noted("begin")
        assert client.recv(10)
        assert manager.open_requests() == 1
        client.close()
        bench.noted("gone")
        eventually(lambda: manager.open_requests() == 0)


def test_a_client_that_leaves_before_the_answer_closes_the_upstream_and_frees_the_lease(
    bench: Bench,
) -> None:
    with bench.manager() as manager:
        client = leaving_client(manager, f"/workers/a/wait?until={bench.flag}")
        bench.noted("begin")
        client.close()
        bench.noted("gone")
        eventually(lambda: manager.open_requests() == 0)
        assert manager.ask().status_code == 200


def test_a_client_that_leaves_while_it_uploads_frees_the_lease(bench: Bench) -> None:
    with bench.manager() as manager:
        assert manager.ask().status_code == 200
        host, _, port = manager.url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port))) as client:
            client.sendall(b"POST /workers/a/echo HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\nab")
            eventually(lambda: manager.open_requests() == 1)
        eventually(lambda: manager.open_requests() == 0)
        assert manager.state() == "ready"


# --- stopping under load --------------------------------------------------------------------------


def test_a_request_that_outlasts_the_drain_is_cut_off_with_an_error(bench: Bench) -> None:
    with bench.manager(manager={"drain_timeout_s": 0.3}) as manager:
        running = manager.ask_in_background(path=f"wait?until={bench.flag}")
        streaming = manager.ask_in_background(path=f"sse?n=1&until={bench.flag}")
        bench.noted("begin", count=2)
        assert manager.post("/stop/a").status_code == 200
        answer = running.result()
        assert (answer.status_code, error_of(answer)["code"]) == (503, "worker_failed")
        assert error_of(answer)["message"] == "a ended before it responded: it was stopped"
        assert "event: error" in streaming.result().text
