"""One job on its way through the model thread, and the way back to the coroutine that waits for it."""

from __future__ import annotations

import asyncio
import logging
import threading
from dataclasses import dataclass
from typing import Generic

from contracts import metal
from contracts.errors import ApiError, GenerationFailed
from workers.engine import Cancelled, Event, Job

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


class Ticket(Generic[Job, Event]):
    """Made on the event loop; filled by other threads."""

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


def as_told(error: BaseException | None) -> BaseException | None:
    """What a client is told of *error*; what is ours stands in the log."""
    if error is None or isinstance(error, ApiError):
        return error
    if isinstance(error, Cancelled):
        log.debug("job cancelled")
        return None
    log.error("generation failed", exc_info=error)
    if fault := metal.fault_of([str(error)]):
        return GenerationFailed(f"{fault} ({type(error).__name__})")
    return GenerationFailed(f"the model failed at this request ({type(error).__name__})")
