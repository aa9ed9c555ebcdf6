"""Chats in the form that OpenAI had before tools: ``functions`` and ``function_call``. Pure.

Rules: such a request becomes one with tools, which is all that is known behind this module, and its
answer tells of the call as the request would have it; errors name what the client sent. Messages keep
their places. A request in today's form is passed on byte for byte, and costs a search for two words.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

from contracts.errors import ErrorBody, InvalidRequest, UpstreamError
from contracts.settings import Settings
from gateway.checks import Checked, check_chat
from gateway.param_names import Names
from gateway.response_rewrite import ChatRewrite
from web.sse import Comment, EventReader, comment, error_event

_OLD = re.compile(rb'"function(s|_call)"')
_FIXED = {"tools": "functions", "tool_choice": "function_call", "tool_choice.function": "function_call"}
_NO_CHAT = (ValueError, KeyError, TypeError, AttributeError)


def check_chat_of_any_age(settings: Settings, body: bytes) -> Checked:
    """As those of ``gateway.checks``, which it is for a chat in today's form."""
    found = _parsed(body) if _OLD.search(body) else None
    if found is None:
        return check_chat(settings, body)
    chat, names = _with_tools(found)
    try:
        made = json.dumps(chat, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as exc:  # NaN, half a surrogate pair, or too deep
        raise InvalidRequest(f"the body is not valid JSON: {exc}") from exc
    try:
        checked = check_chat(settings, made)
    except InvalidRequest as exc:
        raise names.error(exc) from exc
    return replace(checked, rewrite=FunctionRewrite(names))


def _parsed(body: bytes) -> dict[str, Any] | None:
    """A request that has something of the old form in a place where it means something."""
    try:
        sent = json.loads(body)
    except (ValueError, RecursionError):
        return None  # the check of a chat says what is wrong with it
    if not isinstance(sent, dict):
        return None
    calls = any(message.get("function_call") for message in _messages(sent))
    return sent if calls or sent.get("functions") or sent.get("function_call") else None


def _messages(sent: dict[str, Any]) -> list[dict[str, Any]]:
    """Those of its messages that can have anything in them."""
    messages = sent.get("messages")
    return [m for m in messages if isinstance(m, dict)] if isinstance(messages, list) else []


# --- the request ---------------------------------------------------------------------------------


def _with_tools(sent: dict[str, Any]) -> tuple[dict[str, Any], Names]:
    """*sent* in today's form, and the names for its errors. What makes no sense is left as it is."""
    for new in ("tools", "tool_choice"):
        if sent.get(new):
            raise InvalidRequest(f"{new}: not together with functions or function_call", param=new)
    names = Names(_FIXED)
    chat = {name: value for name, value in sent.items() if name not in ("functions", "function_call")}
    functions, choice = sent.get("functions"), sent.get("function_call")
    if isinstance(functions, list):
        for at in range(len(functions)):
            names.note(f"tools[{at}].function", f"functions[{at}]")
        functions = [{"type": "function", "function": function} for function in functions]
    if functions:
        chat |= {"tools": functions, "parallel_tool_calls": False}
    if choice:
        named = isinstance(choice, dict) and "type" not in choice
        chat["tool_choice"] = {"type": "function", "function": choice} if named else choice
    if isinstance(sent.get("messages"), list):
        chat["messages"] = _said(sent["messages"], names)
    return chat, names


def _said(messages: list[Any], names: Names) -> list[Any]:
    """*messages*, where results belong to the last call of their function: calls had no ids."""
    made, calls = [], dict[Any, str]()
    for at, message in enumerate(messages):
        where = f"messages[{at}]"
        if not isinstance(message, dict):
            made.append(message)
        elif call := message.get("function_call"):
            name = call.get("name") if isinstance(call, dict) else None
            id = calls[str(name)] = f"call_{at}"
            names.note(f"{where}.tool_calls", f"{where}.function_call")
            names.note(f"{where}.tool_calls[0]", f"{where}.function_call")
            names.note(f"{where}.tool_calls[0].function", f"{where}.function_call")
            rest = {key: value for key, value in message.items() if key != "function_call"}
            made.append({**rest, "tool_calls": [{"id": id, "type": "function", "function": call}]})
        elif message.get("role") == "function":
            name = str(message.get("name"))
            if name not in calls:
                param = f"{where}.name"
                raise InvalidRequest(
                    f"{param}: no earlier message of the assistant calls this function", param=param
                )
            made.append({**message, "role": "tool", "tool_call_id": calls[name]})
        else:
            made.append(message)
    return made


# --- the answer ----------------------------------------------------------------------------------


class FunctionRewrite(ChatRewrite):
    async def whole(self, body: bytes) -> bytes:
        try:
            return _retold(json.loads(body), "message")
        except _NO_CHAT as exc:
            raise UpstreamError("the worker's answer is no chat completion") from exc

    def events(self) -> FunctionEvents:
        return FunctionEvents(self.names)


class FunctionEvents:
    """A ``web.relay.EventRewrite``: each chunk of a call becomes one of the old form."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._reader = EventReader()

    def feed(self, chunk: bytes) -> bytes:
        return b"".join(
            comment(found.text) if isinstance(found, Comment) else self._retold(found.text)
            for found in self._reader.feed(chunk)
        )

    def _retold(self, data: str) -> bytes:
        name, told = b"", data.encode()
        if data.startswith("{"):
            try:
                told = _retold(json.loads(data), "delta")
            except _NO_CHAT:  # so it tells what went wrong
                name, told = b"event: error\n", self._names.error_body(told)
        return name + b"data: " + told + b"\n\n"

    def end(self) -> bytes:
        return b""

    def broken(self, error: ErrorBody) -> bytes:
        return error_event(error)


def _retold(answer: dict[str, Any], part: str) -> bytes:
    """*answer*, or a chunk of one, with the first call of each choice as a ``function_call``."""
    for choice in answer["choices"]:
        calls = choice[part].pop("tool_calls", None) or ()
        for call in calls:
            if call.get("index", 0) == 0:
                choice[part].setdefault("function_call", call["function"])
        if choice.get("finish_reason") == "tool_calls":
            choice["finish_reason"] = "function_call"
    return json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode()
