"""openai-python with strict validation, unless a proxy is in front of our stack (``strict``)."""

from __future__ import annotations

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
    refused,
    response_format,
    serve,
    tool,
)

client = openai.OpenAI(
    base_url=WORLD["base_url"],
    api_key=WORLD["key"],
    max_retries=0,
    _strict_response_validation=WORLD["strict"],
)
completions = client.chat.completions
GREEDY: Any = {"model": "vlm-best", "temperature": 0}
LONG: Any = {**GREEDY, "response_format": response_format("numbers"), "max_tokens": 4000}


def list_models() -> Seen:
    return {"ids": [model.id for model in client.models.list()]}


def retrieve_model() -> Seen:
    return {"id": client.models.retrieve("schnell").id}


def chat() -> Seen:
    return _caption()


def chat_url() -> Seen:
    return _caption(WORLD["circle_url"])


def _caption(url: str | None = None) -> Seen:
    answer = completions.create(messages=about("ask_caption", url), **GREEDY)
    return {"text": answer.choices[0].message.content}


def chat_stream() -> Seen:
    stream = completions.create(messages=about("ask_caption"), stream=True, **GREEDY)
    chunks = list(stream)
    return {"pieces": [c.choices[0].delta.content or "" for c in chunks if c.choices]}


def stream_usage() -> Seen:
    asked = about("ask_caption")
    *_, last = completions.create(
        messages=asked, stream=True, stream_options={"include_usage": True}, **GREEDY
    )
    assert last.usage is not None
    usage: Seen = last.usage.model_dump()
    return usage


def tools() -> Seen:
    answer = completions.create(
        messages=about("ask_objects"),
        tools=[tool()],
        tool_choice="required",
        parallel_tool_calls=False,
        **GREEDY,
    )
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    return {"name": call.function.name, "arguments": json.loads(call.function.arguments)}


def json_schema() -> Seen:
    answer = completions.create(
        messages=about("ask_objects"), response_format=response_format("shape"), **GREEDY
    )
    return {"object": json.loads(answer.choices[0].message.content or "")}


# --- responses -----------------------------------------------------------------------------------


def _asked() -> Any:
    parts = [
        {"type": "input_text", "text": WORLD["ask_caption"]},
        {"type": "input_image", "image_url": data_uri(), "detail": "auto"},
    ]
    return {**GREEDY, "input": [{"role": "user", "content": parts}], "store": False}


def responses() -> Seen:
    return {"text": client.responses.create(**_asked()).output_text}


def responses_stream() -> Seen:
    with client.responses.stream(**_asked()) as stream:
        pieces = [event.delta for event in stream if event.type == "response.output_text.delta"]
        assert stream.get_final_response().output_text == "".join(pieces)
    return {"pieces": pieces}


# --- images ------------------------------------------------------------------------------------


def generate() -> Seen:
    return _images(client.images.generate(**_generation(), size="auto"))


def generate_n() -> Seen:
    return _images(client.images.generate(**_generation(), n=2))


def generate_stream() -> Seen:
    events = list(client.images.generate(**_generation(), stream=True, partial_images=2))
    kinds: dict[str, list[str]] = {}
    for event in events:
        kinds.setdefault(event.type, []).append(event.b64_json)
    partial, whole = "image_generation.partial_image", "image_generation.completed"
    return {"partial": kinds[partial], "images": kinds[whole]}


def edit_file() -> Seen:
    with Path(WORLD["circle"]).open("rb") as file:
        return _edit(image=file)


def edit_list() -> Seen:
    return _edit(image=[("원.png", image_bytes())])


def edit_mask() -> Seen:
    return _edit(
        image=("a.png", image_bytes()), mask=("b.png", image_bytes("mask")), extra_body={"seed": 3}
    )


def edit_json() -> Seen:
    body = {
        "model": "image-gen",
        "prompt": WORLD["editing"],
        "images": [{"image_url": data_uri()}],
        "strength": 0.5,
        "seed": 1,
    }
    return _images(client.post("/images/edits", body=body, cast_to=openai.types.ImagesResponse))


def _generation() -> Any:
    return {"model": "image-gen", "prompt": WORLD["prompt"], "extra_body": {"seed": 0}}


def _edit(**fields: Any) -> Seen:
    asked: Any = {
        "model": "image-gen",
        "prompt": WORLD["editing"],
        "extra_body": {"strength": 0.5, "seed": 1},
        **fields,
    }
    return _images(client.images.edit(**asked))


def _images(answer: openai.types.ImagesResponse) -> Seen:
    return {"images": [data.b64_json for data in answer.data or ()], "seeded": True}


# --- errors, and leaving -------------------------------------------------------------------------


def unknown_model() -> Seen:
    asked: Any = {**GREEDY, "model": "no/such"}
    return refused(lambda: completions.create(messages=about("ask_caption"), **asked))


def bad_size() -> Seen:
    return refused(lambda: client.images.generate(**_generation(), size="1024x1024"))


def wrong_key() -> Seen:
    wrong = client.with_options(api_key="wrong")
    return refused(lambda: wrong.models.list())


def too_large() -> Seen:
    asked = about("ask_caption", data_uri("large"))
    return refused(lambda: completions.create(messages=asked, **GREEDY))


def too_large_form() -> Seen:
    return refused(lambda: _edit(image=("large.png", image_bytes("large"))))


def too_many() -> Seen:
    two = [("a.png", image_bytes()), ("b.png", image_bytes())]
    return refused(lambda: _edit(image=two))


def time_out() -> Seen:
    hasty = client.with_options(timeout=PATIENCE_S).chat.completions
    return refused(lambda: hasty.create(messages=about("ask_objects"), **LONG))


def abort() -> Seen:
    began = time.monotonic()
    pieces = []
    with completions.create(messages=about("ask_objects"), stream=True, **LONG) as stream:
        for chunk in stream:
            pieces.append(chunk.choices[0].delta.content or "")
            if len(pieces) == ENOUGH:
                break
    return {"pieces": pieces, "after_s": time.monotonic() - began}


if __name__ == "__main__":
    serve(globals())
