"""Shared by the translation tests: requests, and repeatable ids and times."""

from __future__ import annotations

import itertools
import json
from typing import Any

from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from contracts.wire import parse_json
from contracts.wire.completions import ChatChunk
from contracts.wire.response_object import ResponseObject
from contracts.wire.responses import ResponseRequest
from gateway.param_names import ParamNames
from gateway.responses.chat import NAMES
from gateway.responses.events import ResponseEvents
from gateway.responses.response import NewId, new_response

LOOK = {"type": "function", "name": "look", "parameters": {"type": "object"}}
OPENAI: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)  # any event, judged by its SDK
USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 3,
    "total_tokens": 10,
    "prompt_tokens_details": {"cached_tokens": 5},
}


def asked(**fields: Any) -> ResponseRequest:
    return parse_json(ResponseRequest, json.dumps({"input": "hi", **fields}).encode())


def counting_ids() -> NewId:
    numbers = itertools.count()
    return lambda prefix: f"{prefix}_{next(numbers)}"


def now() -> float:
    return 1_700_000_060.5


def response(**fields: Any) -> ResponseObject:
    return new_response(asked(**fields), "resp_0", 1_700_000_000, "vlm-fast")


def call(call_id: str) -> dict[str, Any]:
    return {"type": "function_call", "call_id": call_id, "name": "look", "arguments": "{}"}


def result(call_id: str, output: Any = "seen") -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": output}


def chunk(delta: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """A chunk of a chat; *fields* are of its choice, ``usage`` is of the chunk."""
    usage = fields.pop("usage", None)
    choices = [] if delta is None else [{"index": 0, "delta": delta, **fields}]
    made = {"id": "c", "created": 1, "model": "vlm-fast", "choices": choices, "usage": usage}
    ChatChunk.model_validate(made)
    return made


def rewriting(**asked: Any) -> ResponseEvents:
    """Of a chat whose second message was the first of the input."""
    names = ParamNames(NAMES)
    names.note("messages[1]", "input[0]")
    return ResponseEvents(response(**asked), names, counting_ids(), now)


def sse(*events: Any) -> bytes:
    said = (event if isinstance(event, str) else json.dumps(event) for event in events)
    return b"".join(f"data: {text}\n\n".encode() for text in said)


def read(stream: bytes) -> list[dict[str, Any]]:
    """The events of a response's stream, each named as its type says."""
    events = []
    for block in stream.decode().split("\n\n"):
        if not block or block.startswith(":"):
            continue
        name, data = block.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events
