"""A chat completion as a response that openai-python's models accept."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.responses import Response

from contracts.errors import UpstreamError
from gateway.responses.response import response_of
from tests.gateway.responses.given import LOOK, USAGE, counting_ids, now, response

TOKEN = {"token": "é", "logprob": -0.5, "bytes": None, "top_logprobs": []}


def answered(
    message: dict[str, Any], finish: str = "stop", logprobs: Any = None, **asked: Any
) -> dict[str, Any]:
    choice = {"index": 0, "message": message, "finish_reason": finish, "logprobs": logprobs}
    completion = {"id": "c", "created": 1, "model": "m", "choices": [choice], "usage": USAGE}
    body = response_of(response(**asked), json.dumps(completion).encode(), counting_ids(), now)
    Response.model_validate_json(body)
    made: dict[str, Any] = json.loads(body)
    return made


def tool_call(id: str) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": "look", "arguments": '{"a": 1}'}}


def text(value: str, **fields: Any) -> dict[str, Any]:
    part = {"type": "output_text", "text": value, "annotations": [], "logprobs": []}
    return {
        "id": "msg_0",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [part],
        **fields,
    }


def test_a_text_is_one_message() -> None:
    made = answered({"content": "한글"})
    assert (made["status"], made["output"]) == ("completed", [text("한글")])
    assert (made["id"], made["model"]) == ("resp_0", "vlm-fast")
    assert (made["created_at"], made["completed_at"]) == (1_700_000_000, 1_700_000_060)
    assert made["error"] is made["incomplete_details"] is None


def test_usage_has_a_response_s_names() -> None:
    assert answered({"content": "x"})["usage"] == {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 5, "cache_write_tokens": 0},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 10,
    }


def test_an_empty_completion_is_an_empty_message() -> None:
    assert answered({"content": ""})["output"] == [text("")]


def test_calls_are_items_after_the_message() -> None:
    calls = [tool_call("c1"), tool_call("c2")]
    made = answered({"content": "I look.", "tool_calls": calls}, "tool_calls")
    message_item, *items = made["output"]
    assert message_item == text("I look.")
    assert items == [
        {
            "id": f"fc_{number}",
            "type": "function_call",
            "status": "completed",
            "call_id": call_id,
            "name": "look",
            "arguments": '{"a": 1}',
        }
        for number, call_id in ((1, "c1"), (2, "c2"))
    ]


@pytest.mark.parametrize("content", [None, ""])
def test_a_call_without_text_has_no_message(content: str | None) -> None:
    made = answered({"content": content, "tool_calls": [tool_call("c")]}, "tool_calls")
    assert [item["type"] for item in made["output"]] == ["function_call"]


def test_the_token_limit_leaves_the_last_item_incomplete() -> None:
    made = answered({"content": "x"}, "length")
    assert made["status"] == "incomplete"
    assert made["incomplete_details"] == {"reason": "max_output_tokens"}
    assert made["completed_at"] is None
    assert made["output"] == [text("x", status="incomplete")]
    made = answered({"content": "x", "tool_calls": [tool_call("c1"), tool_call("c2")]}, "length")
    statuses = [item["status"] for item in made["output"]]
    assert statuses == ["completed", "completed", "incomplete"]


def test_logprobs_stand_with_the_text_and_always_have_their_bytes() -> None:
    other = {"token": "e", "logprob": -1.0, "bytes": [101]}
    made = answered({"content": "é"}, logprobs={"content": [{**TOKEN, "top_logprobs": [other]}]})
    (token,) = made["output"][0]["content"][0]["logprobs"]
    assert token == {**TOKEN, "bytes": [195, 169], "top_logprobs": [other]}


ASKED = {
    "instructions": "Be brief.",
    "max_output_tokens": 5,
    "metadata": {"a": "b"},
    "parallel_tool_calls": False,
    "prompt_cache_key": "k",
    "safety_identifier": "s",
    "temperature": 0.0,
    "tool_choice": {"type": "function", "name": "look"},
    "tools": [{**LOOK, "description": "Looks.", "strict": True}],
    "top_logprobs": 3,
    "top_p": 0.5,
    "user": "u",
    "text": {
        "format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True},
        "verbosity": "low",
    },
}


def test_the_response_repeats_the_request_fields() -> None:
    for name, value in ASKED.items():
        fields: dict[str, Any] = {"tools": [LOOK], name: value}
        assert answered({"content": "x"}, **fields)[name] == value, name


def test_absent_request_fields_have_their_defaults() -> None:
    made = answered({"content": "x"}, store=True, truncation="auto", reasoning={"effort": "high"})
    # Null: the checkpoint decides, and the gateway does not know its defaults.
    assert (made["temperature"], made["top_p"]) == (None, None)
    assert made["top_logprobs"] == 0
    assert (made["tool_choice"], made["tools"], made["parallel_tool_calls"]) == ("auto", [], True)
    assert made["text"] == {"format": {"type": "text"}, "verbosity": "medium"}
    assert (made["store"], made["truncation"]) == (False, "disabled")  # what is done, not wished
    assert made["reasoning"] == {"effort": None, "summary": None}


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"echo": 5}'])
def test_an_invalid_completion_is_an_upstream_error(body: bytes) -> None:
    with pytest.raises(UpstreamError):
        response_of(response(), body, counting_ids(), now)
