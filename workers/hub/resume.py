"""One file of the Hub, fetched so that a download that was cut goes on where it ended.

``huggingface_hub`` (1.33) begins again: it writes to a name that no later process can find, and removes
that when it fails. So the bytes are fetched here, to ``blobs/<etag>.incomplete`` of its own cache, and
it finds the whole file and links it.
Rules: what is on the disk is kept whatever ends the process; a file is renamed to its final name only
after its hash was compared; a cut connection is taken up again while there are new bytes each time.
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

PAUSES_S = (1.0, 2.0, 4.0, 8.0)  # before another attempt, after one that gave no new byte
WORTH_ANOTHER = frozenset({408, 429, 500, 502, 503, 504})
_HASHED_AT_ONCE = 1 << 22  # bytes
_SHA256 = re.compile(r"[0-9a-f]{64}")  # the etag of a large file
_GIT_SHA1 = re.compile(r"[0-9a-f]{40}")  # of any other: that of a git blob

# Opens a URL from the given byte on; raises ``httpx.HTTPError``.
Open = Callable[[str, int], AbstractContextManager[httpx.Response]]


class Stopped(Exception):
    """Nobody wants the file any more; what there is of it is kept."""


class Damaged(Exception):
    """What arrived is not the file; it has been removed. The message names the file."""


@dataclass(frozen=True, slots=True)
class Blob:
    """A file on its way: ``path`` is its final place, whose name is its etag; ``size`` in bytes."""

    name: str
    url: str
    path: Path
    size: int

    @property
    def partial(self) -> Path:
        return self.path.with_name(f"{self.path.name}.incomplete")

    def held(self) -> int:
        """The bytes of it that are on the disk already."""
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
    hashed: Callable[[int], None] = lambda count: None,
) -> None:
    """Fetch what is missing of *blob*, then compare its hash. The caller holds its lock.

    *hashed* is called with each number of bytes that were hashed.
    Raises ``httpx.HTTPError``, ``OSError``, ``Damaged``, and ``Stopped`` once *stopped* is set.
    """
    idle = 0  # attempts in a row without a new byte
    while (held := _sound(blob)) < blob.size:
        try:
            _append(blob, open_url, held, stopped)
        except httpx.HTTPError as exc:
            idle = 0 if blob.held() > held else idle + 1
            if idle > len(pauses_s) or not _worth_another(exc):
                raise
            log.warning("%s: %s after %d of %d bytes", blob.name, exc, blob.held(), blob.size)
            if idle and stopped.wait(pauses_s[idle - 1]):
                raise Stopped from exc
    if not blob.size:
        blob.partial.touch()
    _check(blob, stopped, hashed)
    blob.partial.replace(blob.path)


def _sound(blob: Blob) -> int:
    """The bytes to go on from; what can't be the beginning of the file is removed."""
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
            file.truncate(0)  # it sends all from the beginning
        # By the pieces that the network gives: larger ones would be lost by half when it breaks.
        for piece in response.iter_bytes():
            if stopped.is_set():
                raise Stopped
            file.write(piece)
    if blob.held() < blob.size:
        raise httpx.RemoteProtocolError("the answer ended early")


def _check(blob: Blob, stopped: threading.Event, hashed: Callable[[int], None]) -> None:
    etag = blob.path.name
    with blob.partial.open("rb") as file:
        os.fsync(file.fileno())
        if _SHA256.fullmatch(etag):
            found = _digest(hashlib.sha256(), file, stopped, hashed)
        elif _GIT_SHA1.fullmatch(etag):
            begun = hashlib.sha1(b"blob %d\0" % blob.size, usedforsecurity=False)
            found = _digest(begun, file, stopped, hashed)
        else:  # a mirror with etags of its own
            found = etag
    if found != etag or blob.partial.stat().st_size != blob.size:
        blob.partial.unlink()
        raise Damaged(f"{blob.name} arrived damaged (its hash is another); it will be fetched again")


def _digest(
    digest: Any, file: BinaryIO, stopped: threading.Event, hashed: Callable[[int], None]
) -> str:
    """The hash of *file*, in pieces, so that a stop and the progress are seen. Raises ``Stopped``."""
    while piece := file.read(_HASHED_AT_ONCE):
        if stopped.is_set():
            raise Stopped
        digest.update(piece)
        hashed(len(piece))
    return str(digest.hexdigest())


def _worth_another(exc: httpx.HTTPError) -> bool:
    response: httpx.Response | None = getattr(exc, "response", None)
    return response is None or response.status_code in WORTH_ANOTHER
