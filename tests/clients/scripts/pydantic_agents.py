"""pydantic-ai, which validates every response: its chat model and its responses model."""

from __future__ import annotations

import time
from typing import Any, Literal

from openai import AsyncOpenAI
from pydantic import BaseModel, ConfigDict, Field
from pydantic_ai import Agent, BinaryContent, ImageUrl, NativeOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

from tests.clients.scripts.protocol import (
    ENOUGH,
    PATIENCE_S,
    WORLD,
    Seen,
    image_bytes,
    refused_later,
    serve,
)

Color = Literal["red", "green", "blue", "yellow"]


class Shape(BaseModel):
    model_config = ConfigDict(extra="forbid")

    shape: Literal["circle", "square", "star", "triangle"]
    color: Color
    background: Color


class Numbers(BaseModel):
    model_config = ConfigDict(extra="forbid")

    numbers: list[int] = Field(min_length=1000)


def _provider(key: str) -> OpenAIProvider:
    client = AsyncOpenAI(base_url=WORLD["base_url"], api_key=key, max_retries=0)
    return OpenAIProvider(openai_client=client)


provider = _provider(WORLD["key"])
best = OpenAIChatModel("vlm-best", provider=provider)
best_by_responses = OpenAIResponsesModel("vlm-best", provider=provider)


def _agent(model: Any = best, output: Any = str, **settings: Any) -> Agent[None, Any]:
    settings = {"temperature": 0, **settings}
    return Agent(model, output_type=output, model_settings=settings, retries=0)


def _about(question: str, image: Any = None) -> list[Any]:
    return [WORLD[question], image or BinaryContent(image_bytes(), media_type="image/png")]


async def _caption(model: Any = best, image: Any = None) -> Seen:
    return {"text": (await _agent(model).run(_about("ask_caption", image))).output}


async def _pieces(model: Any = best) -> list[str]:
    async with _agent(model).run_stream(_about("ask_caption")) as answer:
        return [piece async for piece in answer.stream_text(delta=True, debounce_by=None)]


async def chat() -> Seen:
    return await _caption()


async def chat_url() -> Seen:
    return await _caption(image=ImageUrl(WORLD["circle_url"]))


async def chat_stream() -> Seen:
    return {"pieces": await _pieces()}


async def stream_usage() -> Seen:
    async with _agent().run_stream(_about("ask_caption")) as answer:
        await answer.get_output()
        usage = answer.usage()
    return {"prompt_tokens": usage.input_tokens, "completion_tokens": usage.output_tokens}


async def tools() -> Seen:
    """An output requested as a tool call."""
    agent = _agent(output=ToolOutput(Shape, name="report"), parallel_tool_calls=False)
    answer = await agent.run(_about("ask_objects"))
    return {"name": "report", "arguments": answer.output.model_dump()}


async def json_schema() -> Seen:
    answer = await _agent(output=NativeOutput(Shape, strict=True)).run(_about("ask_objects"))
    return {"object": answer.output.model_dump()}


async def responses() -> Seen:
    return await _caption(best_by_responses)


async def responses_stream() -> Seen:
    return {"pieces": await _pieces(best_by_responses)}


async def unknown_model() -> Seen:
    return await refused_later(_caption(OpenAIChatModel("no/such", provider=provider)))


async def wrong_key() -> Seen:
    model = OpenAIChatModel("vlm-best", provider=_provider("wrong"))
    return await refused_later(_caption(model))


async def too_large() -> Seen:
    large = BinaryContent(image_bytes("large"), media_type="image/png")
    return await refused_later(_caption(image=large))


async def time_out() -> Seen:
    agent = _agent(output=NativeOutput(Numbers), max_tokens=4000, timeout=PATIENCE_S)
    return await refused_later(agent.run(_about("ask_objects")))


async def abort() -> Seen:
    """A stream that is abandoned; the text so far is incomplete JSON."""
    began = time.monotonic()
    pieces: list[str] = []
    agent = _agent(output=NativeOutput(Numbers), max_tokens=4000)
    async with agent.run_stream(_about("ask_objects")) as answer:
        async for response in answer.stream_response(debounce_by=None):
            pieces.append(response.text or "")
            if len(pieces) == ENOUGH:
                break
    return {"pieces": pieces, "after_s": time.monotonic() - began}


if __name__ == "__main__":
    serve(globals())
