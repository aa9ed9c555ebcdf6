"""Server-sent events: the one writer and the one parser of all tiers. Pure, standard library only.

Rules: an event is one or more ``data`` lines and an optional name. Comments carry progress: people read
them in curl, and they keep proxies from closing an idle stream. The parser keeps data and comments, and
drops the rest. Format: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

MEDIA_TYPE = "text/event-stream"
CONTENT_TYPE = f"{MEDIA_TYPE}; charset=utf-8"
HEADERS = [(b"content-type", CONTENT_TYPE.encode()), (b"cache-control", b"no-cache")]  # raw ASGI


@dataclass(frozen=True, slots=True)
class Data:
    text: str


@dataclass(frozen=True, slots=True)
class Comment:
    text: str


# --- writing -------------------------------------------------------------------------------------


def event(data: Any, name: str | None = None, id: int | None = None) -> bytes:
    """One event with *data* as JSON. Values that JSON lacks become text; NaN raises ``ValueError``."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, default=str, separators=(",", ":"))
    head = "" if id is None else f"id: {id}\n"
    if name:
        head += f"event: {name}\n"
    return f"{head}data: {text}\n\n".encode("utf-8", "replace")


def comment(text: str) -> bytes:
    return f": {text}\n\n".encode()


def error_event(body: Any) -> bytes:
    """The last event of a stream that failed. OpenAI's SDKs raise it as an ``APIError``."""
    # The blank line ends an event that was cut in the middle.
    return b"\n\nevent: error\ndata: " + json.dumps(body).encode() + b"\n\n"


# --- parsing -------------------------------------------------------------------------------------


class EventReader:
    """Parses a stream that arrives in chunks of any size.

    ``feed`` returns the events and comments that the new bytes complete. Only line feeds end a line:
    JSON may hold U+2028, where ``str.splitlines`` would split.
    """

    def __init__(self) -> None:
        self._line = bytearray()  # the line that has not ended yet
        self._data: list[str] = []  # the data lines of the event that has not ended yet

    def feed(self, chunk: bytes) -> list[Data | Comment]:
        found: list[Data | Comment] = []
        # Search only the new bytes: an image is one long line that arrives in many chunks.
        first, *rest = chunk.split(b"\n")
        self._line += first
        for piece in rest:
            self._take(self._line.removesuffix(b"\r").decode(errors="replace"), found)
            self._line = bytearray(piece)
        return found

    def _take(self, line: str, found: list[Data | Comment]) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if self._data:
                found.append(Data("\n".join(self._data)))
            self._data = []
        elif not name:
            found.append(Comment(value))
        elif name == "data":
            self._data.append(value)


def read(chunks: Iterable[bytes]) -> Iterator[Data | Comment]:
    """The events and comments in *chunks*; an incomplete last event is dropped."""
    reader = EventReader()
    for chunk in chunks:
        yield from reader.feed(chunk)
