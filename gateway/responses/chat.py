"""Turns a Responses API request into the chat completion request that answers it. Pure.

Rules: what is specific to the Responses API ends here; nothing that a chat understands is lost. The
origin of each chat field is noted, for errors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from contracts.errors import InvalidRequest
from contracts.wire.responses import (
    FunctionTool,
    InputItem,
    InputPart,
    ResponseRequest,
    ResponseToolChoice,
    TextFormat,
)
from gateway.param_names import ParamNames

# Fields that both APIs share.
_SAME = ("model", "user", "stream", "temperature", "top_p", "parallel_tool_calls", "keep_alive")
# Chat fields that OpenAI's Responses API lacks; check_chat validates them.
_EXTENSIONS = (
    "frequency_penalty",
    "logit_bias",
    "max_pixels",
    "min_p",
    "presence_penalty",
    "repetition_penalty",
    "seed",
    "stop",
    "top_k",
)
# Chat fields and their origin in a Responses API request.
NAMES: Mapping[str, str] = MappingProxyType(
    {
        "messages": "input",
        "max_completion_tokens": "max_output_tokens",
        "logprobs": "include",
        "response_format": "text.format",
        "response_format.json_schema": "text.format",
        "tool_choice.function": "tool_choice",
    }
)
_TEXTS = {"input_text": "text", "output_text": "text", "refusal": "refusal"}


def chat_of(request: ResponseRequest) -> tuple[bytes, ParamNames]:
    """The chat's body, and the names for its errors. Raises ``InvalidRequest``."""
    conversation = _Conversation()
    if request.instructions is not None:
        conversation.instruct(request.instructions)
    for at, item in enumerate(request.input):
        conversation.add(item, f"input[{at}]")
    names = conversation.names
    chat: dict[str, Any] = {"messages": conversation.messages}
    chat |= {name: getattr(request, name) for name in _SAME}
    chat |= {name: (request.model_extra or {}).get(name) for name in _EXTENSIONS}
    chat["max_completion_tokens"] = request.max_output_tokens
    chat["tools"] = _tools(request.tools, names)
    chat["tool_choice"] = _choice(request.tool_choice)
    if request.text is not None and request.text.format is not None:
        chat["response_format"] = _format(request.text.format)
    if request.wants_logprobs:
        chat |= {"logprobs": True, "top_logprobs": request.top_logprobs}
    if request.stream:
        chat["stream_options"] = {"include_usage": True}
    given = {name: value for name, value in chat.items() if value is not None}
    try:
        return json.dumps(given, ensure_ascii=False, allow_nan=False).encode(), names
    except ValueError as exc:  # in a JSON schema, which may hold anything
        raise InvalidRequest("the body is not valid JSON: it holds NaN or Infinity") from exc


class _Conversation:
    """The messages so far. Consecutive calls join one message, with the text before them."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.names = ParamNames(NAMES)

    def instruct(self, text: str) -> None:
        self.names.note("messages[0]", "instructions", leaf=True)
        self.messages.append({"role": "system", "content": text})

    def add(self, item: InputItem, sent: str) -> None:
        at = f"messages[{len(self.messages)}]"
        if item.type == "message":
            content = self._parts(item.content or [], f"{at}.content", f"{sent}.content")
            self._append({"role": item.role, "content": content}, sent)
        elif item.type == "function_call":
            self._call(item, sent)
        elif item.type == "function_call_output":
            content = self._parts(item.output or [], f"{at}.content", f"{sent}.output")
            self.names.note(f"{at}.tool_call_id", f"{sent}.call_id")
            self._append({"role": "tool", "tool_call_id": item.call_id, "content": content}, sent)

    def _append(self, message: dict[str, Any], sent: str) -> None:
        self.names.note(f"messages[{len(self.messages)}]", sent)
        self.messages.append(message)

    def _call(self, item: InputItem, sent: str) -> None:
        if not self.messages or self.messages[-1]["role"] != "assistant":
            self._append({"role": "assistant"}, sent)
        calls = self.messages[-1].setdefault("tool_calls", [])
        at = f"messages[{len(self.messages) - 1}].tool_calls[{len(calls)}]"
        self.names.note(at, sent)
        self.names.note(f"{at}.function", sent)
        self.names.note(f"{at}.id", f"{sent}.call_id")
        function = {"name": item.name, "arguments": item.arguments}
        calls.append({"id": item.call_id, "type": "function", "function": function})

    def _parts(self, parts: list[InputPart], chat: str, sent: str) -> list[dict[str, Any]]:
        self.names.note(chat, sent)
        made: list[dict[str, Any]] = []
        for at, part in enumerate(parts):
            if kind := _TEXTS.get(part.type):
                made.append({"type": kind, kind: part.text if kind == "text" else part.refusal})
                continue
            where = f"{chat}[{at}].image_url"
            self.names.note(where, f"{sent}[{at}].image_url", leaf=True)
            self.names.note(f"{where}.detail", f"{sent}[{at}].detail")
            made.append({"type": "image_url", "image_url": _image(part)})
        return made


def _image(part: InputPart) -> dict[str, Any]:
    # "high" is the finest detail of a chat.
    detail = "high" if part.detail == "original" else part.detail
    return _given({"url": part.image_url, "detail": detail})


def _tools(tools: Sequence[FunctionTool] | None, names: ParamNames) -> list[dict[str, Any]] | None:
    """None for no tools: a chat accepts an empty list, but has no use for it."""
    made = []
    for at, tool in enumerate(tools or ()):
        names.note(f"tools[{at}].function", f"tools[{at}]")
        function = {
            "name": tool.name,
            "description": tool.description,
            "parameters": tool.parameters,
            "strict": tool.strict,
        }
        made.append({"type": "function", "function": _given(function)})
    return made or None


def _choice(choice: ResponseToolChoice | None) -> str | dict[str, Any] | None:
    if choice is None:
        return None
    if choice.type == "function":
        return {"type": "function", "function": {"name": choice.name}}
    return choice.type


def _format(format: TextFormat) -> dict[str, Any]:
    if format.type != "json_schema":
        return {"type": format.type}
    schema = {
        "name": format.name,
        "description": format.description,
        "schema": format.definition,
        "strict": format.strict,
    }
    return {"type": "json_schema", "json_schema": _given(schema)}


def _given(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
