"""What to do about the requests that wait, and about workers that idle. Pure: facts in, plans out.

Rules: no clock, no locks, no processes, no logging; ``schedule`` is a speculative question, asked again
for every waiting request whenever anything changes. Memory is in bytes and is what a worker is charged.

Fairness: requests are looked at first come first served. One that waits for memory reserves it: the
workers that must leave for it get no new requests, and nothing that comes later may take its room.
Requests for a ready worker that is not in the way are served past it.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from contracts.control import WorkerState as S
from manager.lifecycle import HOLDS_MEMORY


@dataclass(frozen=True, slots=True)
class WorkerView:
    """A worker as the planner sees it: a snapshot, never a handle."""

    alias: str
    state: S
    memory: int  # bytes charged to the budget while the worker holds memory
    leases: int = 0
    last_used: float = 0.0
    busy_since: float = 0.0
    retry_at: float = 0.0
    load_failed: bool = False
    pinned: bool = False
    idle_timeout_s: float = -1.0  # -1: never
    # Only inside ``schedule``, for what an earlier request waits for:
    held: bool = False  # must leave for it once it is idle
    reserved: bool = False  # has its room reserved, and no process yet

    @property
    def evictable(self) -> bool:
        return self.state is S.READY and self.leases == 0 and not self.pinned and not self.held

    @property
    def idle_deadline(self) -> float | None:
        """When it has been idle for too long; None: never, as things are."""
        return (
            self.last_used + self.idle_timeout_s
            if self.evictable and self.idle_timeout_s >= 0
            else None
        )


class Why(StrEnum):
    """Why a request is refused."""

    LOAD_FAILED = "load failed"  # and its backoff has not passed
    TOO_LARGE = "too large"  # for the whole budget
    PINNED = "pinned"  # only pinned workers are in the way


@dataclass(frozen=True, slots=True)
class Serve:
    """Grant the lease now."""


@dataclass(frozen=True, slots=True)
class Start:
    """Stop every worker in *evict*, and start the target as soon as their memory is back."""

    evict: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do until something changes.

    ``memory``: the target has no room, and the room is reserved for it; ``held``: the workers that must
    leave for it once they are idle. ``until``: ask again then, if nothing changes before.
    """

    reason: str
    memory: bool = False
    held: tuple[str, ...] = ()
    until: float | None = None


@dataclass(frozen=True, slots=True)
class Refuse:
    """Waiting can't help (or not before *retry_at*); *by* names the workers in the way."""

    why: Why
    by: tuple[str, ...] = ()
    retry_at: float | None = None


Plan = Serve | Start | Wait | Refuse
Workers = Mapping[str, WorkerView]


def schedule(waiting: Sequence[str], workers: Workers, *, budget: int, now: float) -> list[Plan]:
    """A plan for each of *waiting*, which are aliases in the order in which the requests came.

    Each is made for the world as the plans before it leave it; carry them out in order.
    """
    world = dict(workers)
    settled: dict[str, Plan] = {}  # the later requests of an alias fare as its first that waits
    plans: list[Plan] = []
    for alias in waiting:
        made = settled.get(alias)
        if made is None:
            made = plan(alias, world, budget=budget, now=now)
            _apply(made, alias, world, now)
            if isinstance(made, Start | Wait):
                settled[alias] = Wait(f"{alias} is waited for")
            elif isinstance(made, Refuse):
                settled[alias] = made
        plans.append(made)
    return plans


def _apply(made: Plan, alias: str, world: dict[str, WorkerView], now: float) -> None:
    target = world[alias]
    match made:
        case Serve():
            busy_since = target.busy_since if target.leases else now
            world[alias] = replace(target, leases=target.leases + 1, busy_since=busy_since)
        case Start(evict):
            world[alias] = replace(target, state=S.STARTING)
            for victim in evict:
                world[victim] = replace(world[victim], state=S.STOPPING)
        case Wait(memory=True, held=held):
            # Its room is as good as taken: a later request may only take what is left besides. Who
            # must leave for it still has its memory, but nothing new to do.
            world[alias] = replace(target, state=S.STARTING, reserved=True)
            for other in held:
                world[other] = replace(world[other], held=True)


