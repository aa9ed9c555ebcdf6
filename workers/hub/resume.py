"""Downloads one file of the Hub; an interrupted download resumes where it ended.

``huggingface_hub`` (1.33) starts again from the beginning: it writes to a name that no later process
can find, and removes the file when it fails. So the bytes are downloaded here, to
``blobs/<etag>.incomplete`` in its own cache, where it finds the complete file and links it.
Rules: bytes on the disk are kept however the process ends. A file gets its final name only after its
hash was checked. A broken connection is resumed as long as each attempt brings new bytes.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import httpx

log = logging.getLogger(__name__)

PAUSES_S = (1.0, 2.0, 4.0, 8.0)  # before the next attempt, after attempts without a new byte
RETRYABLE = frozenset({408, 429, 500, 502, 503, 504})
_HASH_CHUNK = 1 << 22  # bytes
_SHA256 = re.compile(r"[0-9a-f]{64}")  # the etag of a large file
_GIT_SHA1 = re.compile(r"[0-9a-f]{40}")  # the etag of other files: a git blob's

# Opens a URL at the given byte; raises ``httpx.HTTPError``.
Open = Callable[[str, int], AbstractContextManager[httpx.Response]]


class Stopped(Exception):
    """The download was stopped; its bytes are kept."""


class Damaged(Exception):
    """The hash is wrong, and the file was removed. The message names the file."""


@dataclass(frozen=True, slots=True)
class Blob:
    """A file to download. ``path`` is its final place, named by its etag; ``size`` in bytes."""

    name: str
    url: str
    path: Path
    size: int

    @property
    def partial(self) -> Path:
        return self.path.with_name(f"{self.path.name}.incomplete")

    def held(self) -> int:
        """The bytes that are on the disk."""
        for path in (self.path, self.partial):
            try:
                return min(path.stat().st_size, self.size)
            except FileNotFoundError:
                continue
        return 0


def fetch(
    blob: Blob,
    open_url: Open,
    stopped: threading.Event,
    *,
    pauses_s: tuple[float, ...] = PAUSES_S,
    on_hashed: Callable[[int], None] = lambda count: None,
) -> None:
    """Download the rest of *blob*, then check its hash. The caller holds its lock.

    *on_hashed* is called with the size of each hashed piece.
    Raises ``httpx.HTTPError``, ``OSError``, ``Damaged``, and ``Stopped`` once *stopped* is set.
    """
    idle = 0  # consecutive attempts without a new byte
    while (held := _resume_at(blob)) < blob.size:
        try:
            _append(blob, open_url, held, stopped)
        except httpx.HTTPError as exc:
            idle = 0 if blob.held() > held else idle + 1
            if idle > len(pauses_s) or not _retryable(exc):
                raise
            log.warning("%s: %s after %d of %d bytes", blob.name, exc, blob.held(), blob.size)
            if idle and stopped.wait(pauses_s[idle - 1]):
                raise Stopped from exc
    if not blob.size:
        blob.partial.touch()
    _check(blob, stopped, on_hashed)
    blob.partial.replace(blob.path)


def _resume_at(blob: Blob) -> int:
    """The byte to resume at. A partial file that is too long is removed."""
    try:
        size = blob.partial.stat().st_size
    except FileNotFoundError:
        return 0
    if size <= blob.size:
        return size
    blob.partial.unlink()
    return 0


def _append(blob: Blob, open_url: Open, start: int, stopped: threading.Event) -> None:
    with open_url(blob.url, start) as response, blob.partial.open("ab") as file:
        if start and response.status_code != httpx.codes.PARTIAL_CONTENT:
            file.truncate(0)  # the server sends the whole file
        # In the pieces in which it arrives: of larger ones, half could be lost with the connection.
        for piece in response.iter_bytes():
            if stopped.is_set():
                raise Stopped
            file.write(piece)
    if blob.held() < blob.size:
        raise httpx.RemoteProtocolError("the response ended early")


def _check(blob: Blob, stopped: threading.Event, on_hashed: Callable[[int], None]) -> None:
    etag = blob.path.name
    with blob.partial.open("rb") as file:
        os.fsync(file.fileno())
        if _SHA256.fullmatch(etag):
            found = _digest(hashlib.sha256(), file, stopped, on_hashed)
        elif _GIT_SHA1.fullmatch(etag):
            prefix = hashlib.sha1(b"blob %d\0" % blob.size, usedforsecurity=False)
            found = _digest(prefix, file, stopped, on_hashed)
        else:  # a mirror with other etags
            found = etag
    if found != etag or blob.partial.stat().st_size != blob.size:
        blob.partial.unlink()
        raise Damaged(
            f"{blob.name} arrived damaged (its hash is wrong); the next attempt downloads it again"
        )


def _digest(
    digest: Any, file: BinaryIO, stopped: threading.Event, on_hashed: Callable[[int], None]
) -> str:
    """The hash of *file*, computed in pieces. Raises ``Stopped``."""
    while piece := file.read(_HASH_CHUNK):
        if stopped.is_set():
            raise Stopped
        digest.update(piece)
        on_hashed(len(piece))
    return str(digest.hexdigest())


def _retryable(exc: httpx.HTTPError) -> bool:
    response: httpx.Response | None = getattr(exc, "response", None)
    return response is None or response.status_code in RETRYABLE
