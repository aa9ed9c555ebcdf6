"""A request for a response becomes a chat that says the same, and errors find the way back."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.chat import ChatRequest
from contracts.errors import InvalidRequest, ModelNotFound
from contracts.openai import parse_json
from contracts.responses import ResponseRequest
from contracts.settings import Settings
from gateway.checks import check_chat
from gateway.responses.chat import chat_of
from gateway.responses.rewrite import check_response
from tests.gateway.conftest import make_settings
from tests.gateway.responses.given import LOOK, asked
from tests.gateway.test_routes import B64


def chat(**fields: Any) -> dict[str, Any]:
    """The chat's body, which is a valid one."""
    body, _ = chat_of(asked(**fields))
    parse_json(ChatRequest, body)
    made: dict[str, Any] = json.loads(body)
    return made


def text(said: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": said}]


def call(call_id: str) -> dict[str, Any]:
    return {"type": "function_call", "call_id": call_id, "name": "look", "arguments": "{}"}


def called(call_id: str) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": "look", "arguments": "{}"}}


def result(call_id: str, output: Any = "seen") -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": output}


def test_a_bare_question_is_a_chat_with_one_message_and_nothing_else() -> None:
    assert chat() == {"messages": [{"role": "user", "content": text("hi")}]}


def test_instructions_come_first() -> None:
    first, second = chat(instructions="Be brief.")["messages"]
    assert first == {"role": "system", "content": "Be brief."}
    assert second["role"] == "user"


@pytest.mark.parametrize("role", ["user", "assistant", "system", "developer"])
def test_each_role_is_kept(role: str) -> None:
    assert chat(input=[{"role": role, "content": "x"}])["messages"] == [
        {"role": role, "content": text("x")}
    ]


def test_parts_keep_their_order_and_kind() -> None:
    parts = [
        {"type": "input_image", "image_url": "data:x", "detail": "low"},
        {"type": "input_text", "text": "한글"},
        {"type": "input_image", "image_url": "http://h/x.png"},
    ]
    said = [
        {"type": "output_text", "text": "a", "annotations": []},
        {"type": "refusal", "refusal": "b"},
    ]
    messages = chat(input=[{"role": "user", "content": parts}, {"role": "assistant", "content": said}])[
        "messages"
    ]
    assert messages[0]["content"] == [
        {"type": "image_url", "image_url": {"url": "data:x", "detail": "low"}},
        {"type": "text", "text": "한글"},
        {"type": "image_url", "image_url": {"url": "http://h/x.png"}},
    ]
    assert messages[1]["content"] == [
        {"type": "text", "text": "a"},
        {"type": "refusal", "refusal": "b"},
    ]


@pytest.mark.parametrize(
    ("detail", "sent"), [("low", "low"), ("high", "high"), ("auto", "auto"), ("original", "high")]
)
def test_detail_is_the_nearest_that_a_chat_knows(detail: str, sent: str) -> None:
    part = {"type": "input_image", "image_url": "data:x", "detail": detail}
    (message,) = chat(input=[{"role": "user", "content": [part]}])["messages"]
    assert message["content"][0]["image_url"]["detail"] == sent


def test_calls_that_follow_each_other_are_one_message_with_what_was_said_before() -> None:
    said = {"role": "assistant", "content": "I look."}
    user = {"role": "user", "content": "hi"}
    items = [user, said, call("c1"), call("c2"), result("c1"), result("c2"), call("c3"), result("c3")]
    _, first, *results, second, last = chat(input=items)["messages"]
    assert first == {
        "role": "assistant",
        "content": text("I look."),
        "tool_calls": [called("c1"), called("c2")],
    }
    assert [message["tool_call_id"] for message in results] == ["c1", "c2"]
    assert second == {"role": "assistant", "tool_calls": [called("c3")]}
    assert last == {"role": "tool", "tool_call_id": "c3", "content": text("seen")}


def test_a_result_may_hold_pictures() -> None:
    output = [{"type": "input_image", "image_url": "data:x"}, {"type": "input_text", "text": "y"}]
    message = chat(input=[call("c"), result("c", output)])["messages"][-1]
    assert [part["type"] for part in message["content"]] == ["image_url", "text"]


def test_thoughts_are_passed_over() -> None:
    thoughts = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "x"}]}
    messages = chat(input=[{"role": "user", "content": "a"}, thoughts, call("c"), result("c")])[
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


@pytest.mark.parametrize(("name", "value"), SAME.items())
def test_what_a_chat_takes_by_the_same_name_is_passed_on(name: str, value: Any) -> None:
    assert chat(**{name: value})[name] == value


def test_the_limit_of_tokens_has_another_name() -> None:
    assert chat(max_output_tokens=5)["max_completion_tokens"] == 5


def test_a_stream_asks_for_the_usage_that_its_last_event_tells() -> None:
    made = chat(stream=True)
    assert (made["stream"], made["stream_options"]) == (True, {"include_usage": True})


def test_logprobs_are_asked_for_as_a_chat_does() -> None:
    assert chat(top_logprobs=2)["logprobs"] is True
    assert chat(top_logprobs=2)["top_logprobs"] == 2
    included = chat(include=["message.output_text.logprobs"])
    assert included["logprobs"] is True
    assert "top_logprobs" not in included


def test_tools_are_nested_as_a_chat_has_them() -> None:
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
def test_a_choice_of_tools_is_a_chat_s(choice: Any, made: Any) -> None:
    assert chat(tools=[LOOK], tool_choice=choice)["tool_choice"] == made


@pytest.mark.parametrize(
    ("wanted", "made"),
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
def test_the_form_of_the_text_is_a_chat_s(wanted: Any, made: Any) -> None:
    assert chat(text={"format": wanted})["response_format"] == made


# --- errors about the chat -------------------------------------------------------------------------

IMAGE = {"type": "input_image", "image_url": f"data:image/png;base64,{B64}"}


def user(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return make_settings(tmp_path_factory.mktemp("chat"), "http://127.0.0.1:1")


BAD_CHATS = [
    (
        {
            "instructions": "x",
            "input": [user({"type": "input_text", "text": "a"}, {**IMAGE, "image_url": "!"})],
        },
        "input[0].content[1].image_url",
    ),
    (
        {"input": [user(IMAGE), call("c"), result("c", [{**IMAGE, "image_url": "data:x"}])]},
        "input[2].output[0].image_url",
    ),
    ({"input": [user(IMAGE), result("unknown")]}, "input[1].call_id"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tools": [LOOK], "tool_choice": {"type": "function", "name": "x"}}, "tool_choice.name"),
    ({"tools": [LOOK, LOOK]}, "tools[1].name"),
    ({"tools": [{**LOOK, "parameters": {"type": "string"}}]}, "tools[0].parameters.type"),
    ({"seed": "x"}, "seed"),
    ({"stop": [""]}, "stop[0]"),
]


@pytest.mark.parametrize(("fields", "param"), BAD_CHATS, ids=lambda value: str(value)[-60:])
def test_a_fault_of_the_chat_is_told_by_the_name_that_the_client_used(
    settings: Settings, fields: dict[str, Any], param: str
) -> None:
    body = json.dumps({"input": "hi", **fields}).encode()
    with pytest.raises(InvalidRequest) as caught:
        check_response(settings, body)
    assert caught.value.param == param
    assert "messages" not in caught.value.message
    assert "function" not in caught.value.message.partition(":")[0]


def test_what_json_has_no_word_for_is_refused(settings: Settings) -> None:
    tool = json.dumps({**LOOK, "parameters": {"maximum": "x"}}).replace('"x"', "NaN")
    with pytest.raises(InvalidRequest, match="NaN"):
        check_response(settings, f'{{"input": "hi", "tools": [{tool}]}}'.encode())


_KEYS = st.sampled_from(
    [
        "type",
        "role",
        "content",
        "text",
        "image_url",
        "detail",
        "file_id",
        "call_id",
        "name",
        "arguments",
        "output",
        "parameters",
        "strict",
        "format",
        "schema",
        "id",
    ]
)
_WORDS = st.sampled_from(
    [
        "message",
        "function",
        "function_call",
        "function_call_output",
        "item_reference",
        "reasoning",
        "input_text",
        "user",
        "input_image",
        "output_text",
        "refusal",
        "json_schema",
        "auto",
        "required",
        "assistant",
        "data:image/png;base64,",
    ]
)
_ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | _WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS | st.text(), inner, max_size=5),
    max_leaves=12,
)
_FIELDS = st.sampled_from([*ResponseRequest.model_fields, "prompt", "n", "seed", "stop", "logit_bias"])


@given(body=st.fixed_dictionaries({"input": _ANYTHING}) | st.dictionaries(_FIELDS, _ANYTHING))
def test_whatever_is_sent_is_a_chat_or_refused(body: dict[str, Any]) -> None:
    try:
        made, _ = chat_of(parse_json(ResponseRequest, json.dumps(body).encode()))
    except InvalidRequest:
        return
    assert json.loads(made)["messages"] is not None


def test_an_unknown_model_stays_a_404(settings: Settings) -> None:
    with pytest.raises(ModelNotFound) as caught:
        check_response(settings, b'{"input": "hi", "model": "gpt-9"}')
    assert (caught.value.param, caught.value.code) == ("model", "model_not_found")


def test_what_goes_on_is_the_chat_and_a_rewrite_of_its_answer(settings: Settings) -> None:
    body = json.dumps({"input": [user(IMAGE)], "model": "alpha", "stream": True, "keep_alive": 5})
    checked = check_response(settings, body.encode())
    assert (checked.alias, checked.stream, checked.keep_alive) == ("a", True, 5)
    assert checked == replace(check_chat(settings, checked.body), rewrite=checked.rewrite)
    assert B64 not in repr(checked.rewrite)  # a stream may last for minutes
