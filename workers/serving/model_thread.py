"""The one thread that loads and runs a model.

MLX streams are thread-local, so this thread makes every engine call that touches the model, and only
plain data leaves it. A second thread, the preparer, turns jobs into prompts in their order of arrival.
The model thread admits them between two steps.

Rules: an exception ends its own job only. A cancelled job ends at the next token or step, and never
starts if it is still waiting. After a failed load no job is taken. If a step raises, all jobs are lost:
each gets an error, no more are taken, and the process must exit. State that other threads read
(``phase``, ``jobs``, ``progress``) has a single writer, so it needs no lock.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple

from contracts import metal
from contracts.control import Download, Phase
from contracts.errors import ApiError, GenerationFailed, Unavailable
from workers.backend.buffers import awaited
from workers.engine import Engine, Event, Job, LoadError

log = logging.getLogger(__name__)
_IDLE_S = 0.5  # seconds without a new job before the preparer calls ``prebuild``


@dataclass(slots=True)
class Timing:
    """When the model thread started and ended a job, by the thread's clock. None: not yet."""

    began: float | None = None
    ended: float | None = None

    def seconds(self, now: float) -> float:
        """Model time until the job's end, or until *now*. 0.0 for a job that never started."""
        if self.began is None:
            return 0.0
        return (now if self.ended is None else self.ended) - self.began


class Ticket(Generic[Job, Event]):
    """A job's place in the queue, its sink, and the way back to the coroutine that waits for it.

    Created on the event loop. The engine calls the methods of ``Sink``.
    """

    def __init__(self, job: Job, timing: Timing, thread: ModelThread[Job, Event]) -> None:
        self.job = job
        self.timing = timing
        self.events: asyncio.Queue[Event | BaseException | None] = asyncio.Queue()
        self._thread = thread
        self._cancelled = threading.Event()
        self._loop = asyncio.get_running_loop()

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    def cancel(self) -> None:
        self._cancelled.set()

    def send(self, event: Event | BaseException | None) -> None:
        """Hand over an event, or the end of the job: its exception, or None for success."""
        try:
            self._loop.call_soon_threadsafe(self.events.put_nowait, event)
        except RuntimeError:  # the loop is closed: the process is exiting and nobody reads
            self.cancel()

    def begin(self) -> None:
        self.timing.began = self._thread.clock()

    def put(self, event: Event) -> None:
        self.advance()
        self.send(event)

    def advance(self) -> None:
        self._thread.advance()

    def end(self, error: BaseException | None) -> None:
        self._thread.end(self, error)


class _State(NamedTuple):
    phase: Phase
    detail: str = ""
    download: Download | None = None


