"""Responses API requests: parsing, and refusals with the name of the field."""

from __future__ import annotations

import json
from typing import Any

import pytest

from contracts.errors import InvalidRequest, UnsupportedParameter
from contracts.wire import parse_json
from contracts.wire.responses import LOGPROBS, ResponseRequest

LOOK = {"type": "function", "name": "look", "parameters": {"type": "object"}}
REFERENCE = {"type": "item_reference", "id": "msg_1"}


def request(**fields: Any) -> ResponseRequest:
    return parse_json(ResponseRequest, json.dumps({"input": "hi", **fields}).encode())


def test_a_string_input_is_one_user_message() -> None:
    (item,) = request().input
    assert (item.type, item.role) == ("message", "user")
    assert item.content is not None
    assert [(part.type, part.text) for part in item.content] == [("input_text", "hi")]


def test_items_are_messages_calls_results_and_reasoning() -> None:
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "b"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text"}]},
        {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}", "id": "fc_1"},
        {"type": "function_call_output", "call_id": "c", "output": "d"},
    ]
    kinds = [item.type for item in request(input=items).input]
    assert kinds == ["message", "message", "reasoning", "function_call", "function_call_output"]


LOGPROBS_WANTED: list[Any] = [
    ({}, False),
    ({"top_logprobs": 0}, False),
    ({"top_logprobs": 2}, True),
    ({"include": [LOGPROBS]}, True),
    ({"include": ["reasoning.encrypted_content"]}, False),
]


def test_logprobs_are_requested_by_top_logprobs_or_include() -> None:
    for fields, wanted in LOGPROBS_WANTED:
        assert request(**fields).wants_logprobs is wanted


IGNORED: list[Any] = [
    {"store": True},
    {"background": False},
    {"previous_response_id": None},
    {"conversation": None},
    {"context_management": []},
    {"reasoning": {"effort": "low", "summary": "auto"}},
    {"truncation": "auto"},
    {"service_tier": "flex"},
    {"max_tool_calls": 3},
    {"stream_options": {"include_obfuscation": False}},
    {"text": {"verbosity": "low"}},
    {"never_heard_of": [{"x": 1}]},
]


def test_fields_that_only_apply_to_openai_s_models_are_accepted() -> None:
    for fields in IGNORED:
        request(**fields)


def message(**part: Any) -> dict[str, Any]:
    return {"input": [{"role": "user", "content": [{"type": "input_text", "text": "x"}, part]}]}


UNSUPPORTED: list[Any] = [
    ({"previous_response_id": "resp_1"}, "previous_response_id"),
    ({"conversation": {"id": "conv_1"}}, "conversation"),
    ({"background": True}, "background"),
    ({"prompt": {"id": "pmpt_1"}}, "prompt"),
    ({"n": 2}, "n"),
    ({"context_management": [{"type": "compaction"}]}, "context_management"),
    ({"moderation": {"model": "m"}}, "moderation"),
    ({"input": [REFERENCE]}, "input[0].type"),
    ({"input": [{"type": "computer_call_output", "output": {"type": "x"}}]}, "input[0].type"),
    ({"input": [{"type": "mcp_list_tools", "id": "x"}]}, "input[0].type"),
    (message(type="input_file", file_id="file_1"), "input[0].content[1].type"),
    (message(type="input_audio", input_audio={}), "input[0].content[1].type"),
    (message(type="input_image", file_id="file_1"), "input[0].content[1].file_id"),
    *[
        ({"tools": [LOOK, {"type": kind}]}, "tools[1].type")
        for kind in ("web_search", "file_search", "computer", "image_generation", "code_interpreter")
    ],
    ({"tools": [{"type": "mcp", "name": {"not": "a name"}}]}, "tools[0].type"),
    ({"tools": [LOOK], "tool_choice": {"type": "web_search_preview"}}, "tool_choice.type"),
    ({"tools": [LOOK], "tool_choice": {"type": "allowed_tools", "tools": []}}, "tool_choice.type"),
]


def test_an_unsupported_feature_is_refused_with_its_field() -> None:
    for fields, param in UNSUPPORTED:
        with pytest.raises(UnsupportedParameter) as caught:
            request(**fields)
        assert caught.value.param == param
        assert caught.value.code == "unsupported_parameter"


def test_the_refusal_of_an_item_reference_says_what_to_send_instead() -> None:
    with pytest.raises(UnsupportedParameter, match="send the items"):
        request(input=[REFERENCE])


INVALID: list[Any] = [
    ({"input": None}, "input"),
    ({"input": []}, "input"),
    ({"input": 5}, "input"),
    ({"input": [{"content": "x"}]}, "input[0].role"),
    ({"input": [{"role": "user"}]}, "input[0].content"),
    ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
    ({"input": [{"type": "function_call", "name": "f", "arguments": ""}]}, "input[0].call_id"),
    ({"input": [{"type": "function_call", "call_id": "c", "arguments": ""}]}, "input[0].name"),
    ({"input": [{"type": "function_call", "call_id": "c", "name": "f"}]}, "input[0].arguments"),
    ({"input": [{"type": "function_call_output", "call_id": "c"}]}, "input[0].output"),
    ({"input": [{"type": "function_call_output", "output": ""}]}, "input[0].call_id"),
    (message(type="input_text"), "input[0].content[1].text"),
    (message(type="output_text", text=5), "input[0].content[1].text"),
    (message(type="refusal"), "input[0].content[1].refusal"),
    (message(type="input_image"), "input[0].content[1].image_url"),
    (message(type="input_image", image_url={"url": "x"}), "input[0].content[1].image_url"),
    (message(type="input_image", image_url="x", detail="tiny"), "input[0].content[1].detail"),
    ({"instructions": 5}, "instructions"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"temperature": 3}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_logprobs": 21}, "top_logprobs"),
    ({"tools": [{"name": "f"}]}, "tools[0].type"),
    ({"tools": [{"type": "function"}]}, "tools[0].name"),
    ({"tools": [{"type": "function", "name": "not a name"}]}, "tools[0].name"),
    ({"tools": [LOOK] * 129}, "tools"),
    ({"tools": [LOOK], "tool_choice": {"type": "function"}}, "tool_choice.name"),
    ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
    ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name"),
    ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema"),
    ({"metadata": {"a": 1}}, "metadata.a"),
    ({"metadata": {str(i): "" for i in range(17)}}, "metadata"),
]


def test_an_invalid_request_names_the_field() -> None:
    for fields, param in INVALID:
        with pytest.raises(InvalidRequest) as caught:
            request(**fields)
        assert caught.value.param == param
        assert not isinstance(caught.value, UnsupportedParameter)
        assert param in caught.value.message
