"""The life of one worker, as a table.

Rule 1: every state, event and transition lives in this file.
Rule 2: nothing here does I/O, reads a clock, or knows about other workers.
Rule 3: events are facts, or decisions that take effect at once. EXITED, START_FAILED and CRASHED are
        fired when the process has been reaped: its memory is free.
Rule 4: an illegal event raises and changes nothing.

    stopped  --start-->        starting
    starting --became_ready--> ready      --start_failed--> failed    --stop--> stopping
    ready    --drain-->        draining   --crashed-->      failed    --stop--> stopping (idle only)
    draining --crashed-->      failed                                 --stop--> stopping
    stopping --exited-->       stopped
    failed   --start-->        starting   (once its backoff has passed)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from contracts.control import WorkerState as S

BACKOFF_CAP_S = 60.0
STABLE_S = 60.0  # a worker that was ready for this long has its earlier failures forgotten


class Event(StrEnum):
    START = "start"  # its memory is reserved; a process will be launched
    BECAME_READY = "became_ready"  # /health answered 200 with the model loaded
    START_FAILED = "start_failed"  # the process ended early or made no progress; already reaped
    CRASHED = "crashed"  # the process exited unexpectedly after it was ready; already reaped
    DRAIN = "drain"  # no new leases; open requests may finish
    STOP = "stop"  # the process will be terminated
    EXITED = "exited"  # reaped after a stop


class Cause(StrEnum):
    """Why a worker must leave."""

    ROOM = "room"  # another model needs its memory
    IDLE = "idle"
    PRESSURE = "pressure"  # the system is short of memory
    OVERCOMMIT = "overcommit"  # the workers have outgrown their estimates
    RECYCLE = "recycle"  # a fresh process replaces it
    REQUEST = "request"  # a client or operator requested it
    SHUTDOWN = "shutdown"  # the manager is shutting down


TRANSITIONS: Mapping[S, Mapping[Event, S]] = {
    S.STOPPED: {Event.START: S.STARTING},
    S.STARTING: {
        Event.BECAME_READY: S.READY,
        Event.START_FAILED: S.FAILED,
        Event.STOP: S.STOPPING,
    },
    S.READY: {Event.DRAIN: S.DRAINING, Event.STOP: S.STOPPING, Event.CRASHED: S.FAILED},
    S.DRAINING: {Event.STOP: S.STOPPING, Event.CRASHED: S.FAILED},
    S.STOPPING: {Event.EXITED: S.STOPPED},
    S.FAILED: {Event.START: S.STARTING},
}

HOLDS_MEMORY = frozenset({S.STARTING, S.READY, S.DRAINING, S.STOPPING})
LEASABLE = frozenset({S.READY})
RUNNING = frozenset({S.READY, S.DRAINING})  # what /status lists under "workers"

# The event to fire when the process has been reaped, by state.
WHEN_REAPED: Mapping[S, Event] = {
    S.STARTING: Event.START_FAILED,
    S.READY: Event.CRASHED,
    S.DRAINING: Event.CRASHED,
    S.STOPPING: Event.EXITED,
}


class IllegalTransition(Exception):
    def __init__(self, state: S, event: Event, why: str = "") -> None:
        super().__init__(f"cannot apply {event} to a worker that is {state}{why}")
        self.state, self.event = state, event


@dataclass(slots=True)
class Lifecycle:
    """The state of one worker, and the history that the next transitions depend on.

    Times are by the caller's clock.
    """

    state: S = S.STOPPED
    incarnation: int = 0  # which process; a lease belongs to exactly one
    leases: int = 0
    last_used: float = 0.0  # the end of the last request; while one runs, its start
    busy_since: float = 0.0  # when it last went from idle to busy
    ready_at: float = 0.0
    failures: int = 0  # consecutive; reset by a stable run or an orderly stop
    retry_at: float = 0.0
    load_failed: bool = False  # the last failure was during a load; an immediate retry will not help

    def fire(self, event: Event, now: float) -> S:
        old = self.state
        try:
            new = TRANSITIONS[old][event]
        except KeyError:
            raise IllegalTransition(old, event) from None
        if event is Event.STOP and old is S.READY and self.leases:
            raise IllegalTransition(old, event, f" with {self.leases} leases; drain it first")
        self.state = new
        if new is S.STARTING:
            self.incarnation += 1
        elif new is S.READY:
            self.retry_at, self.ready_at, self.last_used = 0.0, now, now
        elif new is S.FAILED:
            self.load_failed = old is S.STARTING
            if not self.load_failed and now - self.ready_at >= STABLE_S:
                self.failures = 0
            self.failures += 1
            self.retry_at = now + backoff(self.failures)
        elif new is S.STOPPED:
            self.failures, self.retry_at = 0, 0.0
        if new not in HOLDS_MEMORY:
            self.leases = 0
        return new

    def lease(self, now: float) -> int:
        """Count one more open request; pass the returned number to ``release``."""
        if self.state not in LEASABLE:
            raise ValueError(f"cannot lease a worker that is {self.state}")
        if not self.leases:
            self.busy_since = now
        self.leases += 1
        self.last_used = now
        return self.incarnation

    def release(self, incarnation: int, now: float) -> None:
        # A lease can outlive its process. A lease from before a crash must not be
        # counted against the next process.
        if incarnation == self.incarnation and self.leases:
            self.leases -= 1
            self.last_used = now

    def touch(self, now: float) -> None:
        """Restart the idle time, as if a request had just ended."""
        self.last_used = now


def backoff(failures: int, *, base: float = 1.0, cap: float = BACKOFF_CAP_S) -> float:
    """Seconds to wait before start number ``failures + 1``: 1, 2, 4 ... up to *cap*."""
    return min(cap, base * 2.0 ** min(failures - 1, 16))  # 2.0 ** 1024 overflows
