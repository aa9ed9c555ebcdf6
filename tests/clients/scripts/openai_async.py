"""openai-python's asynchronous client with strict validation; uses its helpers where they exist."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import openai

from tests.clients.scripts.protocol import (
    ENOUGH,
    PATIENCE_S,
    WORLD,
    Seen,
    about,
    data_uri,
    image_bytes,
    refused_later,
    response_format,
    serve,
    tool,
)

client = openai.AsyncOpenAI(
    base_url=WORLD["base_url"], api_key=WORLD["key"], max_retries=0, _strict_response_validation=True
)
completions = client.chat.completions
GREEDY: Any = {"model": "vlm-best", "temperature": 0}
LONG: Any = {**GREEDY, "response_format": response_format("numbers"), "max_tokens": 4000}


async def list_models() -> Seen:
    return {"ids": [model.id async for model in client.models.list()]}


async def retrieve_model() -> Seen:
    return {"id": (await client.models.retrieve("schnell")).id}


async def chat() -> Seen:
    return await _caption()


async def chat_url() -> Seen:
    return await _caption(WORLD["circle_url"])


async def _caption(url: str | None = None) -> Seen:
    answer = await completions.create(messages=about("ask_caption", url), **GREEDY)
    return {"text": answer.choices[0].message.content}


async def chat_stream() -> Seen:
    pieces = []
    async with completions.stream(messages=about("ask_caption"), **GREEDY) as stream:
        async for event in stream:
            if event.type == "content.delta":
                pieces.append(event.delta)
        final = await stream.get_final_completion()
    assert final.choices[0].message.content == "".join(pieces)
    return {"pieces": pieces}


async def stream_usage() -> Seen:
    options: Any = {"stream_options": {"include_usage": True}, **GREEDY}
    async with completions.stream(messages=about("ask_caption"), **options) as stream:
        usage = (await stream.get_final_completion()).usage
    assert usage is not None
    return usage.model_dump()


async def tools() -> Seen:
    asked: Any = {"tools": [tool()], "tool_choice": "required", "parallel_tool_calls": False}
    async with completions.stream(messages=about("ask_objects"), **asked, **GREEDY) as stream:
        message = (await stream.get_final_completion()).choices[0].message
    (call,) = message.tool_calls or []
    return {"name": call.function.name, "arguments": json.loads(call.function.arguments)}


async def json_schema() -> Seen:
    asked: Any = {"response_format": response_format("shape"), **GREEDY}
    answer = await completions.create(messages=about("ask_objects"), **asked)
    return {"object": json.loads(answer.choices[0].message.content or "")}


async def responses() -> Seen:
    return {"text": (await client.responses.create(**_asked())).output_text}


async def responses_stream() -> Seen:
    stream = await client.responses.create(**_asked(), stream=True)
    return {"pieces": [e.delta async for e in stream if e.type == "response.output_text.delta"]}


def _asked() -> Any:
    parts = [
        {"type": "input_text", "text": WORLD["ask_caption"]},
        {"type": "input_image", "image_url": data_uri(), "detail": "auto"},
    ]
    return {**GREEDY, "input": [{"role": "user", "content": parts}]}


async def generate() -> Seen:
    return _images(await client.images.generate(**_generation()))


async def generate_n() -> Seen:
    return _images(await client.images.generate(**_generation(), n=2))


async def generate_stream() -> Seen:
    partial, whole = [], []
    async for event in await client.images.generate(**_generation(), stream=True, partial_images=2):
        if event.type == "image_generation.partial_image":
            partial.append(event.b64_json)
        else:
            whole.append(event.b64_json)
    return {"partial": partial, "images": whole}


async def edit_file() -> Seen:
    return await _edit(image=Path(WORLD["circle"]))


async def edit_list() -> Seen:
    return await _edit(image=[Path(WORLD["circle"])])


async def edit_mask() -> Seen:
    files = {"image": Path(WORLD["circle"]), "mask": Path(WORLD["mask"])}
    return await _edit(**files, extra_body={"seed": 3})


async def edit_json() -> Seen:
    """With the SDK's generic method for other routes."""
    body = {
        "model": "image-gen",
        "prompt": WORLD["editing"],
        "images": [{"image_url": data_uri()}],
        "strength": 0.5,
        "seed": 1,
    }
    answer = await client.post("/images/edits", body=body, cast_to=openai.types.ImagesResponse)
    return _images(answer)


def _generation() -> Any:
    return {"model": "image-gen", "prompt": WORLD["prompt"], "extra_body": {"seed": 0}}


async def _edit(**fields: Any) -> Seen:
    asked: Any = {
        "model": "image-gen",
        "prompt": WORLD["editing"],
        "extra_body": {"strength": 0.5, "seed": 1},
        **fields,
    }
    return _images(await client.images.edit(**asked))


def _images(answer: openai.types.ImagesResponse) -> Seen:
    return {"images": [data.b64_json for data in answer.data or ()], "seeded": True}


async def unknown_model() -> Seen:
    asked: Any = {**GREEDY, "model": "no/such"}
    return await refused_later(completions.create(messages=about("ask_caption"), **asked))


async def bad_size() -> Seen:
    return await refused_later(client.images.generate(**_generation(), size="1024x1024"))


async def wrong_key() -> Seen:
    return await refused_later(client.with_options(api_key="wrong").models.retrieve("vlm-best"))


async def too_large() -> Seen:
    asked = about("ask_caption", data_uri("large"))
    return await refused_later(completions.create(messages=asked, **GREEDY))


async def too_large_form() -> Seen:
    return await refused_later(_edit(image=("large.png", image_bytes("large"))))


async def too_many() -> Seen:
    return await refused_later(_edit(image=[Path(WORLD["circle"]), Path(WORLD["circle"])]))


async def time_out() -> Seen:
    hasty = client.with_options(timeout=PATIENCE_S).chat.completions
    return await refused_later(hasty.create(messages=about("ask_objects"), **LONG))


async def abort() -> Seen:
    """Cancels the task that reads, as a web server does when its own client disconnects."""
    began = time.monotonic()
    pieces: list[str] = []
    enough = asyncio.Event()

    async def read() -> None:
        async for chunk in await completions.create(messages=about("ask_objects"), stream=True, **LONG):
            pieces.append(chunk.choices[0].delta.content or "")
            if len(pieces) == ENOUGH:
                enough.set()

    reading = asyncio.create_task(read())
    await enough.wait()
    reading.cancel()
    await asyncio.wait([reading])
    return {"pieces": pieces, "after_s": time.monotonic() - began}


if __name__ == "__main__":
    serve(globals())
