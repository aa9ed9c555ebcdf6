"""How far a connection is in sending its request, and when it has taken too long. Pure.

Time comes in ticks and only counts while the client is waited for: not while its answer is made or
streams, and not while we don't read. So a busy server, or one that was suspended, blames nobody, and
nothing of this reads a clock for each request.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

_CHUNK = 20  # bytes that a chunk of one byte may take besides


@dataclass(frozen=True, slots=True)
class Limits:
    """What one connection may take. Bytes and seconds."""

    connections: int = 1024  # in all
    url: int = 8 << 10
    head: int = 64 << 10  # the request line and all headers
    headers: int = 100
    head_s: float = 20.0  # for the whole head, from its first byte; of a new connection from its begin
    silence_s: float = 30.0  # without a byte of a body that is not complete
    body_s: float = 30.0  # for a body, and a second more for each ``body_rate`` bytes that came
    body_rate: int = 1 << 10  # a slow upload over a bad Wi-Fi is ten times as fast
    tick_s: float = 1.0


class Stage(Enum):
    HEAD = auto()
    BODY = auto()
    LEFTOVER = auto()  # of a body that was answered before it was whole
    DONE = auto()  # the request is there: its answer is made, or the keep-alive's time runs


class Intake:
    """Of one connection. ``size``: bytes that came in this stage."""

    __slots__ = ("_limits", "_passed", "_silent_s", "_waited_s", "size", "stage")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.enter(Stage.HEAD)  # whoever connects means to send something

    def __repr__(self) -> str:
        return f"<Intake {self.stage.name} [{self.size} bytes, waited {self._waited_s} s]>"

    def enter(self, stage: Stage) -> None:
        self.stage = stage
        self.size = self._passed = 0
        self._waited_s = self._silent_s = 0.0

    def took(self, size: int) -> None:
        """*size* bytes have come."""
        self.size += size
        self._silent_s = 0.0

    def passed(self, size: int) -> None:
        """*size* bytes of them were of the body."""
        self._passed += size

    @property
    def framing(self) -> int:
        """The bytes of a body's stage that are neither of the body nor of its chunks' lengths."""
        return self.size - (1 + _CHUNK) * self._passed

    def tick(self, seconds: float) -> bool:
        """*seconds* were waited for the client; True: it has taken too long."""
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
