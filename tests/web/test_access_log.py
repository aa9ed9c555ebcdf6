"""Each request has an id, a record, one log line and a processing time."""

from __future__ import annotations

import asyncio
import logging
import re

import pytest
from starlette.types import Message, Receive, Scope, Send

from web.access_log import AccessLog
from web.request_record import RequestRecord, record_of

BODY = b'{"usage":{"prompt_tokens":12,"completion_tokens":34,"total_tokens":46}}'


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def asked(
    app: AccessLog, path: str = "/x", headers: list[tuple[bytes, bytes]] | None = None, raw: bytes = b""
) -> list[Message]:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request"}

    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": raw or path.encode(),
        "headers": headers or [],
    }
    asyncio.run(app(scope, receive, send))
    return sent


def answering(status: int = 200, body: bytes = BODY, alias: str = "a", took: float = 0.0) -> AccessLog:
    clock = Clock()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        record_of(scope).alias = alias
        clock.now += took
        head = [(b"x-request-id", b"inner"), (b"openai-processing-ms", b"7")]
        await send({"type": "http.response.start", "status": status, "headers": head})
        await send({"type": "http.response.body", "body": body[:20], "more_body": True})
        await send({"type": "http.response.body", "body": body[20:]})

    return AccessLog(app, "t", quiet=["/well"], make=lambda: b"made", clock=clock)


def test_a_plain_request_id_is_kept_and_any_other_replaced() -> None:
    for given, expected in [(b"r-1", b"r-1"), (b"a b", b"made"), (b"", b"made"), (b"x" * 129, b"made")]:
        sent = asked(answering(), headers=[(b"x-request-id", given)])
        ids = [value for key, value in sent[0]["headers"] if key == b"x-request-id"]
        assert ids == [expected]


def test_a_response_has_one_processing_time_header() -> None:
    head = asked(answering(took=0.0421))[0]["headers"]
    assert [value for key, value in head if key == b"openai-processing-ms"] == [b"42"]


def test_a_request_is_one_log_line_with_its_usage(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "t.access")
    asked(answering(took=0.5))
    assert caplog.messages == [
        "GET /x [made] alias=a status=200 total_ms=500.0 tokens_in=12 tokens_out=34 bytes=71"
    ]


def test_the_last_usage_of_a_response_counts() -> None:
    record = RequestRecord(0, alias="a")
    record.note(b'data: {"usage":{"input_tokens": 1,"output_tokens": 2}}\n\n')
    record.note(rb'data: {"usage":{"input_tokens":3,"output_tokens":4},"said":"\"output_tokens\":9"}')
    assert list(record.usage) == [3, 4, None]
    record.note(b"x" * 1000)
    assert list(record.usage) == [None, None, None]


def test_quiet_paths_are_logged_only_when_they_fail(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "t.access")
    asked(answering(), path="/well")
    assert caplog.messages == []
    asked(answering(status=503), path="/well")
    assert len(caplog.messages) == 1


def test_an_exception_is_logged_and_propagates(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("broken")

    caplog.set_level(logging.INFO, "t.access")
    with pytest.raises(RuntimeError):
        asked(AccessLog(app, "t", make=lambda: b"made"))
    assert re.search(r"GET /x \[made\] alias=- status=0 ", caplog.messages[0])


def test_the_raw_path_is_logged_so_that_it_can_not_imitate_other_fields(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "t.access")
    asked(answering(), path="/x status=200\nGET /y", raw=b"/x%20status=200%0AGET%20/\xff")
    assert caplog.messages[0].startswith("GET /x%20status=200%0AGET%20/\\xff [made] ")
