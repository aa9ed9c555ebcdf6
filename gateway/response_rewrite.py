"""Responses that do not reach the client as the model sent them.

Rules: a route that rewrites its responses (images as URLs, another API over the same models) sets
``Checked.rewrite``. Everything else is forwarded byte for byte.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Protocol

from contracts.errors import UpstreamError
from gateway.param_names import ParamNames
from web.relay import EventRewrite


class Rewrite(Protocol):
    """Rewrites the response to one request."""

    @property
    def limit(self) -> int:
        """The largest response in bytes; ``too_large`` is the error beyond it."""

    def too_large(self) -> Exception:
        """The ``ApiError`` for a response of more than *limit* bytes."""

    async def whole(self, body: bytes) -> bytes:
        """The client's form of *body*, the JSON of a 200. Raises an ``ApiError``."""

    def refused(self, body: bytes) -> bytes:
        """The client's form of *body*, the JSON of an error."""

    def events(self) -> EventRewrite | None:
        """The rewrite of a stream's events; None: events are forwarded unchanged."""


@dataclass(frozen=True, slots=True)
class ChatRewrite:
    """Common to all rewrites of chat completions. *names* translates field names in errors."""

    names: ParamNames

    @property
    def limit(self) -> int:
        return 64 << 20  # far more than any completion

    def too_large(self) -> UpstreamError:
        return UpstreamError(f"the worker's response has more than {self.limit >> 20} MiB")

    def refused(self, body: bytes) -> bytes:
        return self.names.error_body(body)


def error_in(body: str | bytes) -> dict[str, Any] | None:
    """The error object in the JSON *body* of a response or event; None: there is none."""
    try:
        error = json.loads(body)["error"]
        return {**error, "message": str(error["message"])}
    except (ValueError, KeyError, TypeError):
        return None
