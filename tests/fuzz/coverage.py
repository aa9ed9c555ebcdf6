"""Which lines of some files run for the first time.

Lines that were seen cost next to nothing: on Python 3.12 and later the interpreter stops reporting
them; on 3.11 a function is no longer traced once all of its lines were seen.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any


class Lines:
    """Counts lines of the files whose names start with one of *prefixes*."""

    def __init__(self, prefixes: Sequence[str]) -> None:
        self._prefixes = tuple(prefixes)
        self._seen: set[tuple[CodeType, int]] = set()
        self._unseen: dict[CodeType, set[int]] = {}

    def __len__(self) -> int:
        return len(self._seen)

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count the lines that this thread runs in the block."""
        if sys.version_info >= (3, 12):
            with self._monitored():
                yield
        else:
            before = sys.gettrace()
            sys.settrace(self._trace)
            try:
                yield
            finally:
                sys.settrace(before)

    # --- 3.11 ------------------------------------------------------------------------------------

    def _trace(self, frame: FrameType, event: str, arg: object) -> Callable[..., Any] | None:
        code = frame.f_code
        unseen = self._unseen.get(code)
        if unseen is None:
            ours = code.co_filename.startswith(self._prefixes)
            unseen = {line for _, _, line in code.co_lines() if line} if ours else set()
            self._unseen[code] = unseen
        if not unseen:
            return None

        def line(frame: FrameType, event: str, arg: object) -> Callable[..., Any]:
            if frame.f_lineno in unseen:
                unseen.discard(frame.f_lineno)
                self._seen.add((code, frame.f_lineno))
            return line

        return line

    # --- 3.12 and later --------------------------------------------------------------------------

    if sys.version_info >= (3, 12):

        @contextmanager
        def _monitored(self) -> Iterator[None]:
            monitoring = sys.monitoring
            tool = monitoring.COVERAGE_ID

            def line(code: CodeType, number: int) -> Any:
                if code.co_filename.startswith(self._prefixes):
                    self._seen.add((code, number))
                return monitoring.DISABLE

            monitoring.use_tool_id(tool, "fuzz")
            monitoring.register_callback(tool, monitoring.events.LINE, line)
            monitoring.set_events(tool, monitoring.events.LINE)
            monitoring.restart_events()  # lines that another instance has seen are new to this one
            try:
                yield
            finally:
                monitoring.set_events(tool, 0)
                monitoring.free_tool_id(tool)