class ModelThread(Generic[Job, Event]):
    """Owns one engine. ``phase`` and ``detail`` show the load's progress, from any thread.

    *on_failed* is called on the model thread after a failed load or lost jobs. *clock* returns
    monotonic seconds.
    """

    def __init__(
        self,
        engine: Engine[Job, Event],
        *,
        on_failed: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._on_failed = on_failed
        self._tickets: queue.SimpleQueue[Ticket[Job, Event] | None] = queue.SimpleQueue()
        self._prepared: queue.SimpleQueue[tuple[Ticket[Job, Event], Any] | None] = queue.SimpleQueue()
        self._open: set[Ticket[Job, Event]] = set()  # written by the event loop
        self._closing = False
        self._lost = False
        self._state = _State(Phase.IMPORTING)
        self._submitted = 0  # jobs; written by the event loop
        self._refused = 0  # jobs; written by the preparer, as is _prebuilt
        self._prebuilt = False
        self._ended = 0  # jobs; written by the model thread, as are _progress and _running
        self._progress = 0
        self._running: set[Ticket[Job, Event]] = set()
        self.clock = clock
        self._thread = threading.Thread(target=self._main, name="model", daemon=True)

    @property
    def phase(self) -> Phase:
        return self._state.phase

    @property
    def detail(self) -> str:
        return self._state.detail

    @property
    def download(self) -> Download | None:
        """The progress of the download, while there is one."""
        phase, _, download = self._state
        return download if phase in (Phase.DOWNLOADING, Phase.VERIFYING) else None

    @property
    def jobs(self) -> int:
        """Unfinished jobs: running or waiting."""
        return self._submitted - self._ended - self._refused

    @property
    def progress(self) -> int:
        """Grows with every token, step, and end of a job; never shrinks."""
        return self._progress

    @property
    def lost(self) -> bool:
        """Whether a step has lost all jobs, so that the process must exit."""
        return self._lost

    def start(self) -> None:
        self._thread.start()

    async def run(self, job: Job, timing: Timing | None = None) -> AsyncGenerator[Event, None]:
        """Yield the events of *job*. Closing the iterator early cancels it. Fills in *timing*.

        Raises ``Unavailable`` if the model is not ready, ``ApiError`` if the job fails.
        """
        if self.phase is not Phase.READY or self._closing:
            raise self.unavailable()
        ticket: Ticket[Job, Event] = Ticket(job, timing or Timing(), self)
        self._open.add(ticket)
        self._submitted += 1
        self._tickets.put(ticket)
        try:
            while (event := await ticket.events.get()) is not None:
                if isinstance(event, BaseException):
                    raise event
                yield event
        finally:
            ticket.cancel()
            self._open.discard(ticket)

    def stop_jobs(self) -> None:
        """End every job now with ``Unavailable`` and take no more. Call it on the event loop."""
        self._closing = True
        for ticket in self._open:
            ticket.cancel()
            ticket.events.put_nowait(self.unavailable())

    def close(self, timeout_s: float) -> bool:
        """Ask the thread to exit and wait. False if it is still busy after *timeout_s*."""
        self._closing = True
        self._tickets.put(None)
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def unavailable(self) -> Unavailable:
        """The error for a request that cannot be served now."""
        if self._closing:
            return Unavailable("the worker is stopping")
        if self._lost:
            return self._loss()
        if self.phase is Phase.FAILED:
            return Unavailable(f"the model could not be loaded: {self.detail}")
        return Unavailable(f"the model is not ready yet ({self.phase})", retry_after=2)

    def _loss(self) -> Unavailable:
        lost = "the model lost its jobs and is restarting"
        fault = metal.fault_of([self.detail])
        return Unavailable(f"{fault}; {lost}" if fault else lost, retry_after=5)

    # --- on the model thread -----------------------------------------------------------------------

    def _main(self) -> None:
        try:
            self._engine.load(self._report)
        except LoadError as exc:
            self._fail(str(exc))
            return
        except BaseException as exc:
            log.exception("unexpected error while loading")
            self._fail(f"{type(exc).__name__}: {first_line(exc)}")
            return
        self._report(Phase.READY, "")
        threading.Thread(target=self._prepare_all, name="preparer", daemon=True).start()
        try:
            while self._admit_all():
                self.advance()
                try:
                    self._engine.step()
                except Exception as exc:
                    log.exception("the model lost its jobs")
                    self._lose(f"the model lost its jobs: {type(exc).__name__}: {first_line(exc)}")
                    return
        finally:
            self._engine.close()

    def _report(self, phase: Phase, detail: str, download: Download | None = None) -> None:
        if self._closing:
            raise LoadError("stopped while loading")
        if phase is not self.phase:
            log.info("phase=%s %s", phase.value, detail)
        self._state = _State(phase, detail, download)

    def _fail(self, reason: str) -> None:
        if self._closing:  # the process exits anyway, for another reason
            return
        self._state = _State(Phase.FAILED, reason)
        self._on_failed()

    def _admit_all(self) -> bool:
        """Admit the prepared jobs. Waits if the engine is idle. False when the thread must exit."""
        engine = self._engine
        while True:
            try:
                entry = self._prepared.get_nowait() if engine.busy else awaited(self._prepared, engine)
            except queue.Empty:
                return True
            if entry is None:
                return False
            ticket, prepared = entry
            self._running.add(ticket)
            if ticket.cancelled:
                self.end(ticket, None)
            else:
                engine.admit(prepared, ticket)

    def advance(self) -> None:
        self._progress += 1

    def end(self, ticket: Ticket[Job, Event], error: BaseException | None) -> None:
        """End *ticket*, with *error* if it failed."""
        self.advance()
        self._ended += 1
        self._running.discard(ticket)
        if ticket.timing.began is not None:
            ticket.timing.ended = self.clock()
        ticket.send(client_error(error))

    def _lose(self, reason: str) -> None:
        """Fail all jobs, the waiting ones too, and take no more."""
        self._lost = True
        self._state = _State(Phase.FAILED, reason)
        for ticket in [*self._running]:
            self.end(ticket, self._loss())
        self._tickets.put(None)
        while (entry := self._prepared.get()) is not None:
            self.end(entry[0], self._loss())
        self._on_failed()

    # --- on the preparer thread --------------------------------------------------------------------

    def _prepare_all(self) -> None:
        while (ticket := self._next_ticket()) is not None:
            if ticket.cancelled:
                self._refused += 1
                continue
            try:
                prepared = self._engine.prepare(ticket.job)
            except Exception as exc:
                self._refused += 1
                ticket.send(client_error(exc))
            else:
                self._prepared.put((ticket, prepared))
        self._prepared.put(None)

    def _next_ticket(self) -> Ticket[Job, Event] | None:
        if not self._prebuilt:
            try:
                return self._tickets.get(timeout=_IDLE_S)
            except queue.Empty:  # no job waits for the end of this
                self._prebuilt = True
                try:
                    self._engine.prebuild()
                except Exception:
                    log.exception("prebuild failed")
        return self._tickets.get()


def client_error(error: BaseException | None) -> BaseException | None:
    """The error that a client gets for *error*. Internal details go to the log only."""
    if error is None or isinstance(error, ApiError):
        return error
    log.error("generation failed", exc_info=error)
    if fault := metal.fault_of([str(error)]):
        return GenerationFailed(f"{fault} ({type(error).__name__})")
    return GenerationFailed(f"the model failed at this request ({type(error).__name__})")


def first_line(exc: BaseException) -> str:
    """The message of *exc* as one line of at most 500 characters."""
    text = " ".join(str(exc).split())
    return text if len(text) <= 500 else text[:497] + "..."
