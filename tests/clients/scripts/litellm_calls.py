"""LiteLLM as a library."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # otherwise it is downloaded
import litellm

from tests.clients.scripts.protocol import (
    ENOUGH,
    PATIENCE_S,
    WORLD,
    Seen,
    about,
    data_uri,
    refused,
    response_format,
    serve,
    tool,
)

litellm.telemetry = False
US: Any = {"api_base": WORLD["base_url"], "api_key": WORLD["key"], "max_retries": 0}
GREEDY: Any = {**US, "model": "openai/vlm-best", "temperature": 0}
LONG: Any = {**GREEDY, "response_format": response_format("numbers"), "max_tokens": 4000}


def _chat(question: str = "ask_caption", url: str | None = None, **fields: Any) -> Any:
    asked: Any = {**GREEDY, "messages": about(question, url), **fields}
    return litellm.completion(**asked)


def chat() -> Seen:
    return {"text": _chat().choices[0].message.content}


def chat_url() -> Seen:
    return {"text": _chat(url=WORLD["circle_url"]).choices[0].message.content}


def chat_stream() -> Seen:
    return {"pieces": [c.choices[0].delta.content or "" for c in _chat(stream=True)]}


def stream_usage() -> Seen:
    *_, last = _chat(stream=True, stream_options={"include_usage": True})
    usage: Seen = last.usage.model_dump()
    return usage


def tools() -> Seen:
    asked: Any = {"tools": [tool()], "tool_choice": "required", "parallel_tool_calls": False}
    (call,) = _chat("ask_objects", **asked).choices[0].message.tool_calls
    return {"name": call.function.name, "arguments": json.loads(call.function.arguments)}


def json_schema() -> Seen:
    answer = _chat("ask_objects", response_format=response_format("shape"))
    return {"object": json.loads(answer.choices[0].message.content)}


def responses() -> Seen:
    return {"text": litellm.responses(**_asked()).output_text}


def responses_stream() -> Seen:
    events = litellm.responses(**_asked(), stream=True)
    return {"pieces": [e.delta for e in events if e.type == "response.output_text.delta"]}


def _asked() -> Any:
    parts = [
        {"type": "input_text", "text": WORLD["ask_caption"]},
        {"type": "input_image", "image_url": data_uri()},
    ]
    return {**GREEDY, "input": [{"role": "user", "content": parts}]}


def generate() -> Seen:
    return _draw()


def generate_n() -> Seen:
    return _draw(n=2)


def _draw(**fields: Any) -> Seen:
    asked: Any = {"model": "openai/image-gen", "prompt": WORLD["prompt"], **US, **fields}
    return _images(litellm.image_generation(**asked, extra_body={"seed": 0}))


def edit_file() -> Seen:
    with Path(WORLD["circle"]).open("rb") as file:
        return _edit(image=file)


def edit_list() -> Seen:
    with Path(WORLD["circle"]).open("rb") as file:
        return _edit(image=[file])


def edit_mask() -> Seen:
    with Path(WORLD["circle"]).open("rb") as image, Path(WORLD["mask"]).open("rb") as mask:
        return _edit(image=image, mask=mask, extra_body={"seed": 3})


def _edit(**fields: Any) -> Seen:
    asked: Any = {
        "model": "openai/image-gen",
        "prompt": WORLD["editing"],
        "extra_body": {"strength": 0.5, "seed": 1},
        **US,
        **fields,
    }
    return _images(litellm.image_edit(**asked))


def _images(answer: Any) -> Seen:
    return {"images": [data.b64_json for data in answer.data], "seeded": True}


def unknown_model() -> Seen:
    return refused(lambda: _chat(model="openai/no/such"))


def bad_size() -> Seen:
    return refused(lambda: _draw(size="1024x1024"))


def wrong_key() -> Seen:
    return refused(lambda: _chat(api_key="wrong"))


def too_large() -> Seen:
    return refused(lambda: _chat(url=data_uri("large")))


def too_large_form() -> Seen:
    with Path(WORLD["large"]).open("rb") as file:
        return refused(lambda: _edit(image=file))


def too_many() -> Seen:
    with Path(WORLD["circle"]).open("rb") as one, Path(WORLD["circle"]).open("rb") as other:
        return refused(lambda: _edit(image=[one, other]))


def time_out() -> Seen:
    return refused(lambda: _chat("ask_objects", **{**LONG, "timeout": PATIENCE_S}))


def abort() -> Seen:
    began = time.monotonic()
    pieces = []
    stream = _chat("ask_objects", **{**LONG, "stream": True})
    for chunk in stream:
        pieces.append(chunk.choices[0].delta.content or "")
        if len(pieces) == ENOUGH:
            break
    stream.completion_stream.close()
    return {"pieces": pieces, "after_s": time.monotonic() - began}


if __name__ == "__main__":
    serve(globals())
