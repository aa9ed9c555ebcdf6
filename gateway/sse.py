"""Server-sent events out of bytes that come in any pieces. Pure.

Only what is read here is kept: ``data`` lines and comments. Comments tell people and proxies that
something is still done, so they are passed on.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Data:
    text: str


@dataclass(frozen=True, slots=True)
class Comment:
    text: str


class EventReader:
    """``feed`` gives the events that the bytes so far complete; the rest waits for more."""

    def __init__(self) -> None:
        self._line = b""  # begun
        self._data: list[str] = []  # of the event that is not whole yet

    def feed(self, data: bytes) -> list[Data | Comment]:
        *lines, self._line = (self._line + data).split(b"\n")
        events: list[Data | Comment] = []
        for raw in lines:
            line = raw.rstrip(b"\r").decode(errors="replace")
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if line and not name:
                events.append(Comment(value))
            elif name == "data":
                self._data.append(value)
            elif not line and self._data:
                events.append(Data("\n".join(self._data)))
                self._data = []
        return events


def event(fields: dict[str, Any]) -> bytes:
    """An event named as its ``type`` says."""
    text = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
    return f"event: {fields['type']}\ndata: {text}\n\n".encode()


def comment(text: str) -> bytes:
    return f": {text}\n\n".encode()
