"""Worker processes that wait with their libraries imported, so that a cold start has only to load.

Rules: a standby is a worker that has not been told yet what it serves; told, it *is* that worker, and
its memory is a part of that worker's charge. So it stands in nobody's way: the pool says how many fit
beside the workers (``limit``), the rest are dismissed. One that ends by itself is not replaced at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from contracts.settings.base import GIB
from contracts.settings.models import ImageSettings, VlmSettings
from manager.launcher.process import (
    Handle,
    Launcher,
    LaunchFailed,
    LaunchSpec,
    Output,
    StopSignal,
    exit_text,
)

log = logging.getLogger(__name__)

READY_LINE = b"standby ready"
FIRST_ESTIMATE = GIB // 2  # bytes, until one has been measured
TO_HAVE_FROM = 24 * GIB  # bytes of system memory: less than that, and models want all of it
_RETRY_S = 60.0  # after one has ended by itself
_GRACE_S = 2.0


class Parked(Protocol):
    """A process that is not told yet what it serves."""

    @property
    def handle(self) -> Handle: ...

    def adopt(self, spec: LaunchSpec, output: Output) -> Handle:
        """Make it the worker of *spec*. Raises ``LaunchFailed`` when it is gone."""


class Parker(Launcher, Protocol):
    """A launcher that can park processes."""

    async def park(self, kinds: Sequence[str], output: Output) -> Parked:
        """Start a process that imports what workers of *kinds* need. Raises ``LaunchFailed``."""


class Standbys:
    """A ``Launcher`` that takes a parked process when there is one; *wanted* of them are kept."""

    def __init__(
        self,
        launcher: Parker,
        kinds: Sequence[str],
        wanted: int,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.memory_each = FIRST_ESTIMATE
        self._launcher = launcher
        self._kinds = tuple(kinds)
        self._wanted = wanted
        self._clock = clock
        self._parked: list[_Standby] = []
        self._leaving: set[asyncio.Task[None]] = set()
        self._starting: asyncio.Task[None] | None = None
        self._not_before = float("-inf")
        self._closed = False

    def __repr__(self) -> str:
        return f"<Standbys {self.count} of {self._wanted}, {self.ready} ready>"

    @property
    def count(self) -> int:
        return len(self._parked) + (self._starting is not None)

    def memory(self, *, adopted: int) -> int:
        """Bytes that they take beside the workers once *adopted* of them have become workers."""
        return (max(0, self.count - adopted) + len(self._leaving)) * self.memory_each

    @property
    def ready(self) -> int:
        """Those that have imported all they can."""
        return sum(standby.ready for standby in self._parked)

    def obstacle(self, model: VlmSettings | ImageSettings) -> str:
        return self._launcher.obstacle(model)

    async def launch(self, spec: LaunchSpec, output: Output) -> Handle:
        while self._parked:
            # The one that has come furthest.
            standby = max(self._parked, key=lambda s: s.ready)
            self._parked.remove(standby)
            with contextlib.suppress(LaunchFailed):
                return standby.adopt(spec, output)
        return await self._launcher.launch(spec, output)

    def limit(self, fitting: int, *, may_start: bool) -> None:
        """There is room for *fitting*; dismisses those beyond, and starts one if there may be more."""
        if self._closed:
            return
        target = min(self._wanted, fitting)
        for standby in self._parked[target:]:
            self._dismiss(standby)
        del self._parked[target:]
        if may_start and self.count < target and self._clock() >= self._not_before:
            self._starting = asyncio.create_task(self._start(), name="standby")

    async def measure(self) -> None:
        """See how large they are: that is what each is charged from now on."""
        for standby in list(self._parked):
            footprint = await standby.handle.footprint()
            if footprint is not None and standby.ready:
                self.memory_each = max(1, footprint)

    async def close(self) -> None:
        self._closed = True
        if self._starting is not None:
            await asyncio.wait({self._starting})
        for standby in self._parked:
            self._dismiss(standby)
        self._parked.clear()
        if self._leaving:
            await asyncio.wait(self._leaving)

    async def _start(self) -> None:
        standby = _Standby()
        try:
            standby.parked = await self._launcher.park(self._kinds, standby.hear)
        except LaunchFailed as exc:
            log.warning("no standby worker: %s", exc)
            self._not_before = self._clock() + _RETRY_S
        else:
            self._parked.append(standby)
            standby.watcher = asyncio.create_task(self._see_off(standby), name="standby-watch")
        finally:
            self._starting = None

    async def _see_off(self, standby: _Standby) -> None:
        """Notices when it ends though nobody wanted that."""
        status = await standby.handle.wait()
        if standby in self._parked:
            self._parked.remove(standby)
            self._not_before = self._clock() + _RETRY_S
            log.warning("a standby worker ended (%s): %s", exit_text(status), standby.last_line or "-")

    def _dismiss(self, standby: _Standby) -> None:
        task = asyncio.create_task(self._end(standby.handle), name="standby-end")
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _end(self, handle: Handle) -> None:
        handle.signal(StopSignal.TERMINATE)
        try:
            async with asyncio.timeout(_GRACE_S):
                await handle.wait()
        except TimeoutError:
            handle.signal(StopSignal.KILL)
            await handle.wait()


class _Standby:
    def __init__(self) -> None:
        self.parked: Parked | None = None
        self.ready = False
        self.last_line = ""
        self.watcher: asyncio.Task[None] | None = None

    @property
    def handle(self) -> Handle:
        assert self.parked is not None
        return self.parked.handle

    def adopt(self, spec: LaunchSpec, output: Output) -> Handle:
        assert self.parked is not None
        return self.parked.adopt(spec, output)

    def hear(self, data: bytes) -> None:
        """What it says while it is parked; called from a thread."""
        self.ready = self.ready or READY_LINE in data
        lines = data.decode("utf-8", "replace").split("\n")
        self.last_line = next((line for line in reversed(lines) if line.strip()), self.last_line)
