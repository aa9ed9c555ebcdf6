"""Images that were requested as URLs: kept in memory for a while, found by their tokens.

Rules: no I/O; time is a parameter. The store is bounded in bytes and drops the oldest first; expired
images are never returned. A token alone gives access to an image, so it can't be guessed and is never
logged. A restart of the gateway drops all.
"""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

_TOKEN_BYTES = 24  # 192 bits


class StoreFull(Exception):
    """The images together are larger than the store."""


@dataclass(frozen=True, slots=True)
class StoredImage:
    """A file: its format (png, jpeg, webp) and its bytes."""

    form: str
    data: bytes = field(repr=False)

    @property
    def content_type(self) -> str:
        return f"image/{self.form}"


@dataclass(frozen=True, slots=True)
class _Kept:
    image: StoredImage
    expires_at: float


class ImageStore:
    """*ttl_s*: seconds that an image is kept; *limit*: bytes of all images."""

    def __init__(
        self, ttl_s: float, limit: int, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.ttl_s = ttl_s
        self.limit = limit
        self._clock = clock
        self._kept: OrderedDict[str, _Kept] = OrderedDict()  # oldest first, which expires first
        self._bytes = 0

    @property
    def nbytes(self) -> int:
        return self._bytes

    def __repr__(self) -> str:
        return f"<ImageStore {len(self._kept)}, {self._bytes} of {self.limit} bytes>"

    def put(self, images: Sequence[StoredImage]) -> list[str]:
        """Store the *images* of one response; returns their tokens. Raises ``StoreFull`` and stores
        none.
        """
        size = sum(len(image.data) for image in images)
        if size > self.limit:
            raise StoreFull
        self.sweep()
        while self._bytes + size > self.limit:
            self._drop_oldest()
        expires_at = self._clock() + self.ttl_s
        tokens = []
        for image in images:
            token = secrets.token_urlsafe(_TOKEN_BYTES)
            self._kept[token] = _Kept(image, expires_at)
            tokens.append(token)
        self._bytes += size
        return tokens

    def get(self, token: str) -> tuple[StoredImage, float] | None:
        """The image and its remaining seconds; None: expired or unknown."""
        self.sweep()
        kept = self._kept.get(token)
        return None if kept is None else (kept.image, kept.expires_at - self._clock())

    def sweep(self) -> None:
        """Drop expired images."""
        now = self._clock()
        while self._kept and next(iter(self._kept.values())).expires_at <= now:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        _, kept = self._kept.popitem(last=False)
        self._bytes -= len(kept.image.data)
