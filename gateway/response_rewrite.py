"""The seam for answers that don't go to the client as the model gave them.

Rules: a route whose answers are its own (pictures as URLs, another API over the same models) says so in
``Checked``; everything else is passed on byte for byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from contracts.errors import UpstreamError
from gateway.param_names import Names
from web.relay import EventRewrite


class Rewrite(Protocol):
    """What becomes of the answer to one request."""

    @property
    def limit(self) -> int:
        """Bytes of a whole answer that are taken; of more, ``too_large`` tells."""

    def too_large(self) -> Exception:
        """The ``ApiError`` for an answer beyond *limit*."""

    async def whole(self, body: bytes) -> bytes:
        """A 200's JSON *body* as the client gets it; raises an ``ApiError``."""

    def refused(self, body: bytes) -> bytes:
        """The JSON *body* of an error as the client gets it."""

    def events(self) -> EventRewrite | None:
        """For the events of a stream; None: they go on as they are."""


@dataclass(frozen=True, slots=True)
class ChatRewrite:
    """What all forms have in common that chats are answered in; *names* are for errors."""

    names: Names

    @property
    def limit(self) -> int:
        return 64 << 20  # far more than any model says

    def too_large(self) -> UpstreamError:
        return UpstreamError(f"the worker's answer has more than {self.limit >> 20} MiB")

    def refused(self, body: bytes) -> bytes:
        return self.names.error_body(body)
