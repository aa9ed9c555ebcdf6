"""What one proxied request came to: filled while it passes through a tier, then one line in the log.

Rules: no clock (times are parameters), no content of a request; ``None`` is what is not known.
"""

from __future__ import annotations

from dataclasses import dataclass

from starlette.types import Scope

from web.request_id import HEADER as REQUEST_ID

KEY_NAME = "key_name"  # in the scope: the name of the key that the request came with
CLIENT_GONE = 499  # in the log only: there is nobody to send it to


@dataclass(slots=True)
class Account:
    """``status`` 0: no answer has begun. Times in milliseconds."""

    began_at: float  # seconds, by the clock that ``line`` is given the end of
    alias: str = "-"
    status: int = 0
    queue_ms: int | None = None
    load_ms: int | None = None
    model_ms: int | None = None
    bytes_out: int = 0  # of the answer's body
    error: str = ""  # why it was refused, failed or broke off

    def line(self, scope: Scope, ended_at: float) -> str:
        """The request of *scope* in one line."""
        text = (
            f"{scope['method']} {scope['path']} [{request_id(scope)}] alias={self.alias}"
            f" status={self.status}"
        )
        if KEY_NAME in scope:
            text += f" key={scope[KEY_NAME]}"
        if self.queue_ms is not None:
            text += f" queue_ms={self.queue_ms}"
        if self.load_ms is not None:
            text += f" load_ms={self.load_ms}"
        if self.model_ms is not None:
            text += f" model_ms={self.model_ms}"
        text += f" total_ms={(ended_at - self.began_at) * 1e3:.1f} bytes={self.bytes_out}"
        return f"{text} error={self.error!r}" if self.error else text


def request_id(scope: Scope) -> str:
    """The id that ``web.request_id`` has given; it stands last among the headers."""
    for key, value in reversed(scope["headers"]):
        if key == REQUEST_ID:
            return str(value, "latin-1")
    return "-"
