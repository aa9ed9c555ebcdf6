"""How far a connection is in sending its request, and when it has taken too long. Pure.

Time is counted in ticks, and only while the server waits for the client: not while a response is
generated or streamed, and not while reading is paused. So a busy or suspended server blames no client,
and no request needs a clock reading.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

_CHUNK = 20  # overhead in bytes that a chunk of one byte may have


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one connection, in bytes and seconds."""

    connections: int = 1024  # of the whole process
    url: int = 8 << 10
    head: int = 64 << 10  # the request line and all headers
    headers: int = 100
    head_s: float = 20.0  # for the whole head, from its first byte or from the start of the connection
    silence_s: float = 30.0  # without a byte, while a body is incomplete
    body_s: float = 30.0  # for a body, plus one second per ``body_rate`` bytes received
    body_rate: int = 1 << 10  # slow uploads over bad Wi-Fi are ten times faster
    tick_s: float = 1.0


class Stage(Enum):
    HEAD = auto()
    BODY = auto()
    LEFTOVER = auto()  # the rest of a body that was answered before it was complete
    DONE = auto()  # the request is complete: its response is under way, or the connection idles


class ReceiveTimer:
    """The state of one connection. ``size``: bytes received in this stage."""

    __slots__ = ("_body_bytes", "_limits", "_silent_s", "_waited_s", "size", "stage")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.enter(Stage.HEAD)  # a new connection is expected to send something

    def __repr__(self) -> str:
        return f"<ReceiveTimer {self.stage.name} [{self.size} bytes, waited {self._waited_s} s]>"

    def enter(self, stage: Stage) -> None:
        self.stage = stage
        self.size = self._body_bytes = 0
        self._waited_s = self._silent_s = 0.0

    def received(self, size: int) -> None:
        """*size* bytes have arrived."""
        self.size += size
        self._silent_s = 0.0

    def received_body(self, size: int) -> None:
        """*size* of those bytes belong to the body."""
        self._body_bytes += size

    @property
    def framing_bytes(self) -> int:
        """Bytes of the body stage that are neither body nor chunk sizes."""
        return self.size - (1 + _CHUNK) * self._body_bytes

    def tick(self, seconds: float) -> bool:
        """Count *seconds* of waiting for the client. Returns True when it has taken too long."""
        if self.stage is Stage.DONE:
            return False
        self._waited_s += seconds
        self._silent_s += seconds
        limits = self._limits
        if self.stage is Stage.HEAD:
            return self._waited_s >= limits.head_s
        if self.stage is Stage.LEFTOVER:
            return self._waited_s >= limits.body_s
        return (
            self._silent_s >= limits.silence_s
            or self._waited_s >= limits.body_s + self.size / limits.body_rate
        )
