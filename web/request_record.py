"""What one request came to: filled while it passes through a tier, then one line in the log.

Rules: no clock (times are parameters); no picture, and of a prompt only what the settings ask for;
``None`` is what is not known. ``str`` of it is the line for people, ``fields`` the one for machines.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from starlette.types import Scope

CLIENT_GONE = 499  # in the log only: there is nobody to send it to

# Answers tell their usage at their end, streams in their last events: chats and pictures alike.
_TAIL = 768  # bytes
_TOKENS_IN = re.compile(rb'"(?:prompt|input)_tokens":\s?(\d{1,12})')
_TOKENS_OUT = re.compile(rb'"(?:completion|output)_tokens":\s?(\d{1,12})')
_TOKENS_CACHED = re.compile(rb'"cached_tokens":\s?(\d{1,12})')


class Usage(NamedTuple):
    prompt: int | None = None
    completion: int | None = None
    cached: int | None = None  # of the prompt, those that were not computed again


@dataclass(slots=True)
class Account:
    """``status`` 0: no answer has begun. Times in milliseconds."""

    began_at: float  # seconds, by whatever clock ``total_ms`` was read from
    method: str = ""
    path: str = ""
    request_id: str = "-"
    key: str = ""  # the name of the key that let it in
    alias: str = "-"
    status: int = 0
    queue_ms: int | None = None
    load_ms: int | None = None
    model_ms: int | None = None
    streamed: bool = False  # an answer in events was asked for
    first_output_ms: float | None = None  # until its first piece that is no comment
    repeated: int = 0  # how often it was sent once more to its worker
    total_ms: float = 0.0
    bytes_out: int = 0  # of the answer's body
    error: str = ""  # why it was refused, failed or broke off
    prompt: str = ""  # the beginning of what was asked, where the settings want it
    tail: bytes = field(default=b"", repr=False)  # of the answer's body
    _usage: Usage | None = field(default=None, repr=False)  # what ``tail`` says, once it was read

    def note(self, chunk: bytes) -> None:
        """*chunk* of the answer's body has gone out."""
        self.bytes_out += len(chunk)
        self._usage = None
        self.tail = chunk[-_TAIL:] if len(chunk) >= _TAIL else (self.tail + chunk)[-_TAIL:]

    @property
    def usage(self) -> Usage:
        """The tokens of prompt and answer, as the model counted them."""
        if self._usage is None:
            found = (_last(pattern, self.tail) for pattern in (_TOKENS_IN, _TOKENS_OUT, _TOKENS_CACHED))
            self._usage = Usage(*found)
        return self._usage

    def fields(self) -> dict[str, Any]:
        """What is known, in the order of the line."""
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


def says_something(chunk: bytes) -> bool:
    """Whether a piece of an answer is more than a comment of an event stream."""
    return not chunk.startswith(b":") or b"\ndata:" in chunk


def account_of(scope: Scope) -> Account:
    """The account that ``web.access`` opened for the request of *scope*."""
    account: Account = scope["account"]
    return account


def _last(pattern: re.Pattern[bytes], tail: bytes) -> int | None:
    found = pattern.findall(tail)
    return int(found[-1]) if found else None
