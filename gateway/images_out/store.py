"""Pictures that were asked for as URLs: kept in memory for a while, found by their tokens.

Rules: no I/O; time is a parameter. What is kept is bounded in bytes, the oldest goes first; what has
expired is never given out. A token is all that is needed to see a picture, so it can't be guessed, and
stands in no log. A restart of the gateway forgets them all.
"""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

_TOKEN_BYTES = 24  # 192 bits


class NoRoom(Exception):
    """The pictures are larger together than what may be kept."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A file: its format (png, jpeg, webp) and its bytes."""

    form: str
    data: bytes = field(repr=False)

    @property
    def content_type(self) -> str:
        return f"image/{self.form}"


@dataclass(frozen=True, slots=True)
class _Kept:
    picture: Picture
    expires_at: float


class Pictures:
    """*ttl_s*: seconds that a picture is kept; *limit*: bytes of all of them."""

    def __init__(
        self, ttl_s: float, limit: int, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.ttl_s = ttl_s
        self.limit = limit
        self._clock = clock
        self._kept: OrderedDict[str, _Kept] = OrderedDict()  # oldest first, so the next to expire too
        self._bytes = 0

    @property
    def nbytes(self) -> int:
        return self._bytes

    def __repr__(self) -> str:
        return f"<Pictures {len(self._kept)}, {self._bytes} of {self.limit} bytes>"

    def put(self, pictures: Sequence[Picture]) -> list[str]:
        """Keep the *pictures* of one answer; their tokens. Raises ``NoRoom``: all are kept, or none."""
        wanted = sum(len(picture.data) for picture in pictures)
        if wanted > self.limit:
            raise NoRoom
        self.sweep()
        while self._bytes + wanted > self.limit:
            self._drop_oldest()
        expires_at = self._clock() + self.ttl_s
        tokens = []
        for picture in pictures:
            token = secrets.token_urlsafe(_TOKEN_BYTES)
            self._kept[token] = _Kept(picture, expires_at)
            tokens.append(token)
        self._bytes += wanted
        return tokens

    def get(self, token: str) -> tuple[Picture, float] | None:
        """The picture and the seconds that it is kept still; None when it is gone, or never was."""
        self.sweep()
        kept = self._kept.get(token)
        return None if kept is None else (kept.picture, kept.expires_at - self._clock())

    def sweep(self) -> None:
        """Let go of what has expired."""
        now = self._clock()
        while self._kept and next(iter(self._kept.values())).expires_at <= now:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        _, kept = self._kept.popitem(last=False)
        self._bytes -= len(kept.picture.data)
