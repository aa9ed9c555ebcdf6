"""Requests: strict types, clear names, nothing silently ignored, nothing unknown refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import InvalidRequest, UnsupportedParameter
from contracts.tasks import DEFAULT_TASK, TASKS
from contracts.wire import parse_form, parse_json
from contracts.wire.analysis import AnalyzeRequest
from contracts.wire.chat import MAX_DEPTH, MAX_MESSAGES, ChatRequest
from contracts.wire.images import ImageEditRequest, ImageGenerationRequest
from demo import world

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


def draw(**fields: Any) -> ImageGenerationRequest:
    return parse_json(ImageGenerationRequest, json.dumps({"prompt": "p", **fields}).encode())


def test_a_string_as_content_is_one_text_part() -> None:
    (part,) = chat().messages[0].parts
    assert (part.type, part.text) == ("text", "hi")


def test_parts_keep_their_order() -> None:
    message = chat(messages=[{"role": "user", "content": PARTS}]).messages[0]
    assert [part.type for part in message.parts] == ["text", "image_url"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
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
    ],
)
def test_a_faulty_chat_names_its_field(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        chat(**fields)
    assert caught.value.param == param
    assert param in caught.value.message


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"n": 11}, "n"),
        ({"steps": 0}, "steps"),
        ({"steps": 4.5}, "steps"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"guidance": float("inf")}, "guidance"),
        ({"output_format": "gif"}, "output_format"),
        ({"partial_images": 4}, "partial_images"),
        ({"size": 512}, "size"),
    ],
)
def test_a_faulty_drawing_names_its_field(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        draw(**fields)
    assert caught.value.param == param


@pytest.mark.parametrize("seed", [0, 2**63, 2**64 - 1])
def test_every_64_bit_seed_is_a_seed(seed: int) -> None:
    assert draw(seed=seed).seed == seed


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools"}}, "tool_choice.type"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"function_call": "auto"}, "function_call"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"web_search_options": {}}, "web_search_options"),
    ],
)
def test_what_is_not_offered_is_refused_and_not_ignored(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(UnsupportedParameter) as caught:
        chat(**fields)
    assert caught.value.param == param
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "fields",
    [
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
    ],
)
def test_harmless_and_unknown_fields_are_tolerated(fields: dict[str, Any]) -> None:
    chat(**fields)


NAMED = {"type": "function", "function": {"name": "other"}}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
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
    ],
)
def test_a_faulty_tool_or_form_names_its_field(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        chat(**fields)
    assert caught.value.param == param


CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "17"}


def test_a_history_with_calls_and_results_is_a_history() -> None:
    request = chat(messages=[USER, CALLING, RESULT, USER])
    assert [message.role for message in request.messages] == ["user", "assistant", "tool", "user"]
    assert request.messages[1].parts == []


@pytest.mark.parametrize(
    ("messages", "param"),
    [
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
    ],
)
def test_a_result_belongs_to_an_earlier_call(messages: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        chat(messages=messages)
    assert caught.value.param == param


@pytest.mark.parametrize(
    "fields",
    [
        {"background": "transparent"},
        {"response_format": "url", "stream": True},
        {"svg": {"model": "x"}},
        {"markup": "iVBO"},
        {"frame_count": 4},
        {"frame_duration_ms": 100},
    ],
)
def test_what_an_image_route_does_not_offer_is_said(fields: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedParameter) as caught:
        parse_json(ImageGenerationRequest, json.dumps({"prompt": "p", **fields}).encode())
    assert caught.value.param in fields


def test_partial_images_without_a_stream_are_refused_and_none_of_them_are_not() -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_json(ImageGenerationRequest, b'{"prompt": "p", "partial_images": 2}')
    assert caught.value.param == "partial_images"
    parse_json(ImageGenerationRequest, b'{"prompt": "p", "partial_images": 0}')


@pytest.mark.parametrize(
    "fields",
    [
        {"moderation": "low"},
        {"style": "vivid"},
        {"user": "me"},
        {"safety_identifier": "x"},
        {"complexity": "high"},
        {"svg": None},
        {"response_format": "url"},
        {"background": "opaque"},
    ],
)
def test_what_changes_nothing_here_is_taken(fields: dict[str, Any]) -> None:
    parse_json(ImageGenerationRequest, json.dumps({"prompt": "p", **fields}).encode())


def test_an_edit_takes_images_and_a_mask_from_a_form() -> None:
    base = {"prompt": "p", "image": "x", "input_fidelity": "high"}
    assert parse_form(ImageEditRequest, base).image == ["x"]
    form = parse_form(ImageEditRequest, {**base, "image": ["x", "y"], "mask": "z"})
    assert (form.image, form.mask) == (["x", "y"], "z")


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan"), "much"])
def test_strength_is_a_share(strength: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_form(ImageEditRequest, {"prompt": "p", "image": "x", "strength": strength})
    assert caught.value.param == "strength"


def test_form_fields_are_text_and_json_fields_are_not() -> None:
    form = parse_form(ImageEditRequest, {"prompt": "p", "image": "x", "n": "2", "stream": "true"})
    assert (form.n, form.stream) == (2, True)
    with pytest.raises(InvalidRequest):
        draw(n="2")


def analyze(**fields: Any) -> AnalyzeRequest:
    return parse_json(AnalyzeRequest, json.dumps({"image": "x", **fields}).encode())


def test_analyze_defaults_to_a_caption_of_at_most_512_tokens() -> None:
    request = analyze()
    assert (request.task, request.max_tokens, request.question) == (
        DEFAULT_TASK,
        512,
        TASKS["caption"].prompt,
    )


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"task": "sing"}, "task"), ({"task": "custom"}, "prompt"), ({"prompt": "why?"}, "prompt")],
)
def test_a_prompt_belongs_to_the_custom_task_and_only_there(fields: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        analyze(**fields)
    assert caught.value.param == param
    assert analyze(task="custom", prompt="why?").question == "why?"


def test_the_default_prompts_are_those_the_demo_models_were_trained_on() -> None:
    for name, task in TASKS.items():
        if name != "custom":
            assert task.prompt == world.TASKS[name].prompts[0]


def nested(depth: int) -> dict[str, Any]:
    """A JSON schema so many levels deep."""
    schema: dict[str, Any] = {}
    for _ in range(depth - 1):
        schema = {"items": schema}
    return schema


def test_a_schema_is_as_deep_as_people_write_them_and_no_deeper() -> None:
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


def test_a_conversation_has_so_many_messages_and_no_more() -> None:
    parse_json(ChatRequest, json.dumps({"messages": [USER] * MAX_MESSAGES}).encode())
    with pytest.raises(InvalidRequest, match="2048") as caught:
        parse_json(ChatRequest, json.dumps({"messages": [USER] * (MAX_MESSAGES + 1)}).encode())
    assert caught.value.param == "messages"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"5", b'"x"', b"\xff\xfe", b'{"messages": [{'])
def test_a_body_that_is_no_object_is_a_400(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        parse_json(ChatRequest, body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
CHAT_FIELDS = ["messages", "n", "stop", "stream", "seed", "tools", "tool_choice", "response_format"]
FIELDS = st.sampled_from(
    [*CHAT_FIELDS, "logit_bias", "top_logprobs", "prompt", "image", "size", "task"]
)


@pytest.mark.parametrize("cls", [ChatRequest, ImageGenerationRequest, ImageEditRequest, AnalyzeRequest])
@given(body=st.dictionaries(FIELDS, JSON))
def test_any_json_is_either_a_request_or_an_invalid_request(cls: Any, body: Any) -> None:
    try:
        parse_json(cls, json.dumps(body).encode())
    except InvalidRequest as exc:
        assert exc.status == 400  # noqa: PT017 - either way is right, and nothing else is