def plan(target: str, workers: Workers, *, budget: int, now: float) -> Plan:
    """Decide what one request for *target* needs, in this order:

    1. Ready: serve it.
    2. On its way up, or on its way down: wait for that to settle.
    3. Larger than the whole budget: refuse.
    4. Failed recently: refuse until its backoff has passed if it was the load that failed; wait for
       that if it crashed later, as the next process may well serve.
    5. Doesn't fit beside the pinned workers: refuse, as those never leave by themselves.
    6. Fits beside what is loaded and not on its way out: start it.
    7. Fits once idle workers are evicted, least recently used first: evict, then start.
    8. Otherwise the room it needs is busy: wait, and reserve it.
    """
    worker = workers[target]
    if worker.state is S.READY and worker.held:
        return Wait(f"{target} must leave for an earlier request")
    if worker.state is S.READY:
        return Serve()
    if worker.state in HOLDS_MEMORY:
        return Wait(f"{target} is {worker.state}")
    if worker.memory > budget:
        return Refuse(Why.TOO_LARGE)
    if worker.state is S.FAILED and now < worker.retry_at:
        if worker.load_failed:
            return Refuse(Why.LOAD_FAILED, retry_at=worker.retry_at)
        return Wait(f"{target} crashed", until=worker.retry_at)

    # What is on its way out counts as gone: the process is launched when its memory is really back.
    staying = [w for w in workers.values() if w.state in HOLDS_MEMORY and w.state is not S.STOPPING]
    pinned = [w for w in staying if w.pinned and w.state is not S.DRAINING]
    if sum(w.memory for w in pinned) + worker.memory > budget:
        return Refuse(Why.PINNED, by=tuple(sorted(w.alias for w in pinned)))
    # It must fit now, and when those that earlier requests wait for have taken the place of the held.
    now_short = sum(w.memory for w in staying if not w.reserved) + worker.memory - budget
    later_short = sum(w.memory for w in staying if not w.held) + worker.memory - budget
    shortfall = max(now_short, later_short)
    if shortfall <= 0:
        return Start()
    idle = [w for w in staying if w.evictable]
    victims = choose_victims(idle, shortfall)
    if victims:
        return Start(victims)
    busy = [w for w in staying if w.state is S.READY and not w.pinned and w.leases and not w.held]
    held = _spare(_until_enough([*_by_use(idle), *_by_busy(busy)], later_short), later_short)
    return Wait(f"{target} waits for memory", memory=True, held=held)


def choose_victims(loaded: Collection[WorkerView], shortfall: int) -> tuple[str, ...]:
    """The aliases to evict to free *shortfall* bytes, or () when idle workers can't.

    Least recently used first; then spare, most recently used first, every victim whose memory turned
    out not to be needed.
    """
    return _spare(_until_enough(_by_use(w for w in loaded if w.evictable), shortfall), shortfall)


def idle_too_long(workers: Workers, now: float) -> tuple[str, ...]:
    """The aliases whose idle timeout has passed."""
    deadlines = ((w.alias, w.idle_deadline) for w in workers.values())
    return tuple(alias for alias, deadline in deadlines if deadline is not None and deadline <= now)


def soonest_idle(workers: Workers, now: float) -> float | None:
    """When the next idle timeout after *now* passes, if nothing changes before."""
    deadlines = (w.idle_deadline for w in workers.values())
    return min((d for d in deadlines if d is not None and d > now), default=None)


def _by_use(workers: Iterable[WorkerView]) -> list[WorkerView]:
    return sorted(workers, key=lambda w: (w.last_used, w.alias))


def _by_busy(workers: Iterable[WorkerView]) -> list[WorkerView]:
    # Longest busy first. A worker that is held becomes no busier, and another that becomes busy comes
    # after it: so the choice stands until the room is free.
    return sorted(workers, key=lambda w: (w.busy_since, w.alias))


def _until_enough(candidates: Sequence[WorkerView], shortfall: int) -> list[WorkerView]:
    """The first of *candidates* that free *shortfall* bytes together; none when all can't."""
    chosen = []
    for w in candidates:
        if shortfall <= 0:
            break
        chosen.append(w)
        shortfall -= w.memory
    return [] if shortfall > 0 else chosen


def _spare(chosen: list[WorkerView], shortfall: int) -> tuple[str, ...]:
    """*chosen* without those not needed to free *shortfall* bytes; the last are spared first."""
    surplus = sum(w.memory for w in chosen) - shortfall
    kept = []
    for w in reversed(chosen):
        if w.memory <= surplus:
            surplus -= w.memory
        else:
            kept.append(w.alias)
    return tuple(reversed(kept))
