"""One request's record: filled in as the request passes through a tier, then written as one log line.

Rules: no clock (times are parameters). No images, and of a prompt only what the settings allow.
``None`` means unknown. ``str()`` is the line for people, ``fields`` the one for machines.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from starlette.types import Scope

CLIENT_GONE = 499  # only in the log: the client is gone

# Responses report usage at their end, streams in their last events; chats and images alike.
_TAIL = 768  # bytes
_TOKENS_IN = re.compile(rb'"(?:prompt|input)_tokens":\s?(\d{1,12})')
_TOKENS_OUT = re.compile(rb'"(?:completion|output)_tokens":\s?(\d{1,12})')
_TOKENS_CACHED = re.compile(rb'"cached_tokens":\s?(\d{1,12})')


class Usage(NamedTuple):
    prompt: int | None = None
    completion: int | None = None
    cached: int | None = None  # prompt tokens taken from the prefix cache


@dataclass(slots=True)
class RequestRecord:
    """``status`` 0: no response has begun. Times in milliseconds."""

    began_at: float  # seconds, from the clock that ``total_ms`` is measured with
    method: str = ""
    path: str = ""
    request_id: str = "-"
    key: str = ""  # name of the API key
    alias: str = "-"
    status: int = 0
    queue_ms: int | None = None
    load_ms: int | None = None
    model_ms: int | None = None
    streamed: bool = False  # the client requested a stream
    first_output_ms: float | None = None  # until the first chunk that is not a comment
    repeated: int = 0  # how often the request was sent to its worker again
    total_ms: float = 0.0
    bytes_out: int = 0  # of the response body
    error: str = ""  # why the request was refused, failed or broke off
    prompt: str = ""  # beginning of the prompt, if the settings allow it
    tail: bytes = field(default=b"", repr=False)  # end of the response body
    _usage: Usage | None = field(default=None, repr=False)  # parsed from ``tail``, on demand

    def note(self, chunk: bytes) -> None:
        """*chunk* of the response body has been sent."""
        self.bytes_out += len(chunk)
        self._usage = None
        self.tail = chunk[-_TAIL:] if len(chunk) >= _TAIL else (self.tail + chunk)[-_TAIL:]

    @property
    def usage(self) -> Usage:
        """Prompt and completion tokens, as the model counted them."""
        if self._usage is None:
            found = (_last(pattern, self.tail) for pattern in (_TOKENS_IN, _TOKENS_OUT, _TOKENS_CACHED))
            self._usage = Usage(*found)
        return self._usage

    def fields(self) -> dict[str, Any]:
        """The known fields, in the order of the log line."""
        usage = self.usage if self.alias != "-" else Usage()
        known = {
            "method": self.method,
            "path": self.path,
            "request_id": self.request_id,
            "key": self.key or None,
            "alias": self.alias,
            "status": self.status,
            "queue_ms": self.queue_ms,
            "load_ms": self.load_ms,
            "model_ms": self.model_ms,
            "total_ms": round(self.total_ms, 1),
            "tokens_in": usage.prompt,
            "tokens_out": usage.completion,
            "bytes": self.bytes_out,
            "error": self.error or None,
            "prompt": self.prompt or None,
        }
        return {name: value for name, value in known.items() if value is not None}

    def __str__(self) -> str:
        fields = self.fields()
        first = f"{fields.pop('method')} {fields.pop('path')} [{fields.pop('request_id')}]"
        quoted = ("error", "prompt")
        rest = (f"{k}={v!r}" if k in quoted else f"{k}={v}" for k, v in fields.items())
        return f"{first} {' '.join(rest)}"


def has_output(chunk: bytes) -> bool:
    """Whether *chunk* of a response is more than an event stream comment."""
    return not chunk.startswith(b":") or b"\ndata:" in chunk


def record_of(scope: Scope) -> RequestRecord:
    """The record that ``web.access_log`` opened for the request of *scope*."""
    record: RequestRecord = scope["record"]
    return record


def _last(pattern: re.Pattern[bytes], tail: bytes) -> int | None:
    found = pattern.findall(tail)
    return int(found[-1]) if found else None
