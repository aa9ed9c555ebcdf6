"""Translates field names: of the chat completion that a request was turned into, to the client's own.
Pure.

An error about the chat would confuse a client that never saw it: the chat's
``messages[1].content[0].image_url.url`` is ``input[0].content[0].image_url`` in a Responses API
request.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from contracts.errors import InvalidRequest

_PARENT = re.compile(r"(?P<parent>.+?)(?P<last>\.[^.\[\]]*|\[\d+\])", re.DOTALL)


class ParamNames:
    """Filled while the chat is built; translates afterwards.

    *fixed*: fields that always have the same origin. Fields without an entry keep their name.
    """

    def __init__(self, fixed: Mapping[str, str]) -> None:
        self._origins = dict(fixed)
        self._leaves: set[str] = set()

    def note(self, chat: str, sent: str, *, leaf: bool = False) -> None:
        """The chat's field *chat* was made from *sent*; *leaf*: so was everything inside it."""
        self._origins[chat] = sent
        if leaf:
            self._leaves.add(chat)

    def translated(self, param: str) -> str:
        """The client's name for the chat's *param*."""
        known, rest = param, ""
        while known not in self._origins:
            cut = _PARENT.fullmatch(known)
            if cut is None:
                return param
            known, rest = cut["parent"], cut["last"] + rest
        return self._origins[known] + ("" if known in self._leaves else rest)

    def error(self, error: InvalidRequest) -> InvalidRequest:
        """*error* about the chat as an error about the client's request."""
        param, message = self._translate(error.param, error.message)
        return type(error)(message, param=param, retry_after=error.retry_after)

    def error_object(self, error: dict[str, Any]) -> dict[str, Any]:
        """The same for an error object in a response."""
        param, message = self._translate(error["param"], error["message"])
        return {**error, "message": message, "param": param}

    def error_body(self, body: bytes) -> bytes:
        """The same for a response body; other bodies are returned unchanged."""
        try:
            content = json.loads(body)
            content["error"] = self.error_object(content["error"])
        except (ValueError, KeyError, TypeError):
            return body
        return json.dumps(content, ensure_ascii=False).encode()

    def _translate(self, param: str | None, message: str) -> tuple[str | None, str]:
        if param is None:
            return None, message
        translated = self.translated(param)
        if message.startswith(f"{param}: "):
            message = translated + message[len(param) :]
        return translated, message
