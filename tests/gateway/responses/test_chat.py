"""A Responses API request becomes an equivalent chat completion request."""

from __future__ import annotations

import json
from typing import Any

import pytest

from contracts.wire import parse_json
from contracts.wire.chat import ChatRequest
from gateway.responses.chat import chat_of
from tests.gateway.responses.given import LOOK, asked, call, result


def chat(**fields: Any) -> dict[str, Any]:
    """The chat's body, which is a valid one."""
    body, _ = chat_of(asked(**fields))
    parse_json(ChatRequest, body)
    made: dict[str, Any] = json.loads(body)
    return made


def text(value: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": value}]


def called(call_id: str) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": "look", "arguments": "{}"}}


def test_a_bare_question_is_a_chat_with_one_message_and_nothing_else() -> None:
    assert chat() == {"messages": [{"role": "user", "content": text("hi")}]}


def test_instructions_come_first() -> None:
    first, second = chat(instructions="Be brief.")["messages"]
    assert first == {"role": "system", "content": "Be brief."}
    assert second["role"] == "user"


def test_roles_are_unchanged() -> None:
    for role in ("user", "assistant", "system", "developer"):
        (message,) = chat(input=[{"role": role, "content": "x"}])["messages"]
        assert message == {"role": role, "content": text("x")}


def test_parts_keep_their_order_and_kind() -> None:
    parts = [
        {"type": "input_image", "image_url": "data:x", "detail": "low"},
        {"type": "input_text", "text": "한글"},
        {"type": "input_image", "image_url": "http://h/x.png"},
    ]
    reply = [
        {"type": "output_text", "text": "a", "annotations": []},
        {"type": "refusal", "refusal": "b"},
    ]
    messages = chat(
        input=[{"role": "user", "content": parts}, {"role": "assistant", "content": reply}]
    )["messages"]
    assert messages[0]["content"] == [
        {"type": "image_url", "image_url": {"url": "data:x", "detail": "low"}},
        {"type": "text", "text": "한글"},
        {"type": "image_url", "image_url": {"url": "http://h/x.png"}},
    ]
    assert messages[1]["content"] == [
        {"type": "text", "text": "a"},
        {"type": "refusal", "refusal": "b"},
    ]


def test_detail_is_the_nearest_value_of_a_chat() -> None:
    for detail in ("low", "high", "auto", "original"):
        part = {"type": "input_image", "image_url": "data:x", "detail": detail}
        (message,) = chat(input=[{"role": "user", "content": [part]}])["messages"]
        expected = "high" if detail == "original" else detail
        assert message["content"][0]["image_url"]["detail"] == expected


def test_consecutive_calls_join_the_message_before_them() -> None:
    reply = {"role": "assistant", "content": "I look."}
    user = {"role": "user", "content": "hi"}
    items = [user, reply, call("c1"), call("c2"), result("c1"), result("c2"), call("c3"), result("c3")]
    _, first, *results, second, last = chat(input=items)["messages"]
    assert first == {
        "role": "assistant",
        "content": text("I look."),
        "tool_calls": [called("c1"), called("c2")],
    }
    assert [message["tool_call_id"] for message in results] == ["c1", "c2"]
    assert second == {"role": "assistant", "tool_calls": [called("c3")]}
    assert last == {"role": "tool", "tool_call_id": "c3", "content": text("seen")}


def test_a_result_may_contain_images() -> None:
    output = [{"type": "input_image", "image_url": "data:x"}, {"type": "input_text", "text": "y"}]
    message = chat(input=[call("c"), result("c", output)])["messages"][-1]
    assert [part["type"] for part in message["content"]] == ["image_url", "text"]


def test_reasoning_is_ignored() -> None:
    reasoning = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "x"}]}
    messages = chat(input=[{"role": "user", "content": "a"}, reasoning, call("c"), result("c")])[
        "messages"
    ]
    assert [message["role"] for message in messages] == ["user", "assistant", "tool"]


SAME = {
    "model": "vlm-best",
    "user": "u",
    "temperature": 0.5,
    "top_p": 0.9,
    "parallel_tool_calls": False,
    "keep_alive": 0,
    "seed": 0,
    "top_k": 3,
    "min_p": 0.1,
    "stop": ["x"],
    "presence_penalty": 1,
    "frequency_penalty": 1,
    "repetition_penalty": 1.5,
    "logit_bias": {"1": 2},
    "max_pixels": 1000,
}


def test_shared_fields_are_copied() -> None:
    for name, value in SAME.items():
        assert chat(**{name: value})[name] == value, name


def test_the_token_limit_is_renamed() -> None:
    assert chat(max_output_tokens=5)["max_completion_tokens"] == 5


def test_a_stream_requests_usage() -> None:
    made = chat(stream=True)
    assert (made["stream"], made["stream_options"]) == (True, {"include_usage": True})


def test_logprobs_are_requested_in_the_chat_s_form() -> None:
    assert chat(top_logprobs=2)["logprobs"] is True
    assert chat(top_logprobs=2)["top_logprobs"] == 2
    included = chat(include=["message.output_text.logprobs"])
    assert included["logprobs"] is True
    assert "top_logprobs" not in included


def test_tools_have_the_form_of_a_chat() -> None:
    tool = {**LOOK, "description": "Looks.", "strict": True}
    assert chat(tools=[tool])["tools"] == [
        {
            "type": "function",
            "function": {
                "name": "look",
                "description": "Looks.",
                "parameters": {"type": "object"},
                "strict": True,
            },
        }
    ]
    assert "tools" not in chat(tools=[])


@pytest.mark.parametrize(
    ("choice", "made"),
    [
        ("none", "none"),
        ("auto", "auto"),
        ("required", "required"),
        ({"type": "function", "name": "look"}, {"type": "function", "function": {"name": "look"}}),
    ],
)
def test_tool_choice_has_the_form_of_a_chat(choice: Any, made: Any) -> None:
    assert chat(tools=[LOOK], tool_choice=choice)["tool_choice"] == made


@pytest.mark.parametrize(
    ("format", "made"),
    [
        ({"type": "text"}, {"type": "text"}),
        ({"type": "json_object"}, {"type": "json_object"}),
        (
            {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True},
            {
                "type": "json_schema",
                "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True},
            },
        ),
    ],
)
def test_the_text_format_has_the_form_of_a_chat(format: Any, made: Any) -> None:
    assert chat(text={"format": format})["response_format"] == made
