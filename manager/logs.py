"""What a worker writes: kept in one rotated file per alias, its last lines also in memory.

Rules: nothing that happens to the file reaches the worker. Output is always taken at once; what a full
or vanished disk can't hold is counted and dropped, and the file notes the gap when there is room again.
``write`` is called from the threads that read the workers' pipes, ``last_lines`` from anywhere, and the
latter never waits for a disk.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)

KEPT_FILES = 3  # besides the current one
KEPT_LINES = 50
LINE_LIMIT = 1000  # bytes of a line that are kept in memory
RETRY_S = 5.0  # after the disk refused

_LINE_END = re.compile(rb"[\r\n]+")  # progress bars end their lines with \r
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")


class WorkerLog:
    """The log of one alias; it outlives the alias's processes."""

    def __init__(
        self, path: Path, max_bytes: int, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._clock = clock
        self._file_lock = threading.Lock()  # two processes' pumps can overlap by a moment
        self._lines_lock = threading.Lock()
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._partial = b""
        self._fd = -1
        self._size = 0
        self._retry_at = float("-inf")
        self._lost = 0

    def __repr__(self) -> str:
        return (
            f"<WorkerLog {self.path.name} {self._size} of {self._max_bytes} bytes, lost {self._lost}>"
        )

    def begin(self) -> None:
        """A new process writes from now on: forget the last lines of the one before."""
        with self._lines_lock:
            self._lines.clear()
            self._partial = b""

    def write(self, data: bytes) -> None:
        """Keep *data*; never raises."""
        self._remember(data)
        with self._file_lock:
            self._store(data)

    def last_lines(self, count: int = KEPT_LINES) -> list[str]:
        """The last *count* lines that are not blank, oldest first, without control characters."""
        with self._lines_lock:
            lines = [*self._lines, *_clean(self._partial)]
        return lines[-count:]

    def close(self) -> None:
        with self._file_lock:
            self._close()

    def _remember(self, data: bytes) -> None:
        with self._lines_lock:
            *whole, partial = _LINE_END.split(self._partial + data)
            self._partial = partial[:LINE_LIMIT]
            for line in whole:
                self._lines.extend(_clean(line[:LINE_LIMIT]))

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
                log.warning("%s: output is not being kept: %s", self.path, exc.strerror)
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
