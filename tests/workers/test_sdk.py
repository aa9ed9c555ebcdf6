"""A worker with a fake engine, through OpenAI's own client with strict validation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from openai import BadRequestError, OpenAI

from contracts.settings.models import VlmSettings
from testkit.fakes.engine import FakeEngine
from testkit.servers import served
from workers.app import create_app
from workers.engine import ChatJob, Delta, Finished, Prefilled, TokenLogprob, TopToken

pytestmark = pytest.mark.process  # the client runs uname, once

VLM = VlmSettings(kind="vlm", path="x", port=1, memory_gb=1.0)
REQUEST: Any = {"model": "fake", "messages": [{"role": "user", "content": "hi"}]}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Busan"}}\n</tool_call>'
WEATHER: Any = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


@dataclass
class Letters(FakeEngine):
    """Emits *text* letter by letter, each as one token."""

    text: str = "한 a"

    def _chat(self, job: ChatJob, emit: Callable[[Any], None]) -> None:
        emit(Prefilled(9))
        for index in range(job.n):
            for at, letter in enumerate(self.text):
                chance = TopToken(at, letter.encode(), -0.5)
                token = TokenLogprob(at, letter.encode(), -0.5, (chance,) * job.top_logprobs)
                emit(Delta(index, letter, (token,) if job.logprobs else ()))
            emit(Finished(index, "stop", len(self.text) + 1, cached_tokens=8))


@pytest.fixture
def engine() -> Letters:
    return Letters()


@pytest.fixture
def client(engine: Letters) -> Iterator[OpenAI]:
    app = create_app("fake", VLM, engine)
    with (
        served(app) as url,
        OpenAI(
            base_url=f"{url}/v1", api_key="x", max_retries=0, _strict_response_validation=True
        ) as client,
    ):
        deadline = time.monotonic() + 10
        while app.state.worker.health().phase != "ready" and time.monotonic() < deadline:
            time.sleep(0.01)
        yield client


def test_tool_calls_are_parsed_whole_and_streamed(client: OpenAI, engine: Letters) -> None:
    engine.text = CALL
    whole = client.chat.completions.create(**REQUEST, tools=[WEATHER])
    (call,) = whole.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert (call.function.name, call.function.arguments) == ("weather", '{"city": "Busan"}')
    assert whole.choices[0].finish_reason == "tool_calls"

    with client.chat.completions.stream(**REQUEST, tools=[WEATHER]) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert "tool_calls.function.arguments.done" in kinds
    (streamed,) = final.choices[0].message.tool_calls or []
    assert streamed.function.arguments == call.function.arguments
    assert final.choices[0].finish_reason == "tool_calls"


def test_logprobs_are_parsed_whole_and_streamed(client: OpenAI) -> None:
    fields: Any = {**REQUEST, "logprobs": True, "top_logprobs": 2}
    whole = client.chat.completions.create(**fields).choices[0].logprobs
    assert whole is not None
    assert [token.token for token in whole.content or []] == ["한", " ", "a"]
    assert bytes((whole.content or [])[0].bytes or []) == "한".encode()
    assert all(len(token.top_logprobs) == 2 for token in whole.content or [])
    streamed = [
        token
        for chunk in client.chat.completions.create(**fields, stream=True)
        for choice in chunk.choices
        if choice.logprobs
        for token in choice.logprobs.content or []
    ]
    assert streamed == whole.content


def test_usage_includes_cached_tokens(client: OpenAI) -> None:
    usage = client.chat.completions.create(**REQUEST).usage
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    assert (usage.prompt_tokens, usage.prompt_tokens_details.cached_tokens) == (9, 8)
    options: Any = {"include_usage": True}
    *_, last = client.chat.completions.create(**REQUEST, stream=True, stream_options=options)
    assert last.choices == []
    assert last.usage == usage


def test_an_invalid_schema_is_a_bad_request(client: OpenAI) -> None:
    schema: Any = {"name": "x", "schema": {"type": "colour"}}
    with pytest.raises(BadRequestError, match="Invalid type: colour") as caught:
        client.chat.completions.create(
            **REQUEST, response_format={"type": "json_schema", "json_schema": schema}
        )
    assert caught.value.param == "response_format.json_schema.schema"
