"""The seam to an engine that does many jobs at a time, beside ``engine.Engine`` for one at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeGuard

from workers.engine import Report


class Sink(Protocol):
    """The way back to whoever waits for a job. Nothing here raises; called on the model thread."""

    @property
    def cancelled(self) -> bool:
        """Does nobody wait any more?"""

    def begin(self) -> None:
        """The model works on the job from now on."""

    def put(self, event: Any) -> None: ...

    def end(self, error: BaseException | None) -> None:
        """The job is done, or failed, or given up because it is cancelled."""


class BatchEngine(Protocol):
    """One model that does many jobs at a time."""

    def load(self, report: Report) -> None:
        """As ``Engine.load``."""

    def read(self, job: Any) -> Any:
        """What ``admit`` takes, made of *job* on the reader thread; raises ``ApiError``."""

    def prepare(self) -> None:
        """Make what jobs may need later, on the reader thread, once, while nobody waits."""

    def admit(self, reading: Any, sink: Sink) -> None:
        """Take a job; first come, first served."""

    @property
    def busy(self) -> bool:
        """Are there jobs that have not ended?"""

    def step(self) -> None:
        """Go on with all jobs, for as long as some tokens take. What it raises has lost them all."""

    def close(self) -> None:
        """As ``Engine.close``."""


def does_many(engine: Any) -> TypeGuard[BatchEngine]:
    """Does *engine* do many jobs at a time?"""
    return hasattr(engine, "step")


class CallbackSink:
    """A sink that calls *emit* on the same thread; what it raises (``Cancelled``) ends the job."""

    def __init__(self, emit: Callable[[Any], None]) -> None:
        self._emit = emit
        self.ended = False
        self.error: BaseException | None = None

    @property
    def cancelled(self) -> bool:
        self._call(None)
        return self.error is not None

    def begin(self) -> None: ...

    def put(self, event: Any) -> None:
        self._call(event)

    def _call(self, event: Any) -> None:
        if self.error is None:
            try:
                self._emit(event)
            except BaseException as exc:
                self.error = exc

    def end(self, error: BaseException | None) -> None:
        self.ended = True
        self.error = self.error or error
