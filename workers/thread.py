"""The one thread that loads and runs a model: jobs first come, first served.

MLX streams are thread-local: what one thread has computed, another can't go on with. So this thread
calls every method of the engine, and only events (plain data) leave it.
Rules: an exception ends only its own job; a cancelled job ends at the next token or step; a job that is
cancelled while it waits never begins; after a failed load no job is taken. What other threads read
(``phase``, ``jobs``, ``progress``) is one value with one writer, so that none of it needs a lock.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Generic, NamedTuple

from contracts.control import Download, Phase
from contracts.errors import ApiError, GenerationFailed, Unavailable
from workers.engine import Cancelled, Engine, Event, Job, LoadError

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Timing:
    """When the model thread began and ended a job, by the thread's clock; None: it has not yet."""

    began: float | None = None
    ended: float | None = None

    def seconds(self, now: float) -> float:
        """What the model took until its end, or until *now*; 0.0 for a job that never began."""
        if self.began is None:
            return 0.0
        return (now if self.ended is None else self.ended) - self.began


class _State(NamedTuple):
    phase: Phase
    detail: str = ""
    download: Download | None = None


class _Ticket(Generic[Job, Event]):
    """One job and the way back to the coroutine that waits for it."""

    def __init__(self, job: Job, timing: Timing) -> None:
        self.job = job
        self.timing = timing
        self.events: asyncio.Queue[Event | BaseException | None] = asyncio.Queue()
        self.cancelled = threading.Event()
        self._loop = asyncio.get_running_loop()

    def put(self, event: Event | BaseException | None) -> None:
        """Hand over an event, the exception the job ended with, or None: it is done."""
        try:
            self._loop.call_soon_threadsafe(self.events.put_nowait, event)
        except RuntimeError:  # the loop is closed: the process is going down, nobody reads
            self.cancelled.set()

    def emit(self, event: Event | None) -> None:
        if self.cancelled.is_set():
            raise Cancelled
        if event is not None:
            self.put(event)


class ModelThread(Generic[Job, Event]):
    """Owns one engine. ``phase`` and ``detail`` tell where the load is, from any thread.

    *clock* gives monotonic seconds.
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
        self._tickets: queue.SimpleQueue[_Ticket[Job, Event] | None] = queue.SimpleQueue()
        self._open: set[_Ticket[Job, Event]] = set()  # of the event loop alone
        self._closing = False
        self._state = _State(Phase.IMPORTING)
        self._given = 0  # jobs; of the event loop alone
        self._ended = 0  # jobs; of the model thread alone, as is _progress
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
        return download if phase is Phase.DOWNLOADING else None

    @property
    def jobs(self) -> int:
        """Jobs that were given to the thread and are not done: running, or waiting for their turn."""
        return self._given - self._ended

    @property
    def progress(self) -> int:
        """Grows with each job begun or ended and with each token or step; never shrinks."""
        return self._progress

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    async def run(self, job: Job, timing: Timing | None = None) -> AsyncGenerator[Event, None]:
        """The events of *job*; closing the iterator early cancels the job. Fills in *timing*.

        Raises ``Unavailable`` when the model is not ready, ``ApiError`` when the job fails.
        """
        if self.phase is not Phase.READY or self._closing:
            raise self._unavailable()
        ticket: _Ticket[Job, Event] = _Ticket(job, timing or Timing())
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

    def _unavailable(self) -> Unavailable:
        if self._closing:
            return Unavailable("the worker is stopping")
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
            while (ticket := self._tickets.get()) is not None:
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

    def _do(self, ticket: _Ticket[Job, Event]) -> None:
        outcome: BaseException | None = None
        try:
            self._work(ticket)
        except Cancelled:
            log.debug("job cancelled")
        except ApiError as exc:
            outcome = exc
        except Exception as exc:
            log.exception("generation failed")
            outcome = GenerationFailed(f"the model failed at this request ({type(exc).__name__})")
        finally:
            self._progress += 1
            self._ended += 1
        ticket.put(outcome)

    def _work(self, ticket: _Ticket[Job, Event]) -> None:
        def emit(event: Event | None) -> None:
            self._progress += 1
            ticket.emit(event)

        emit(None)
        ticket.timing.began = self.clock()
        try:
            self._engine.run(ticket.job, emit)
        finally:
            ticket.timing.ended = self.clock()


def first_line(exc: BaseException) -> str:
    """The message of *exc* as one line of a bearable length."""
    text = " ".join(str(exc).split())
    return text if len(text) <= 500 else text[:497] + "..."
