"""``/v1/responses`` over sockets: the manager's request, the client's response, the errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from gateway.app import create_app
from testkit import plain
from testkit.servers import served
from tests.gateway.conftest import make_settings
from tests.gateway.responses.given import USAGE, chunk, read, sse
from tests.gateway.stand_in import StandIn
from tests.gateway.test_routes import B64, error

ROUTE = "/v1/responses"
COMPLETION = {
    "id": "c",
    "created": 1,
    "model": "a",
    "choices": [{"index": 0, "message": {"content": "한글"}, "finish_reason": "stop"}],
    "usage": USAGE,
}
STREAM = sse(
    chunk({"role": "assistant", "content": ""}),
    chunk({"content": "한"}),
    chunk({"content": "글"}),
    chunk({}, finish_reason="stop"),
    chunk(usage=USAGE),
    "[DONE]",
)


@pytest.fixture
def sdk(client: httpx.Client) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{client.base_url}/v1",
        api_key="unused",
        max_retries=0,
        _strict_response_validation=True,
    ) as made:
        yield made


def test_the_worker_receives_a_chat_completion_request(client: httpx.Client, manager: StandIn) -> None:
    manager.answer(COMPLETION)
    answer = client.post(ROUTE, json={"input": "hi", "model": "alpha", "max_output_tokens": 5})
    assert answer.status_code == 200
    assert answer.json()["output"][0]["content"][0]["text"] == "한글"
    assert answer.headers["content-type"] == "application/json"
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert answer.headers["x-vision-model-ms"] == "34"
    (received,) = manager.received
    assert received.path == "/workers/a/v1/chat/completions"
    assert json.loads(received.body) == {
        "model": "alpha",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        "max_completion_tokens": 5,
    }


def test_ids_are_unique(client: httpx.Client, manager: StandIn) -> None:
    manager.answer(COMPLETION)
    answers = [client.post(ROUTE, json={"input": "hi"}).json() for _ in range(2)]
    ids = [id for answer in answers for id in (answer["id"], answer["output"][0]["id"])]
    assert len(set(ids)) == 4
    assert [id.partition("_")[0] for id in ids] == ["resp", "msg"] * 2


def test_a_stream_consists_of_response_events(client: httpx.Client, manager: StandIn) -> None:
    manager.answer(STREAM)
    answer = client.post(ROUTE, json={"input": "hi", "stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = read(answer.content)
    assert events[-1]["type"] == "response.completed"
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == "한글"
    assert json.loads(manager.received[0].body)["stream_options"] == {"include_usage": True}


def test_a_slow_stream_sends_progress_comments_before_its_first_event(
    tmp_path: Path, manager: StandIn, manager_url: str
) -> None:
    manager.answer(STREAM)
    manager.slow = 0.5
    settings = make_settings(tmp_path, manager_url, "gateway: {heartbeat_s: 0.1}\n")
    with served(create_app(settings)) as url, plain.Client(base_url=url) as http:
        answer = http.post(ROUTE, json={"input": "hi", "stream": True})
    assert answer.text.startswith(": ")
    assert read(answer.content)[-1]["type"] == "response.completed"


def test_an_error_after_a_comment_is_a_failed_response(
    tmp_path: Path, manager: StandIn, manager_url: str
) -> None:
    manager.mode, manager.slow = "fail", 0.5
    settings = make_settings(tmp_path, manager_url, "gateway: {heartbeat_s: 0.1}\n")
    with served(create_app(settings)) as url, plain.Client(base_url=url) as http:
        events = read(http.post(ROUTE, json={"input": "hi", "stream": True}).content)
    assert [event["type"] for event in events[-2:]] == ["response.failed", "error"]
    assert events[-1]["message"] == "busy"


def test_a_stream_that_is_cut_raises_in_openai_s_sdk(sdk: openai.OpenAI, manager: StandIn) -> None:
    manager.answer(STREAM[:200], cut=True)
    seen: list[str] = []
    with pytest.raises(openai.APIError, match="the response broke off") as caught:
        seen.extend(event.type for event in sdk.responses.create(input="hi", stream=True))
    assert caught.value.code == "worker_failed"
    assert seen[0] == "response.created"
    assert seen[-1] == "response.failed"


def test_an_invalid_chat_completion_is_an_upstream_error(
    client: httpx.Client, manager: StandIn
) -> None:
    answer = client.post(ROUTE, json={"input": "hi"})  # the stand-in's echo
    assert (answer.status_code, error(answer)["code"]) == (502, "upstream_error")


@pytest.mark.parametrize("stream", [False, True])
def test_an_error_of_the_worker_keeps_its_status_and_names_the_client_s_field(
    client: httpx.Client, manager: StandIn, stream: bool
) -> None:
    param = "messages[0].content[0].image_url.url"
    reported = {"message": "it is broken", "type": "t", "param": param, "code": "c", "source": "worker"}
    manager.answer({"error": reported}, status=400)
    image = {"type": "input_image", "image_url": f"data:image/png;base64,{B64}"}
    body = {"input": [{"role": "user", "content": [image]}], "stream": stream}
    answer = client.post(ROUTE, json=body)
    assert answer.status_code == 400
    assert error(answer) == {**reported, "param": "input[0].content[0].image_url"}


BAD: list[tuple[Any, str]] = [
    ({}, "input"),
    ({"input": "hi", "previous_response_id": "resp_1"}, "previous_response_id"),
    ({"input": "hi", "tools": [{"type": "web_search"}]}, "tools[0].type"),
    ({"input": "hi", "model": "gpt-9"}, "model"),
    (
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "!"}]}]},
        "input[0].content[0].image_url",
    ),
]


@pytest.mark.parametrize(("body", "param"), BAD, ids=lambda value: str(value)[:50])
def test_bad_input_is_refused_before_anything_is_loaded(
    client: httpx.Client, manager: StandIn, body: Any, param: str
) -> None:
    answer = client.post(ROUTE, json=body)
    assert answer.status_code in (400, 404)
    assert error(answer)["param"] == param
    assert manager.received == []


def test_responses_are_not_stored(sdk: openai.OpenAI) -> None:
    asked = (
        lambda: sdk.responses.retrieve("resp_1"),
        lambda: sdk.responses.delete("resp_1"),
        lambda: sdk.responses.cancel("resp_1"),
        lambda: sdk.responses.input_items.list("resp_1"),
    )
    for ask in asked:
        with pytest.raises(openai.NotFoundError, match="responses are not stored") as caught:
            ask()
        assert caught.value.param == "response_id"
