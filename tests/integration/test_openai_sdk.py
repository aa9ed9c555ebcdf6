"""openai-python with strict validation against the real stack."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from hostctl.local_stack import LocalStack
from testkit.images import RED_CIRCLE, RED_CIRCLE_CAPTION, ask

pytestmark = [pytest.mark.process, pytest.mark.mlx]


@pytest.fixture(scope="module")
def client(stack: LocalStack) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{stack.url}/v1", api_key="unused", max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


def test_models_are_listed_and_retrieved(client: openai.OpenAI) -> None:
    assert {model.id for model in client.models.list()} == {"vlm-fast", "vlm-best", "image-gen"}
    assert client.models.retrieve("schnell").id == "image-gen"
    with pytest.raises(openai.NotFoundError, match="model 'a/b' does not exist"):
        client.models.retrieve("a/b")


def test_an_image_chat_is_the_same_in_one_response_and_streamed(client: openai.OpenAI) -> None:
    messages = ask(RED_CIRCLE, "Caption this image.")["messages"]
    whole = client.chat.completions.create(model="vlm-best", messages=messages, temperature=0)
    assert whole.choices[0].message.content == RED_CIRCLE_CAPTION
    stream = client.chat.completions.create(
        model="vlm-best",
        messages=messages,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == RED_CIRCLE_CAPTION
    assert len([piece for piece in pieces if piece]) > 3
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    counted = ("prompt_tokens", "completion_tokens", "total_tokens")  # cached tokens may differ
    assert [getattr(chunks[-1].usage, name) for name in counted] == [
        getattr(whole.usage, name) for name in counted
    ]


def test_an_error_message_reaches_the_user(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="at most 65536") as caught:
        client.images.generate(prompt="x", size="1024x1024")
    assert (caught.value.param, caught.value.code) == ("size", "invalid_request")


def test_a_function_in_the_format_before_tools_is_called(client: Any) -> None:
    # Closed, because such a small model ends no text.
    place = {"type": "string", "enum": ["left", "right"]}
    parameters = {"type": "object", "properties": {"place": place}, "required": ["place"]}
    closed = {**parameters, "additionalProperties": False}
    function = {"name": "look", "parameters": closed, "strict": True}
    request = {"model": "vlm-best", "functions": [function], "function_call": {"name": "look"}}
    messages = ask(RED_CIRCLE, "Which shape is this?")["messages"]
    whole = client.chat.completions.create(messages=messages, temperature=0, **request)
    call = whole.choices[0].message.function_call
    assert call.name == "look"
    assert json.loads(call.arguments)["place"] in ("left", "right")
    stream = client.chat.completions.create(messages=messages, temperature=0, stream=True, **request)
    deltas = [chunk.choices[0].delta.function_call for chunk in stream]
    assert "".join(delta.arguments for delta in deltas if delta) == call.arguments
    reply = {"role": "assistant", "content": None, "function_call": call.to_dict()}
    result = {"role": "function", "name": "look", "content": "a circle"}
    history = [*messages, reply, result]
    assert client.chat.completions.create(model="vlm-best", messages=history).choices[0].message.content
