"""Chat completion requests: strict types, errors that name the field, unknown fields accepted."""

from __future__ import annotations

import json
from typing import Any

import pytest

from contracts.errors import InvalidRequest, UnsupportedParameter
from contracts.wire import parse_json
from contracts.wire.chat import MAX_DEPTH, MAX_MESSAGES, ChatRequest

USER = {"role": "user", "content": "hi"}

PARTS = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "x"}}]


def chat(**fields: Any) -> ChatRequest:
    return parse_json(ChatRequest, json.dumps({"messages": [USER], **fields}).encode())


def tool(**fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "look", **fields}}


def image_part(**fields: Any) -> dict[str, Any]:
    return {
        "role": "user",
        "content": [{"type": "image_url", "image_url": {"url": "x", **fields}}],
    }


TOOL = tool(description="Looks.", parameters={"type": "object", "properties": {}})


def test_a_string_as_content_is_one_text_part() -> None:
    (part,) = chat().messages[0].parts
    assert (part.type, part.text) == ("text", "hi")


def test_parts_keep_their_order() -> None:
    message = chat(messages=[{"role": "user", "content": PARTS}]).messages[0]
    assert [part.type for part in message.parts] == ["text", "image_url"]


INVALID_CHATS: list[Any] = [
    ({"messages": []}, "messages"),
    ({"messages": None}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    (
        {"messages": [{"role": "user", "content": [{"type": "audio"}]}]},
        "messages[0].content[0].type",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        "messages[0].content[0].text",
    ),
    (
        {"messages": [USER, {"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "messages[1].content[0].image_url.url",
    ),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": "5"}, "max_tokens"),
    ({"temperature": 2.5}, "temperature"),
    ({"temperature": float("nan")}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"n": 0}, "n"),
    ({"seed": 1.5}, "seed"),
    ({"stop": [1]}, "stop[0]"),
    ({"stop": [""]}, "stop[0]"),
    ({"stream": "yes"}, "stream"),
    ({"model": 5}, "model"),
]


def test_an_invalid_chat_names_the_field() -> None:
    for fields, param in INVALID_CHATS:
        with pytest.raises(InvalidRequest) as caught:
            chat(**fields)
        assert caught.value.param == param
        assert param in caught.value.message


UNSUPPORTED_CHATS: list[Any] = [
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools"}}, "tool_choice.type"),
    ({"functions": [{"name": "f"}]}, "functions"),
    ({"function_call": "auto"}, "function_call"),
    ({"modalities": ["text", "audio"]}, "modalities"),
    ({"audio": {"voice": "x"}}, "audio"),
    ({"web_search_options": {}}, "web_search_options"),
]


def test_an_unsupported_chat_feature_is_refused_with_its_field() -> None:
    for fields, param in UNSUPPORTED_CHATS:
        with pytest.raises(UnsupportedParameter) as caught:
            chat(**fields)
        assert caught.value.param == param
        assert caught.value.status == 400


ACCEPTED_CHATS: list[Any] = [
    {"tools": []},
    {"tools": [], "tool_choice": "auto"},
    {"tools": [TOOL], "tool_choice": "none", "parallel_tool_calls": False},
    {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "look"}}},
    {"logprobs": False, "top_logprobs": 0},
    {"logprobs": True, "top_logprobs": 20},
    {"logit_bias": {}},
    {"logit_bias": {"0": -100, "50256": 99.5}},
    {"response_format": {"type": "text"}},
    {"response_format": {"type": "json_object"}},
    {"modalities": ["text"]},
    {"store": True, "metadata": {"a": "b"}, "service_tier": "auto", "new_field_of_2027": [1]},
    {"max_completion_tokens": 5, "stop": "x", "stream_options": {"include_usage": True}},
    {"max_pixels": 784},
]


def test_harmless_and_unknown_fields_are_accepted() -> None:
    for fields in ACCEPTED_CHATS:
        chat(**fields)


NAMED = {"type": "function", "function": {"name": "other"}}

INVALID_TOOLS_AND_FORMATS: list[Any] = [
    ({"tools": [{"type": "function"}]}, "tools[0].function"),
    ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
    ({"tools": [tool(name="a b")]}, "tools[0].function.name"),
    ({"tools": [TOOL, TOOL]}, "tools[1].function.name"),
    ({"tools": [tool(parameters=[])]}, "tools[0].function.parameters"),
    ({"tools": [tool(parameters={"type": "array"})]}, "tools[0].function.parameters.type"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tools": [TOOL], "tool_choice": "always"}, "tool_choice.type"),
    ({"tools": [TOOL], "tool_choice": {"type": "function"}}, "tool_choice.function"),
    ({"tools": [TOOL], "tool_choice": NAMED}, "tool_choice.function.name"),
    ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),
    ({"logprobs": 1}, "logprobs"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"logit_bias": {"the": 1}}, "logit_bias.the"),
    ({"logit_bias": {"-1": 1}}, "logit_bias.-1"),
    ({"logit_bias": {"1": 101}}, "logit_bias.1"),
    ({"logit_bias": [1]}, "logit_bias"),
    ({"response_format": "json"}, "response_format"),
    ({"response_format": {"type": "xml"}}, "response_format.type"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
        "response_format.json_schema.name",
    ),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": 5}}},
        "response_format.json_schema.schema",
    ),
    ({"max_pixels": 783}, "max_pixels"),
    ({"messages": [image_part(detail="best")]}, "messages[0].content[0].image_url.detail"),
    ({"messages": [image_part(max_pixels=0)]}, "messages[0].content[0].image_url.max_pixels"),
]


