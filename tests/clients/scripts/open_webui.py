"""The requests of Open WebUI, taken from its source code and sent with httpx. Open WebUI was not run.

Chats are streamed, with the fields from its settings, and images are data URIs. Image requests are JSON
or forms with `response_format`. One file is `image`; in a list, files are `image[]`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

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

client = httpx.Client(
    base_url=WORLD["base_url"], headers={"authorization": f"Bearer {WORLD['key']}"}, timeout=60
)


class Shown(Exception):
    """The error as its users see it: the message of the response."""

    def __init__(self, answer: httpx.Response) -> None:
        self.status_code = answer.status_code
        super().__init__(answer.json()["error"]["message"])


def _checked(answer: httpx.Response) -> Any:
    if answer.status_code >= 400:
        raise Shown(answer)
    return answer.json()


# --- chat ----------------------------------------------------------------------------------------


def _chat_body(question: str, url: str | None = None, **fields: Any) -> dict[str, Any]:
    return {
        "stream": True,
        "model": "vlm-best",
        "messages": about(question, url),
        "temperature": 0,
        "stream_options": {"include_usage": True},
        **fields,
    }


@contextmanager
def _chunks(body: dict[str, Any]) -> Iterator[Iterator[Any]]:
    with client.stream("POST", "/chat/completions", json=body) as answer:
        if answer.status_code >= 400:
            answer.read()
            raise Shown(answer)
        lines = (line.removeprefix("data: ") for line in answer.iter_lines() if line[:5] == "data:")
        yield (json.loads(line) for line in lines if line != "[DONE]")


def _pieces(body: dict[str, Any]) -> list[str]:
    with _chunks(body) as chunks:
        return [c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"]]


def list_models() -> Seen:
    return {"ids": [model["id"] for model in _checked(client.get("/models"))["data"]]}


def chat() -> Seen:
    """Not streamed, as in its requests for titles and tags."""
    body = _chat_body("ask_caption", stream=False, max_completion_tokens=100)
    del body["stream_options"]
    answer = _checked(client.post("/chat/completions", json=body))
    return {"text": answer["choices"][0]["message"]["content"]}


def chat_url() -> Seen:
    return {"text": "".join(_pieces(_chat_body("ask_caption", WORLD["circle_url"])))}


def chat_stream() -> Seen:
    return {"pieces": _pieces(_chat_body("ask_caption"))}


def stream_usage() -> Seen:
    with _chunks(_chat_body("ask_caption")) as chunks:
        *_, last = chunks
    usage: Seen = last["usage"]
    return usage


def tools() -> Seen:
    """Native function calling."""
    asked: Any = {"tools": [tool()], "tool_choice": "required", "parallel_tool_calls": False}
    name = arguments = ""
    with _chunks(_chat_body("ask_objects", **asked)) as chunks:
        for chunk in chunks:
            for choice in chunk["choices"]:
                for call in choice["delta"].get("tool_calls") or ():
                    name += call["function"].get("name") or ""
                    arguments += call["function"].get("arguments") or ""
    return {"name": name, "arguments": json.loads(arguments)}


# --- images ------------------------------------------------------------------------------------


def generate() -> Seen:
    return _draw()


def generate_n() -> Seen:
    return _draw(n=2)


def _draw(**fields: Any) -> Seen:
    body = {
        "model": "image-gen",
        "prompt": WORLD["prompt"],
        "n": 1,
        "size": "128x128",
        "response_format": "b64_json",
        "seed": 0,  # in its field for additional parameters
        **fields,
    }
    return _images(_checked(client.post("/images/generations", json=body)))


def edit_file() -> Seen:
    return _edit([("image", image_bytes())])


def edit_list() -> Seen:
    return _edit([("image[]", image_bytes())])


def _edit(files: list[tuple[str, bytes]]) -> Seen:
    form = {"model": "image-gen", "prompt": WORLD["editing"], "n": "1", "response_format": "b64_json"}
    parts = [(name, ("image.png", data, "image/png")) for name, data in files]
    return _images(_checked(client.post("/images/edits", data=form, files=parts)))


def _images(answer: Any) -> Seen:
    return {"images": [data["b64_json"] for data in answer["data"]], "seeded": False}


# --- errors, and leaving -------------------------------------------------------------------------


def unknown_model() -> Seen:
    return refused(lambda: _pieces(_chat_body("ask_caption", model="no/such")))


def bad_size() -> Seen:
    return refused(lambda: _draw(size="1024x1024"))


def wrong_key() -> Seen:
    wrong = {"authorization": "Bearer wrong"}
    return refused(lambda: _checked(client.get("/models", headers=wrong)))


def too_large() -> Seen:
    return refused(lambda: _pieces(_chat_body("ask_caption", data_uri("large"))))


def too_large_form() -> Seen:
    return refused(lambda: _edit([("image", image_bytes("large"))]))


def too_many() -> Seen:
    return refused(lambda: _edit([("image[]", image_bytes()), ("image[]", image_bytes())]))


def _long(**fields: Any) -> dict[str, Any]:
    form = response_format("numbers")
    return _chat_body("ask_objects", response_format=form, max_tokens=4000, **fields)


def time_out() -> Seen:
    body = _long(stream=False)
    return refused(lambda: client.post("/chat/completions", json=body, timeout=PATIENCE_S))


def abort() -> Seen:
    """The stop button."""
    began = time.monotonic()
    pieces = []
    with _chunks(_long()) as chunks:
        for chunk in chunks:
            pieces.append(chunk["choices"][0]["delta"].get("content") or "")
            if len(pieces) == ENOUGH:
                break
    return {"pieces": pieces, "after_s": time.monotonic() - began}


if __name__ == "__main__":
    serve(globals())
