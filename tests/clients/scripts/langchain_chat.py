"""LangChain by langchain-openai."""

from __future__ import annotations

import time
from typing import Any

from langchain_openai import ChatOpenAI
from pydantic import SecretStr

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


def _chat(**fields: Any) -> ChatOpenAI:
    settings: Any = {
        "base_url": WORLD["base_url"],
        "api_key": SecretStr(WORLD["key"]),
        "model": "vlm-best",
        "temperature": 0,
        "max_retries": 0,
        **fields,
    }
    return ChatOpenAI(**settings)


def _long(**fields: Any) -> Any:
    return _chat(max_tokens=4000, **fields).bind(response_format=response_format("numbers"))


def _caption(url: str | None = None, **fields: Any) -> Seen:
    return {"text": _chat(**fields).invoke(about("ask_caption", url)).text}


def _pieces(**fields: Any) -> Seen:
    return {"pieces": [chunk.text for chunk in _chat(**fields).stream(about("ask_caption"))]}


def chat() -> Seen:
    return _caption()


def chat_url() -> Seen:
    return _caption(WORLD["circle_url"])


def chat_stream() -> Seen:
    return _pieces()


def stream_usage() -> Seen:
    whole: Any = None
    for chunk in _chat(stream_usage=True).stream(about("ask_caption")):
        whole = chunk if whole is None else whole + chunk
    usage = whole.usage_metadata
    return {"prompt_tokens": usage["input_tokens"], "completion_tokens": usage["output_tokens"]}


def tools() -> Seen:
    bound = _chat().bind_tools([tool()], tool_choice="required", parallel_tool_calls=False)
    (call,) = bound.invoke(about("ask_objects")).tool_calls
    return {"name": call["name"], "arguments": call["args"]}


def json_schema() -> Seen:
    schema = {"title": "shape", **WORLD["shape"]}
    structured = _chat().with_structured_output(schema, method="json_schema", strict=True)
    return {"object": structured.invoke(about("ask_objects"))}


def responses() -> Seen:
    return _caption(use_responses_api=True)


def responses_stream() -> Seen:
    return _pieces(use_responses_api=True)


def unknown_model() -> Seen:
    return refused(lambda: _caption(model="no/such"))


def wrong_key() -> Seen:
    return refused(lambda: _caption(api_key=SecretStr("wrong")))


def too_large() -> Seen:
    return refused(lambda: _caption(data_uri("large")))


def time_out() -> Seen:
    return refused(lambda: _long(timeout=PATIENCE_S).invoke(about("ask_objects")))


def abort() -> Seen:
    began = time.monotonic()
    pieces = []
    stream = _long().stream(about("ask_objects"))
    for chunk in stream:
        pieces.append(chunk.text)
        if len(pieces) == ENOUGH:
            break
    stream.close()
    return {"pieces": pieces, "after_s": time.monotonic() - began}


if __name__ == "__main__":
    serve(globals())
