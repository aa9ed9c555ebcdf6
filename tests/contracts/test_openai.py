"""Requests: strict types, clear names, nothing silently ignored, nothing unknown refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import InvalidRequest, UnsupportedParameter
from contracts.openai import (
    AnalyzeRequest,
    ChatRequest,
    ImageEditRequest,
    ImageGenerationRequest,
    parse_form,
    parse_json,
)
from contracts.tasks import DEFAULT_TASK, TASKS
from demo import world

USER = {"role": "user", "content": "hi"}
PARTS = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "x"}}]


def chat(**fields: Any) -> ChatRequest:
    return parse_json(ChatRequest, json.dumps({"messages": [USER], **fields}).encode())


def draw(**fields: Any) -> ImageGenerationRequest:
    return parse_json(ImageGenerationRequest, json.dumps({"prompt": "p", **fields}).encode())


def test_a_string_as_content_is_one_text_part() -> None:
    (part,) = chat().messages[0].content
    assert (part.type, part.text) == ("text", "hi")


def test_parts_keep_their_order() -> None:
    message = chat(messages=[{"role": "user", "content": PARTS}]).messages[0]
    assert [part.type for part in message.content] == ["text", "image_url"]


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
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"logprobs": True}, "logprobs"),
        ({"logit_bias": {"1": 5}}, "logit_bias"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
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
        {"tools": [{"type": "function"}], "tool_choice": "none"},
        {"logprobs": False},
        {"response_format": {"type": "text"}},
        {"store": True, "metadata": {"a": "b"}, "service_tier": "auto", "new_field_of_2027": [1]},
        {"max_completion_tokens": 5, "stop": "x", "stream_options": {"include_usage": True}},
    ],
)
def test_harmless_and_unknown_fields_are_tolerated(fields: dict[str, Any]) -> None:
    chat(**fields)


@pytest.mark.parametrize("fields", [{"response_format": "url"}, {"background": "transparent"}])
def test_an_answer_that_cannot_be_given_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedParameter):
        draw(**fields)


def test_an_edit_takes_one_image_and_no_mask_yet() -> None:
    base = {"prompt": "p", "image": "x"}
    assert parse_form(ImageEditRequest, base).image == ["x"]
    with pytest.raises(UnsupportedParameter) as caught:
        parse_form(ImageEditRequest, {**base, "image": ["x", "y"]})
    assert caught.value.param == "image"
    with pytest.raises(UnsupportedParameter) as caught:
        parse_form(ImageEditRequest, {**base, "mask": "y"})
    assert caught.value.param == "mask"


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


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"5", b'"x"', b"\xff\xfe", b'{"messages": [{'])
def test_a_body_that_is_no_object_is_a_400(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        parse_json(ChatRequest, body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(["messages", "prompt", "image", "n", "size", "stop", "stream", "task", "seed"])


@pytest.mark.parametrize("cls", [ChatRequest, ImageGenerationRequest, ImageEditRequest, AnalyzeRequest])
@given(body=st.dictionaries(FIELDS, JSON))
def test_any_json_is_either_a_request_or_an_invalid_request(cls: Any, body: Any) -> None:
    try:
        parse_json(cls, json.dumps(body).encode())
    except InvalidRequest as exc:
        assert exc.status == 400  # noqa: PT017 - either way is right, and nothing else is
