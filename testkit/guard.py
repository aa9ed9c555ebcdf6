"""Fails a test that starts a process or imports MLX without the corresponding mark.

`make test` runs the tests without these marks, so an unmarked one would slow it down. Python reports
both actions as audit events (PEP 578), which no test can avoid by accident.
"""

from __future__ import annotations

import sys
from typing import Any

STARTS = frozenset(
    {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.exec", "os.system"}
)
MLX = frozenset({"mlx", "mlx.core"})


class Guard:
    """Watches one test; *allowed* are the names of its marks."""

    def __init__(self) -> None:
        self._allowed: frozenset[str] | None = None
        self.found: list[str] = []

    def install(self) -> None:
        sys.addaudithook(self.see)  # permanent: Python cannot remove an audit hook

    def begin(self, allowed: frozenset[str]) -> None:
        self._allowed, self.found = allowed, []

    def end(self) -> list[str]:
        """The actions of the test that lack a mark."""
        self._allowed = None
        return self.found

    def see(self, event: str, args: tuple[Any, ...]) -> None:
        allowed = self._allowed
        if allowed is None:
            return
        if event in STARTS:
            if "process" not in allowed:
                self.found.append(f"{event} {args[:2]!r}"[:200] + ": mark it process")
        elif event == "import" and args[0] in MLX and "mlx" not in allowed:
            self.found.append(f"import of {args[0]}: mark it mlx")
