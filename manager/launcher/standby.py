"""Standby workers: processes with their libraries imported, so that a cold start only loads the model.

Rules: a standby worker is a worker without a model yet. Once it gets a spec it is that worker, and its
memory is part of that worker's charge. Standby workers give way to workers: the pool says how many fit
in the budget (``limit``), the others are dismissed. One that exits unexpectedly is not replaced at
once.
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
from manager.launcher import stop_ladder
from manager.launcher.process import (
    Handle,
    Launcher,
    LaunchFailed,
    LaunchSpec,
    Output,
    exit_text,
)

log = logging.getLogger(__name__)

READY_LINE = b"standby ready"
FIRST_ESTIMATE = GIB // 2  # bytes, until one has been measured
DEFAULT_FROM = 24 * GIB  # system memory; with less, models need all of it
_RETRY_S = 60.0  # after one exited unexpectedly
_GRACE_S = 2.0


class Parked(Protocol):
    """A process that waits for its spec."""

    @property
    def handle(self) -> Handle: ...

    def adopt(self, spec: LaunchSpec, output: Output) -> Handle:
        """Make it the worker of *spec*. Raises ``LaunchFailed`` when it has ended."""


class Parker(Launcher, Protocol):
    """A launcher that can also start standby processes."""

    async def park(self, kinds: Sequence[str], output: Output) -> Parked:
        """Start a process that imports the libraries for *kinds*. Raises ``LaunchFailed``."""


class Standbys:
    """A ``Launcher`` that uses a standby process if there is one, and keeps up to *size* of them."""

    def __init__(
        self,
        launcher: Parker,
        kinds: Sequence[str],
        size: int,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.memory_each = FIRST_ESTIMATE
        self._launcher = launcher
        self._kinds = tuple(kinds)
        self._size = size
        self._clock = clock
        self._parked: list[_Standby] = []
        self._leaving: set[asyncio.Task[None]] = set()
        self._starting: asyncio.Task[None] | None = None
        self._not_before = float("-inf")
        self._closed = False

    def __repr__(self) -> str:
        return f"<Standbys {self.count} of {self._size}, {self.ready} ready>"

    @property
    def count(self) -> int:
        return len(self._parked) + (self._starting is not None)

    def memory(self, *, adopted: int) -> int:
        """Their memory in bytes, after *adopted* of them have become workers."""
        return (max(0, self.count - adopted) + len(self._leaving)) * self.memory_each

    @property
    def ready(self) -> int:
        """The number that have imported their libraries."""
        return sum(standby.ready for standby in self._parked)

    def obstacle(self, model: VlmSettings | ImageSettings) -> str:
        return self._launcher.obstacle(model)

    async def launch(self, spec: LaunchSpec, output: Output) -> Handle:
        while self._parked:
            # Prefer one that is ready.
            standby = max(self._parked, key=lambda s: s.ready)
            self._parked.remove(standby)
            with contextlib.suppress(LaunchFailed):
                return standby.adopt(spec, output)
        return await self._launcher.launch(spec, output)

    def limit(self, fitting: int, *, may_start: bool) -> None:
        """Keep at most *fitting*: dismiss the others, or start one if there may be more."""
        if self._closed:
            return
        target = min(self._size, fitting)
        for standby in self._parked[target:]:
            self._dismiss(standby)
        del self._parked[target:]
        if may_start and self.count < target and self._clock() >= self._not_before:
            self._starting = asyncio.create_task(self._start(), name="standby")

    async def measure(self) -> None:
        """Measure them; the result is the charge for each from now on."""
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
            standby.parked = await self._launcher.park(self._kinds, standby.take_output)
        except LaunchFailed as exc:
            log.warning("no standby worker: %s", exc)
            self._not_before = self._clock() + _RETRY_S
        else:
            self._parked.append(standby)
            standby.watcher = asyncio.create_task(self._watch(standby), name="standby-watch")
        finally:
            self._starting = None

    async def _watch(self, standby: _Standby) -> None:
        """Remove *standby* if it exits unexpectedly."""
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
        await stop_ladder.stop(handle, asyncio.ensure_future(handle.wait()), _GRACE_S)


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

    def take_output(self, data: bytes) -> None:
        """Its output before it is adopted; called from a thread."""
        self.ready = self.ready or READY_LINE in data
        lines = data.decode("utf-8", "replace").split("\n")
        self.last_line = next((line for line in reversed(lines) if line.strip()), self.last_line)
