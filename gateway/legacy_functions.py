"""Chat completions in OpenAI's form before tools: ``functions`` and ``function_call``. Pure.

Rules: a legacy request becomes one with tools, the only form that the rest of the gateway knows. The
response reports calls in the legacy form, and errors name the client's fields. Messages keep their
places. A request in today's form is forwarded byte for byte, at the cost of one search.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

from contracts.errors import ErrorBody, InvalidRequest, UpstreamError
from contracts.settings import Settings
from gateway.checks import Checked, check_chat
from gateway.param_names import ParamNames
from gateway.response_rewrite import ChatRewrite
from web.sse import Comment, EventReader, comment, error_event

_OLD = re.compile(rb'"function(s|_call)"')
_FIXED = {"tools": "functions", "tool_choice": "function_call", "tool_choice.function": "function_call"}
_INVALID = (ValueError, KeyError, TypeError, AttributeError)


def check_chat_or_legacy(settings: Settings, body: bytes) -> Checked:
    """A check as in ``gateway.checks``, for chats in today's and in the legacy form."""
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
    return replace(checked, rewrite=LegacyRewrite(names))


def _parsed(body: bytes) -> dict[str, Any] | None:
    """The request as an object if it uses the legacy form; otherwise None."""
    try:
        sent = json.loads(body)
    except (ValueError, RecursionError):
        return None  # check_chat reports what is wrong
    if not isinstance(sent, dict):
        return None
    calls = any(message.get("function_call") for message in _messages(sent))
    return sent if calls or sent.get("functions") or sent.get("function_call") else None


def _messages(sent: dict[str, Any]) -> list[dict[str, Any]]:
    """The messages that are objects."""
    messages = sent.get("messages")
    return [m for m in messages if isinstance(m, dict)] if isinstance(messages, list) else []


# --- the request ---------------------------------------------------------------------------------


def _with_tools(sent: dict[str, Any]) -> tuple[dict[str, Any], ParamNames]:
    """*sent* in today's form, and the names for its errors. Invalid parts are left for the checks."""
    for new in ("tools", "tool_choice"):
        if sent.get(new):
            raise InvalidRequest(f"{new}: not allowed with functions or function_call", param=new)
    names = ParamNames(_FIXED)
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
        chat["messages"] = _with_tool_calls(sent["messages"], names)
    return chat, names


def _with_tool_calls(messages: list[Any], names: ParamNames) -> list[Any]:
    """*messages* with tool calls. Results belong to the latest call of their function: calls had no
    ids.
    """
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
                    f"{param}: no earlier assistant message calls this function", param=param
                )
            made.append({**message, "role": "tool", "tool_call_id": calls[name]})
        else:
            made.append(message)
    return made


# --- the response --------------------------------------------------------------------------------


class LegacyRewrite(ChatRewrite):
    async def whole(self, body: bytes) -> bytes:
        try:
            return _as_legacy(json.loads(body), "message")
        except _INVALID as exc:
            raise UpstreamError("the worker did not return a chat completion") from exc

    def events(self) -> LegacyEvents:
        return LegacyEvents(self.names)


class LegacyEvents:
    """A ``web.relay.EventRewrite``: turns the chunks of tool calls into the legacy form."""

    def __init__(self, names: ParamNames) -> None:
        self._names = names
        self._reader = EventReader()

    def feed(self, chunk: bytes) -> bytes:
        return b"".join(
            comment(found.text) if isinstance(found, Comment) else self._as_legacy(found.text)
            for found in self._reader.feed(chunk)
        )

    def _as_legacy(self, data: str) -> bytes:
        name, body = b"", data.encode()
        if data.startswith("{"):
            try:
                body = _as_legacy(json.loads(data), "delta")
            except _INVALID:  # an error
                name, body = b"event: error\n", self._names.error_body(body)
        return name + b"data: " + body + b"\n\n"

    def end(self) -> bytes:
        return b""

    def broken(self, error: ErrorBody) -> bytes:
        return error_event(error)


def _as_legacy(response: dict[str, Any], part: str) -> bytes:
    """*response*, or a chunk of one, with the first call of each choice as a ``function_call``."""
    for choice in response["choices"]:
        calls = choice[part].pop("tool_calls", None) or ()
        for call in calls:
            if call.get("index", 0) == 0:
                choice[part].setdefault("function_call", call["function"])
        if choice.get("finish_reason") == "tool_calls":
            choice["finish_reason"] = "function_call"
    return json.dumps(response, ensure_ascii=False, separators=(",", ":")).encode()
