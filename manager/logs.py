"""Worker logs: one rotated file per alias, with the last lines also in memory.

Rules: file errors never affect the worker. Output is always accepted at once; bytes that cannot be
written are counted and dropped, and the file notes the gap later. ``write`` is called from the threads
that read the workers' pipes. ``last_lines`` is called from anywhere and never waits for the disk.
Followers get each line from memory as it is written: a slow follower loses lines, a full disk does not
matter, and a follower stays subscribed when the worker restarts.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path

log = logging.getLogger(__name__)

KEPT_FILES = 3  # rotated files, without the current one
KEPT_LINES = 50
LINE_LIMIT = 1000  # bytes of a line that are kept in memory
FOLLOWER_LINES = 1000  # unread lines of one follower
RETRY_S = 5.0  # after a write error

_LINE_END = re.compile(rb"[\r\n]+")  # progress bars end their lines with \r
# Terminal escape sequences; control characters; Unicode line ends and text directions.
_CONTROL = re.compile(
    r"(?:\x1b\[|\x9b)[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]"
)


class Follower:
    """Lines as they are written, in batches; iterate over it in the event loop that created it.

    Each batch has at least one line, except the first: it contains the previous lines, without a wait.
    Cancelling a wait loses no line.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._unread = deque(lines, maxlen=FOLLOWER_LINES)
        self._skipped = 0
        self._ended = False
        self._woken = True  # or scheduled to be
        self._wake = asyncio.Event()
        self._wake.set()

    def __repr__(self) -> str:
        return f"<Follower unread={len(self._unread)} skipped={self._skipped} ended={self._ended}>"

    def put(self, lines: list[str], *, end: bool = False) -> None:
        """From any thread; never waits for the follower, never raises."""
        with self._lock:
            self._skipped += max(0, len(self._unread) + len(lines) - FOLLOWER_LINES)
            self._unread.extend(lines)
            self._ended = self._ended or end
            if self._woken:
                return
            self._woken = True
        with contextlib.suppress(RuntimeError):  # its loop is closed
            self._loop.call_soon_threadsafe(self._wake.set)

    def __aiter__(self) -> Follower:
        return self

    async def __anext__(self) -> list[str]:
        await self._wake.wait()
        with self._lock:
            lines, skipped = list(self._unread), self._skipped
            self._unread.clear()
            self._skipped = 0
            if not self._ended:
                self._wake.clear()
                self._woken = False
            elif not lines:
                raise StopAsyncIteration
        return [f"[manager: {skipped} lines were skipped here]", *lines] if skipped else lines


class WorkerLog:
    """The log of one alias; it outlives the alias's processes."""

    def __init__(
        self, path: Path, max_bytes: int, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._clock = clock
        self._file_lock = threading.Lock()  # output of two processes can overlap briefly
        self._lines_lock = threading.Lock()
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._partial = b""
        self._followers: set[Follower] = set()
        self._closed = False
        self._fd = -1
        self._size = 0
        self._retry_at = float("-inf")
        self._lost = 0

    def __repr__(self) -> str:
        return (
            f"<WorkerLog {self.path.name} {self._size} of {self._max_bytes} bytes, lost {self._lost}>"
        )

    def begin(self) -> None:
        """Forget the last lines of the previous process, because a new one writes from now on."""
        with self._lines_lock:
            self._notify(_clean(self._partial))  # the last line may have had no line end
            self._lines.clear()
            self._partial = b""

    def write(self, data: bytes) -> None:
        """Store *data*; never raises."""
        self._remember(data)
        with self._file_lock:
            self._store(data)

    def last_lines(self, count: int = KEPT_LINES) -> list[str]:
        """The last *count* lines that are not blank, oldest first, without control characters."""
        with self._lines_lock:
            lines = [*self._lines, *_clean(self._partial)]
        return lines[-count:]

    @contextlib.asynccontextmanager
    async def follow(self, lines: int = KEPT_LINES) -> AsyncIterator[Follower]:
        """The last *lines* complete lines, then each new line, until ``close``."""
        with self._lines_lock:  # so that no line is missed or repeated in between
            follower = Follower([*self._lines][-lines:] if lines > 0 else [])
            self._followers.add(follower)
            if self._closed:
                follower.put([], end=True)
        try:
            yield follower
        finally:
            with self._lines_lock:
                self._followers.discard(follower)

    def close(self) -> None:
        with self._lines_lock:
            unfinished = _clean(self._partial)
            self._lines.extend(unfinished)
            self._notify(unfinished, end=True)
            self._partial, self._closed = b"", True
        with self._file_lock:
            self._close()

    def _remember(self, data: bytes) -> None:
        with self._lines_lock:
            *whole, partial = _LINE_END.split(self._partial + data)
            self._partial = partial[:LINE_LIMIT]
            fresh = [text for line in whole for text in _clean(line[:LINE_LIMIT])]
            self._lines.extend(fresh)
            self._notify(fresh)

    def _notify(self, lines: list[str], *, end: bool = False) -> None:
        if lines or end:
            for follower in self._followers:
                follower.put(lines, end=end)

    def _store(self, data: bytes) -> None:
        if self._clock() < self._retry_at:
            self._lost += len(data)
            return
        try:
            if self._fd < 0:
                self._open()
            if self._size and self._size + len(data) > self._max_bytes:
                self._rotate()
            if self._lost:
                self._append(b"\n[manager: %d bytes of output were lost here]\n" % self._lost)
                self._lost = 0
            self._append(data)
        except OSError as exc:
            if not self._lost:
                log.warning("%s: output cannot be stored: %s", self.path, exc.strerror)
            self._lost += len(data)
            self._retry_at = self._clock() + RETRY_S
            self._close()

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._size = os.fstat(self._fd).st_size

    def _append(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            written = os.write(self._fd, view)
            self._size += written
            view = view[written:]

    def _rotate(self) -> None:
        self._close()
        for number in range(KEPT_FILES, 0, -1):
            older = self.path.with_name(f"{self.path.name}.{number - 1}") if number > 1 else self.path
            with contextlib.suppress(FileNotFoundError):
                older.replace(self.path.with_name(f"{self.path.name}.{number}"))
        self._open()

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _clean(line: bytes) -> list[str]:
    text = _CONTROL.sub("", line.decode("utf-8", "replace")).strip()
    return [text] if text else []
