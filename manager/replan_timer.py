"""The timer that makes the pool plan again at the earliest of its deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

_SHORTEST_S = 0.001  # timers may fire early, by up to the clock resolution


class ReplanTimer:
    """One deadline suffices if *action* arms the timer again."""

    def __init__(self, clock: Callable[[], float], action: Callable[[], None]) -> None:
        self._clock = clock
        self._action = action
        self._handle: asyncio.TimerHandle | None = None
        self._deadline = 0.0

    def arm(self, deadline: float | None) -> None:
        """Run the action at *deadline* (by the clock) or before; None: no deadline."""
        if deadline is None:
            return
        if self._handle is not None:
            if self._deadline <= deadline:
                return
            self._handle.cancel()
        self._deadline = deadline
        delay = max(_SHORTEST_S, deadline - self._clock())
        self._handle = asyncio.get_running_loop().call_later(delay, self._run)

    def cancel(self) -> None:
        if self._handle is not None:
            self._handle.cancel()

    def _run(self) -> None:
        self._handle = None
        self._action()
