"""Engines without the model thread: a batch of one, and one job run to its end.

``SerialEngine`` gives the engine protocol to a model that runs one job after the other. ``run_job``
drives any engine on the calling thread, for warm-up, benchmarks and tests.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any, Generic

from workers.engine import Cancelled, Engine, Event, Job, Sink


class SerialEngine(ABC, Generic[Job, Event]):
    """Jobs run one after the other: ``step`` runs the oldest job from beginning to end.

    The model library owns the loop over its steps, so a running job is cancelled from within: ``emit``
    raises ``Cancelled``.
    """

    def __init__(self) -> None:
        self._admitted: deque[tuple[Job, Sink[Event]]] = deque()

    @abstractmethod
    def run(self, job: Job, emit: Callable[[Event | None], None]) -> None:
        """Run *job* and emit its events.

        Call *emit* at least once per step of the model; ``emit(None)`` only checks for cancellation.
        Exceptions fail this job only.
        """

    def prepare(self, job: Job) -> Job:
        return job

    def prebuild(self) -> None:
        """Nothing to build."""

    def admit(self, prepared: Job, sink: Sink[Event]) -> None:
        self._admitted.append((prepared, sink))

    @property
    def busy(self) -> bool:
        return bool(self._admitted)

    def step(self) -> None:
        job, sink = self._admitted.popleft()

        def emit(event: Event | None) -> None:
            if sink.cancelled:
                raise Cancelled
            if event is None:
                sink.advance()
            else:
                sink.put(event)

        error: Exception | None = None
        try:
            emit(None)
            sink.begin()
            self.run(job, emit)
        except Cancelled:
            pass
        except Exception as exc:
            error = exc
        sink.end(error)


def run_job(
    engine: Engine[Job, Event], job: Job, emit: Callable[[Event | None], None] = lambda event: None
) -> None:
    """Run *job* alone in the idle *engine*, on this thread. Raises what the job ends with.

    *emit* takes each event, and None when the engine checks for cancellation. If it raises
    (``Cancelled``), the job ends.
    """
    sink = _CallbackSink(emit)
    engine.admit(engine.prepare(job), sink)
    while not sink.ended:
        engine.step()
    if sink.error is not None:
        raise sink.error


class _CallbackSink:
    """Passes events to *emit* on the same thread."""

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

    def advance(self) -> None: ...

    def _call(self, event: Any) -> None:
        if self.error is None:
            try:
                self._emit(event)
            except BaseException as exc:
                self.error = exc

    def end(self, error: BaseException | None) -> None:
        self.ended = True
        self.error = self.error or error
