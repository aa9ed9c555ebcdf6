"""Server-sent events as the gateway sends them, comments too: those tell what a request waits for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Comment:
    text: str


@dataclass(frozen=True, slots=True)
class Event:
    data: str


def read(chunks: Iterable[bytes]) -> Iterator[Comment | Event]:
    """The comments and events in *chunks*, however those are cut; one that is not whole is left out.

    Lines end at line feeds only: JSON may hold U+2028, at which ``str.splitlines`` would cut it.
    """
    data: list[str] = []
    for line in _lines(chunks):
        if not line:
            if data:
                yield Event("\n".join(data))
            data = []
        elif line.startswith(":"):
            yield Comment(line[1:].strip())
        elif line.startswith("data:"):
            data.append(line.removeprefix("data:").removeprefix(" "))


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    rest = bytearray()
    for chunk in chunks:
        # Only what is new is searched: a picture is one long line that comes in many pieces.
        first, *more = chunk.split(b"\n")
        rest += first
        for piece in more:
            yield rest.removesuffix(b"\r").decode("utf-8", "replace")
            rest = bytearray(piece)
