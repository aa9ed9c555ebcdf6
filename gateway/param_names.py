"""The fields of a request by the names that they have in the chat made of it. Pure.

Errors about the chat are told to a client that has never seen it: what is called
``messages[1].content[0].image_url.url`` there is a response's ``input[0].content[0].image_url``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from contracts.errors import InvalidRequest

_PARENT = re.compile(r"(?P<parent>.+?)(?P<last>\.[^.\[\]]*|\[\d+\])", re.DOTALL)


class Names:
    """Filled while the chat is made; then it translates.

    *fixed*: where fields of a chat always stand in such a request; what is not told has the same name.
    """

    def __init__(self, fixed: Mapping[str, str]) -> None:
        self._told = dict(fixed)
        self._leaves: set[str] = set()

    def note(self, chat: str, told: str, *, leaf: bool = False) -> None:
        """The chat's field *chat* was made of *told*; *leaf*: and so was all that is in it."""
        self._told[chat] = told
        if leaf:
            self._leaves.add(chat)

    def told(self, param: str) -> str:
        """The client's name for the chat's *param*."""
        known, rest = param, ""
        while known not in self._told:
            cut = _PARENT.fullmatch(known)
            if cut is None:
                return param
            known, rest = cut["parent"], cut["last"] + rest
        return self._told[known] + ("" if known in self._leaves else rest)

    def error(self, error: InvalidRequest) -> InvalidRequest:
        """*error* about the chat as one about what the client sent."""
        param, message = self._renamed(error.param, error.message)
        return type(error)(message, param=param, code=error.code, retry_after=error.retry_after)

    def error_object(self, error: dict[str, Any]) -> dict[str, Any]:
        """Likewise, as it stands in an answer."""
        param, message = self._renamed(error["param"], error["message"])
        return {**error, "message": message, "param": param}

    def error_body(self, body: bytes) -> bytes:
        """Likewise, as the body of an answer; any other body as it is."""
        try:
            content = json.loads(body)
            content["error"] = self.error_object(content["error"])
        except (ValueError, KeyError, TypeError):
            return body
        return json.dumps(content, ensure_ascii=False).encode()

    def _renamed(self, param: str | None, message: str) -> tuple[str | None, str]:
        if param is None:
            return None, message
        told = self.told(param)
        if message.startswith(f"{param}: "):
            message = told + message[len(param) :]
        return told, message
