"""The one thread that loads and runs a model: jobs first come, first served.

MLX streams are thread-local: what one thread has computed, another can't go on with. So this thread
calls every method of the engine, and only events (plain data) leave it. An engine does one job at a
time (``Engine``), or many (``BatchEngine``): then a second thread, the reader, makes prompts of jobs in
the order in which they came, and this one admits them between any two steps.
Rules: an exception ends only its own job; a cancelled job ends at the next token or step; a job that is
cancelled while it waits never begins; after a failed load no job is taken. A step that raises has lost
all jobs: each is told so, no more are taken, and the process is to end. What other threads read
(``phase``, ``jobs``, ``progress``) is one value with one writer, so that none of it needs a lock.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any, Generic, NamedTuple, TypeVar

from contracts import metal
from contracts.control import Download, Phase
from contracts.errors import Unavailable
from workers.backend.buffers import REST_S
from workers.batch_engine import BatchEngine, does_many
from workers.engine import Engine, Event, Job, LoadError, Resting
from workers.serving.ticket import Ticket, as_told
from workers.serving.ticket import Timing as Timing  # for workers.serving.endpoint

log = logging.getLogger(__name__)


_T = TypeVar("_T")
_SPARE_S = 0.5  # seconds without a new job, after which the reader has time for something else


class _State(NamedTuple):
    phase: Phase
    detail: str = ""
    download: Download | None = None


class _TicketSink(Generic[Job, Event]):
    """A ticket as an engine that does many jobs sees it."""

    def __init__(self, ticket: Ticket[Job, Event], thread: ModelThread[Job, Event]) -> None:
        self._ticket = ticket
        self._thread = thread

    @property
    def cancelled(self) -> bool:
        return self._ticket.cancelled.is_set()

    def begin(self) -> None:
        self._ticket.timing.began = self._thread.clock()

    def put(self, event: Event) -> None:
        self._ticket.put(event)

    def end(self, error: BaseException | None) -> None:
        self._thread._end(self._ticket, error)


class ModelThread(Generic[Job, Event]):
    """Owns one engine. ``phase`` and ``detail`` tell where the load is, from any thread.

    *clock* gives monotonic seconds.
    """

    def __init__(
        self,
        engine: Engine[Job, Event] | BatchEngine,
        *,
        on_failed: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._on_failed = on_failed
        self._tickets: queue.SimpleQueue[Ticket[Job, Event] | None] = queue.SimpleQueue()
        # What the reader has read, in order: a reading, or the error that it ended with.
        self._readings: queue.SimpleQueue[tuple[Ticket[Job, Event], Any] | None] = queue.SimpleQueue()
        self._running: set[Ticket[Job, Event]] = set()  # of the model thread, when it does many
        self._open: set[Ticket[Job, Event]] = set()  # of the event loop alone
        self._closing = False
        self._lost = False
        self._state = _State(Phase.IMPORTING)
        self._given = 0  # jobs; of the event loop alone
        self._ended = 0  # jobs; of the model thread alone, as is _progress
        self._refused = 0  # jobs; of the reader alone, as is _prepared
        self._prepared = False
        self._progress = 0
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
        """How far the download is, while there is one."""
        phase, _, download = self._state
        return download if phase in (Phase.DOWNLOADING, Phase.VERIFYING) else None

    @property
    def jobs(self) -> int:
        """Jobs that were given to the thread and are not done: running, or waiting for their turn."""
        return self._given - self._ended - self._refused

    @property
    def progress(self) -> int:
        """Grows with each job begun or ended and with each token or step; never shrinks."""
        return self._progress

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def lost(self) -> bool:
        """Has the model lost all its jobs, so that the process is to end?"""
        return self._lost

    def start(self) -> None:
        self._thread.start()

    async def run(self, job: Job, timing: Timing | None = None) -> AsyncGenerator[Event, None]:
        """The events of *job*; closing the iterator early cancels the job. Fills in *timing*.

        Raises ``Unavailable`` when the model is not ready, ``ApiError`` when the job fails.
        """
        if self.phase is not Phase.READY or self._closing:
            raise self._unavailable()
        ticket: Ticket[Job, Event] = Ticket(job, timing or Timing())
        self._open.add(ticket)
        self._given += 1
        self._tickets.put(ticket)
        try:
            while (event := await ticket.events.get()) is not None:
                if isinstance(event, BaseException):
                    raise event
                yield event
        finally:
            ticket.cancelled.set()
            self._open.discard(ticket)

    def stop_jobs(self) -> None:
        """End every job now, running or waiting, with ``Unavailable``; take no more. On the loop."""
        self._closing = True
        for ticket in self._open:
            ticket.cancelled.set()
            ticket.events.put_nowait(self._unavailable())

    def close(self, timeout_s: float) -> bool:
        """Ask the thread to end and wait; False when it is still busy after *timeout_s*."""
        self._closing = True
        self._tickets.put(None)
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self.alive

    def unavailable(self) -> Unavailable:
        """The error for a request that comes before the model is ready."""
        return self._unavailable()

    def _loss(self) -> Unavailable:
        lost = "the model has lost its jobs and is started anew"
        fault = metal.fault_of([self.detail])
        return Unavailable(f"{fault}; {lost}" if fault else lost, retry_after=5)

    def _unavailable(self) -> Unavailable:
        if self._closing:
            return Unavailable("the worker is stopping")
        if self._lost:
            return self._loss()
        if self.phase is Phase.FAILED:
            return Unavailable(f"the model could not be loaded: {self.detail}")
        return Unavailable(f"the model is not ready yet ({self.phase})", retry_after=2)

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
        try:
            engine = self._engine
            if does_many(engine):
                threading.Thread(
                    target=self._read_all, args=[engine], name="reader", daemon=True
                ).start()
                self._do_many(engine)
            else:
                while (ticket := self._awaited(self._tickets)) is not None:
                    self._do(ticket)
        finally:
            self._engine.close()

    def _report(self, phase: Phase, detail: str, download: Download | None = None) -> None:
        if self._closing:
            raise LoadError("stopped while loading")
        if phase is not self.phase:
            log.info("phase=%s %s", phase.value, detail)
        self._state = _State(phase, detail, download)

    def _fail(self, reason: str) -> None:
        if self._closing:  # the process leaves anyway, and not for this reason
            return
        self._state = _State(Phase.FAILED, reason)
        self._on_failed()

    def _awaited(self, waiting: queue.SimpleQueue[_T]) -> _T:
        """The next of *waiting*; until it comes, the engine gives back what it does not need."""
        engine: Any = self._engine
        more = isinstance(engine, Resting)
        while more:
            try:
                return waiting.get(timeout=REST_S)
            except queue.Empty:
                try:
                    more = engine.rest()
                except Exception:
                    log.exception("freed buffers could not be given back")
                    more = False
        return waiting.get()

    # One job at a time.

    def _do(self, ticket: Ticket[Job, Event]) -> None:
        def emit(event: Event | None) -> None:
            self._progress += 1
            ticket.emit(event)

        error: BaseException | None = None
        try:
            emit(None)
            ticket.timing.began = self.clock()
            self._engine.run(ticket.job, emit)  # type: ignore[union-attr]
        except Exception as exc:
            error = exc
        self._end(ticket, error)

    def _end(self, ticket: Ticket[Job, Event], error: BaseException | None) -> None:
        """*ticket* ends, with *error* if there is one."""
        self._progress += 1
        self._ended += 1
        self._running.discard(ticket)
        if ticket.timing.began is not None:
            ticket.timing.ended = self.clock()
        ticket.put(as_told(error))

    # Many jobs at a time.

    def _read_all(self, engine: BatchEngine) -> None:
        """The reader: makes prompts of jobs, until the end."""
        while (ticket := self._next_ticket(engine)) is not None:
            if ticket.cancelled.is_set():
                self._refused += 1
                continue
            try:
                reading = engine.read(ticket.job)
            except Exception as exc:
                self._refused += 1
                ticket.put(as_told(exc))
            else:
                self._readings.put((ticket, reading))
        self._readings.put(None)

    def _next_ticket(self, engine: BatchEngine) -> Ticket[Job, Event] | None:
        if not self._prepared:
            try:
                return self._tickets.get(timeout=_SPARE_S)
            except queue.Empty:  # nobody is there, so that nobody waits for this
                self._prepared = True
                try:
                    engine.prepare()
                except Exception:
                    log.exception("what later jobs may need could not be made")
        return self._tickets.get()

    def _do_many(self, engine: BatchEngine) -> None:
        while True:
            if not self._admit_all(engine):
                return
            try:
                engine.step()
            except Exception as exc:
                log.exception("the model has lost its jobs")
                self._lose(f"the model has lost its jobs: {type(exc).__name__}: {first_line(exc)}")
                return
            self._progress += 1

    def _admit_all(self, engine: BatchEngine) -> bool:
        """Admit what was read; waits when there is nothing else to do. False at the end."""
        while True:
            try:
                came = self._readings.get_nowait() if engine.busy else self._awaited(self._readings)
            except queue.Empty:
                return True
            if came is None:
                return False
            ticket, reading = came
            self._running.add(ticket)
            if ticket.cancelled.is_set():
                self._end(ticket, None)
            else:
                engine.admit(reading, _TicketSink(ticket, self))

    def _lose(self, reason: str) -> None:
        """Tell all jobs, those that wait too, and take no more."""
        self._lost = True
        self._state = _State(Phase.FAILED, reason)
        for ticket in [*self._running]:
            self._end(ticket, self._loss())
        self._tickets.put(None)
        while (came := self._readings.get()) is not None:
            self._end(came[0], self._loss())
        self._on_failed()


def first_line(exc: BaseException) -> str:
    """The message of *exc* as one line of a bearable length."""
    text = " ".join(str(exc).split())
    return text if len(text) <= 500 else text[:497] + "..."
