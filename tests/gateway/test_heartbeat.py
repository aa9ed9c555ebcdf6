"""Streams that are slow to begin: comments first; a later error is an event."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openai import APIError, OpenAI

from contracts.control import Download, ModelStatus, WorkerState
from gateway.app import create_app
from gateway.heartbeat import progress_of
from testkit import plain
from testkit.servers import served
from tests.gateway.conftest import make_settings
from tests.gateway.stand_in import StandIn
from tests.gateway.test_routes import HELLO

CHAT = "/v1/chat/completions"
EVERY_S = 0.1
STREAMED = {**HELLO, "stream": True}


def status(state: WorkerState, **fields: Any) -> ModelStatus:
    return ModelStatus(path="p", kind="vlm", port=1, status=state, memory_gb=1, **fields)


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory, manager_url: str) -> Iterator[httpx.Client]:
    """A client of a gateway that doesn't wait for long."""
    extra = f"gateway: {{heartbeat_s: {EVERY_S}}}\n"
    settings = make_settings(tmp_path_factory.mktemp("hasty"), manager_url, extra)
    with served(create_app(settings)) as url, plain.Client(base_url=url) as http:
        yield http


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (None, "waiting"),
        (status(WorkerState.READY), "waiting for its turn"),
        (status(WorkerState.STOPPED), "waiting for memory"),
        (status(WorkerState.DRAINING), "waiting for memory"),
        (status(WorkerState.STARTING), "starting"),
        (status(WorkerState.STARTING, phase="loading"), "loading"),
        (status(WorkerState.STARTING, phase="downloading"), "downloading"),
        (
            status(
                WorkerState.STARTING,
                phase="downloading",
                download=Download(done_bytes=42, total_bytes=100, eta_seconds=19.6),
            ),
            "downloading 42 %, about 20 s",
        ),
        (  # a worker's own words, which may name folders, are not for clients
            status(
                WorkerState.STARTING,
                phase="downloading (9 GB into /home/me/models, 40 GB free)",
                download=Download(done_bytes=1, total_bytes=100),
            ),
            "downloading 1 %",
        ),
        (
            status(
                WorkerState.STARTING,
                phase="downloading",
                download=Download(done_bytes=1, total_bytes=3),
            ),
            "downloading 33 %",
        ),
    ],
)
def test_progress_names_what_a_request_waits_for(model: ModelStatus | None, message: str) -> None:
    assert progress_of(model) == message


def test_a_stream_that_is_slow_to_begin_sends_progress_comments(
    hasty: httpx.Client, manager: StandIn
) -> None:
    manager.mode, manager.slow = "break", 5 * EVERY_S
    manager.model = {"status": "starting", "phase": "loading"}
    answer = hasty.post(CHAT, json=STREAMED)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.startswith(": loading\n\n: loading\n\n")
    assert '\n\ndata: {"i": 0}\n\n' in answer.text  # and then the stream itself


def test_a_stream_that_begins_in_time_is_forwarded_unchanged(
    hasty: httpx.Client, manager: StandIn
) -> None:
    manager.mode = "break"
    assert hasty.post(CHAT, json=STREAMED).text.startswith('data: {"i": 0}')


def test_a_request_without_streaming_gets_no_comments(hasty: httpx.Client, manager: StandIn) -> None:
    manager.slow = 3 * EVERY_S
    assert hasty.post(CHAT, json=HELLO).json()["echo"] > 0


def test_a_late_error_is_the_last_event(hasty: httpx.Client, manager: StandIn) -> None:
    manager.mode, manager.slow = "fail", 5 * EVERY_S
    answer = hasty.post(CHAT, json=STREAMED)
    assert answer.status_code == 200
    last = answer.text.strip().rpartition("\n\n")[2]
    assert last.startswith("event: error\ndata: ")
    assert json.loads(last.partition("data: ")[2]) == {"error": {"message": "busy"}}


def test_an_invalid_late_response_becomes_an_error_event(hasty: httpx.Client, manager: StandIn) -> None:
    manager.slow = 5 * EVERY_S
    answer = hasty.post(CHAT, json=STREAMED)
    assert "upstream_error" in answer.text.rpartition("event: error")[2]


def test_openais_sdk_waits_through_comments_and_raises_the_late_error(
    hasty: httpx.Client, manager: StandIn
) -> None:
    manager.mode, manager.slow = "fail", 5 * EVERY_S
    client = OpenAI(base_url=str(hasty.base_url.join("/v1")), api_key="k", max_retries=0, timeout=5)
    stream = client.chat.completions.create(
        model="a", messages=[{"role": "user", "content": "hi"}], stream=True
    )
    with pytest.raises(APIError, match="busy"):
        list(stream)


def test_a_client_that_disconnects_during_the_comments_ends_the_request(
    hasty: httpx.Client, manager: StandIn
) -> None:
    manager.mode = "hang"
    with hasty.stream("POST", CHAT, json=STREAMED) as answer:
        assert next(answer.iter_lines()).startswith(": ")
    assert manager.client_left.wait(3)
