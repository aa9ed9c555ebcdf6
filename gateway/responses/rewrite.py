"""Checks a Responses API request, and rewrites the chat completion that answers it.

Rules: the pure modules of this package decide; a response refers to nothing that is stored.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, replace

from contracts.errors import InvalidRequest
from contracts.settings import Settings
from contracts.wire import parse_json
from contracts.wire.response_object import ResponseObject
from contracts.wire.responses import ResponseRequest
from gateway.checks import Checked, check_chat
from gateway.response_rewrite import ChatRewrite
from gateway.responses.chat import chat_of
from gateway.responses.events import ResponseEvents
from gateway.responses.response import NewId, Now, new_response, response_of


def new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(24)}"


def check_response(
    settings: Settings, body: bytes, *, new_id: NewId = new_id, now: Now = time.time
) -> Checked:
    """A check as in ``gateway.checks``: the body becomes a chat."""
    request = parse_json(ResponseRequest, body)
    chat, names = chat_of(request)
    try:
        checked = check_chat(settings, chat)
    except InvalidRequest as exc:
        raise names.error(exc) from exc
    response = new_response(request, new_id("resp"), int(now()), checked.alias)
    linked = tuple(replace(link, param=names.translated(link.param)) for link in checked.linked_images)
    return replace(checked, linked_images=linked, rewrite=ResponseRewrite(names, response, new_id, now))


@dataclass(frozen=True, slots=True)
class ResponseRewrite(ChatRewrite):
    """*response* has not begun."""

    response: ResponseObject
    new_id: NewId
    now: Now

    async def whole(self, body: bytes) -> bytes:
        return response_of(self.response, body, self.new_id, self.now)

    def events(self) -> ResponseEvents:
        return ResponseEvents(self.response, self.names, self.new_id, self.now)