def test_an_invalid_tool_or_response_format_names_the_field() -> None:
    for fields, param in INVALID_TOOLS_AND_FORMATS:
        with pytest.raises(InvalidRequest) as caught:
            chat(**fields)
        assert caught.value.param == param


CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}

CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}

RESULT = {"role": "tool", "tool_call_id": "c1", "content": "17"}


def test_a_history_can_contain_calls_and_results() -> None:
    request = chat(messages=[USER, CALLING, RESULT, USER])
    assert [message.role for message in request.messages] == ["user", "assistant", "tool", "user"]
    assert request.messages[1].parts == []


INVALID_HISTORIES: list[Any] = [
    ([USER, RESULT], "messages[1].tool_call_id"),
    ([USER, CALLING, {**RESULT, "tool_call_id": "c2"}], "messages[2].tool_call_id"),
    ([USER, CALLING, {"role": "tool", "content": "17"}], "messages[2].tool_call_id"),
    ([USER, RESULT, CALLING], "messages[1].tool_call_id"),
    ([USER, {**CALLING, "role": "user"}], "messages[1].tool_calls"),
    ([USER, {"role": "assistant", "content": None}], "messages[1].content"),
    (
        [USER, {**CALLING, "tool_calls": [{**CALL, "function": {"name": "look"}}]}],
        "messages[1].tool_calls[0].function.arguments",
    ),
]


def test_a_tool_result_must_belong_to_an_earlier_call() -> None:
    for messages, param in INVALID_HISTORIES:
        with pytest.raises(InvalidRequest) as caught:
            chat(messages=messages)
        assert caught.value.param == param


def nested(depth: int) -> dict[str, Any]:
    """A JSON schema with *depth* levels."""
    schema: dict[str, Any] = {}
    for _ in range(depth - 1):
        schema = {"items": schema}
    return schema


def test_the_depth_of_a_schema_is_limited() -> None:
    def tool(depth: int) -> Any:
        return {"type": "function", "function": {"name": "f", "parameters": nested(depth)}}

    def form(depth: int) -> Any:
        return {"type": "json_schema", "json_schema": {"name": "s", "schema": nested(depth)}}

    chat(tools=[tool(MAX_DEPTH)], response_format=form(MAX_DEPTH))
    with pytest.raises(InvalidRequest, match="deeper than 64 levels") as caught:
        chat(tools=[tool(MAX_DEPTH + 1)])
    assert caught.value.param == "tools[0].function.parameters"
    with pytest.raises(InvalidRequest, match="deeper than 64 levels") as caught:
        chat(response_format=form(150))
    assert caught.value.param == "response_format.json_schema.schema"


def test_the_number_of_messages_is_limited() -> None:
    parse_json(ChatRequest, json.dumps({"messages": [USER] * MAX_MESSAGES}).encode())
    with pytest.raises(InvalidRequest, match="2048") as caught:
        parse_json(ChatRequest, json.dumps({"messages": [USER] * (MAX_MESSAGES + 1)}).encode())
    assert caught.value.param == "messages"


INVALID_BODIES = [b"", b"{", b"[]", b"5", b'"x"', b"\xff\xfe", b'{"messages": [{']


def test_a_body_that_is_not_an_object_is_a_400() -> None:
    for body in INVALID_BODIES:
        with pytest.raises(InvalidRequest):
            parse_json(ChatRequest, body)
