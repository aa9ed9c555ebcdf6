"""OpenAI's Responses API through openai-python with strict validation, against the real stack."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from openai.types.responses import ResponseFunctionToolCall
from pydantic import BaseModel

from hostctl.local_stack import LocalStack
from testkit.images import RED_CIRCLE, RED_CIRCLE_CAPTION, as_data_uri

pytestmark = [pytest.mark.process, pytest.mark.mlx]

MODEL = "vlm-best"
LOOK: Any = {
    "type": "function",
    "name": "look",
    "description": "Looks at a place.",
    "parameters": {
        "type": "object",
        "properties": {"place": {"type": "string", "enum": ["left", "right"]}},
        "required": ["place"],
        "additionalProperties": False,
    },
    "strict": True,
}


class Shape(BaseModel):
    """Closed, because such a small model ends no number and no text."""

    shape: Literal["circle", "square"]
    filled: bool


@pytest.fixture(scope="module")
def options(stack: LocalStack) -> dict[str, Any]:
    return {
        "base_url": f"{stack.url}/v1",
        "api_key": "unused",
        "max_retries": 0,
        "_strict_response_validation": True,
    }


@pytest.fixture(scope="module")
def client(options: dict[str, Any]) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(**options) as client:
        yield client


def image_input(text: str = "Caption this image.") -> Any:
    image = {"type": "input_image", "image_url": as_data_uri(RED_CIRCLE), "detail": "auto"}
    return [{"role": "user", "content": [image, {"type": "input_text", "text": text}]}]


def test_an_image_is_chatted_about(client: openai.OpenAI) -> None:
    answer = client.responses.create(
        model=MODEL, input=image_input(), temperature=0, metadata={"a": "b"}, instructions="Be brief."
    )
    assert (answer.status, answer.model, answer.metadata) == ("completed", MODEL, {"a": "b"})
    assert answer.output_text == RED_CIRCLE_CAPTION
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens > 0


def test_a_stream_has_the_same_text_in_its_events(client: openai.OpenAI) -> None:
    whole = client.responses.create(model=MODEL, input=image_input(), temperature=0)
    with client.responses.stream(model=MODEL, input=image_input(), temperature=0) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert text == final.output_text == whole.output_text
    assert final.usage is not None
    assert whole.usage is not None
    assert final.usage.output_tokens == whole.usage.output_tokens


def test_a_response_follows_a_schema(client: openai.OpenAI) -> None:
    parsed = client.responses.parse(model=MODEL, input=image_input(), text_format=Shape, temperature=0)
    assert parsed.output_parsed is not None
    with client.responses.stream(
        model=MODEL, input=image_input(), text_format=Shape, temperature=0
    ) as stream:
        assert stream.get_final_response().output_parsed == parsed.output_parsed


def test_a_function_is_called_and_accepts_its_result(client: openai.OpenAI) -> None:
    request: Any = {"model": MODEL, "tools": [LOOK], "temperature": 0}
    first = client.responses.create(input=image_input(), tool_choice="required", **request)
    calls = [item for item in first.output if isinstance(item, ResponseFunctionToolCall)]
    assert {call.name for call in calls} == {"look"}
    history: Any = [*image_input(), *(item.to_dict() for item in first.output)]
    for call in calls:
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "nothing"}
        history.append(result)
    second = client.responses.create(input=history, tool_choice="none", **request)
    assert second.status == "completed"
    assert second.output_text


def test_a_function_is_called_in_a_stream(client: openai.OpenAI) -> None:
    with client.responses.stream(
        model=MODEL,
        input=image_input(),
        tools=[LOOK],
        tool_choice={"type": "function", "name": "look"},
        temperature=0,
    ) as stream:
        events = list(stream)
        (call,) = stream.get_final_response().output
    assert call.type == "function_call"
    arguments = "".join(e.delta for e in events if e.type == "response.function_call_arguments.delta")
    assert arguments == call.arguments
    assert call.parsed_arguments == {"place": "left"} or call.parsed_arguments == {"place": "right"}


def test_a_token_limit_makes_a_response_incomplete(client: openai.OpenAI) -> None:
    request: Any = {"model": MODEL, "input": image_input(), "max_output_tokens": 2}
    answer = client.responses.create(**request)
    assert answer.status == "incomplete"
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"
    events = list(client.responses.create(**request, stream=True))
    assert events[-1].type == "response.incomplete"


def test_logprobs_are_sent_with_the_text(client: openai.OpenAI) -> None:
    request: Any = {"model": MODEL, "input": image_input(), "temperature": 0, "top_logprobs": 2}
    request["include"] = ["message.output_text.logprobs"]
    answer = client.responses.create(**request)
    (message,) = answer.output
    assert message.type == "message"
    (part,) = message.content
    assert part.type == "output_text"
    assert part.logprobs
    assert all(len(token.top_logprobs) == 2 for token in part.logprobs)
    events = list(client.responses.create(**request, stream=True))
    (done,) = [event for event in events if event.type == "response.output_text.done"]
    assert [t.token for t in done.logprobs] == [t.token for t in part.logprobs]


def test_an_error_of_the_worker_names_the_field_as_the_client_sent_it(client: openai.OpenAI) -> None:
    broken = "data:image/png;base64,iVBORw0KGgoAAAA="  # a PNG only by its first bytes
    content: Any = [{"type": "input_image", "image_url": broken, "detail": "auto"}]
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            client.responses.create(
                model=MODEL, input=[{"role": "user", "content": content}], stream=stream
            )
        assert caught.value.param == "input[0].content[0].image_url"
