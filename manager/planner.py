"""What to do about the requests that wait. Pure: facts in, plans out.

Rules: no clock, no locks, no processes, no logging; ``schedule`` is a speculative question, asked again
for every waiting request whenever anything changes. Memory is in bytes and is what a worker is charged.

Fairness: requests are looked at first come first served. One that waits for memory reserves it: nothing
that comes later may take its room. What is loaded goes on being served meanwhile, so that few swaps
serve many requests, until the one that waits has watched that for ``max_wait_s``: from then on the
workers that must leave for it get no new requests. So each loaded model has a turn of at least that
length, which no stream of requests can stretch and no short pause ends. Requests for a ready worker
that is not in the way are served past it at any time.

Only what a model is declared to need can refuse it. One that was measured to need more than there is
runs alone: a measurement must lock nobody out.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from contracts.control import WorkerState as S
from manager.lifecycle import HOLDS_MEMORY

LONGEST_LINGER_S = 1.0


@dataclass(frozen=True, slots=True)
class WorkerView:
    """A worker as the planner sees it: a snapshot, never a handle."""

    alias: str
    state: S
    memory: int  # bytes charged to the budget while the worker holds memory
    declared: int | None = None  # what the settings say; None: ``memory``
    leases: int = 0
    last_used: float = 0.0
    busy_since: float = 0.0
    ready_at: float = 0.0
    retry_at: float = 0.0
    load_failed: bool = False
    pinned: bool = False
    idle_timeout_s: float = -1.0  # -1: never
    admits: int | None = None  # requests before its process is replaced; None: any number
    # Only inside ``schedule``, for what an earlier request waits for:
    held: bool = False  # must leave for it once it is idle
    reserved: bool = False  # has its room reserved, and no process yet

    @property
    def evictable(self) -> bool:
        return self.state is S.READY and self.leases == 0 and not self.pinned and not self.held

    @property
    def stays(self) -> bool:
        """Holds memory, and is not about to give it back."""
        return self.state in HOLDS_MEMORY and self.state is not S.STOPPING


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request that waits, since *since*."""

    alias: str
    since: float


@dataclass(frozen=True, slots=True)
class Terms:
    """What every plan has to keep to. ``budget`` in bytes."""

    budget: int
    max_wait_s: float = 0.0  # how long a loaded model is served past one that waits for its room
    loads: bool = True  # False: the system is so short of memory that nothing may be loaded

    @property
    def linger_s(self) -> float:
        """How long a worker is not yet idle enough to be evicted after a request.

        Clients ask, read and ask again: without this the moment in between would end every turn.
        """
        return min(LONGEST_LINGER_S, self.max_wait_s / 10)


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
    """Stop every worker in *evict*, and start the target as soon as their memory is back.

    ``memory``: the bytes that it is given, which is less than it is known to need when ``alone``: then
    there is not so much to be had, and nothing but pinned workers is left beside it.
    """

    memory: int
    evict: tuple[str, ...] = ()
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do until something changes.

    ``memory``: bytes of room that are reserved for the target, which has none yet; ``held``: the
    workers that must leave for it once they are idle. ``until``: ask again then, if nothing changes
    before.
    ``pressure``: it would be started, were the system not short of memory.
    """

    reason: str
    memory: int = 0
    held: tuple[str, ...] = ()
    until: float | None = None
    pressure: bool = False


@dataclass(frozen=True, slots=True)
class Refuse:
    """Waiting can't help (or not before *retry_at*); *by* names the workers in the way."""

    why: Why
    by: tuple[str, ...] = ()
    retry_at: float | None = None


Plan = Serve | Start | Wait | Refuse
Workers = Mapping[str, WorkerView]


def schedule(waiting: Sequence[Waiting], workers: Workers, terms: Terms, now: float) -> list[Plan]:
    """A plan for each of *waiting*, in the order in which the requests came.

    Each is made for the world as the plans before it leave it; carry them out in order.
    """
    world = dict(workers)
    settled: dict[str, Plan] = {}  # the later requests of an alias fare as its first that waits
    plans: list[Plan] = []
    for request in waiting:
        alias = request.alias
        made = settled.get(alias)
        if made is None:
            made = plan(request, world, terms, now)
            _apply(made, alias, world, now)
            if isinstance(made, Start | Wait):
                pressure = isinstance(made, Wait) and made.pressure
                settled[alias] = Wait(f"{alias} is waited for", pressure=pressure)
            elif isinstance(made, Refuse):
                settled[alias] = made
        plans.append(made)
    return plans


def _apply(made: Plan, alias: str, world: dict[str, WorkerView], now: float) -> None:
    target = world[alias]
    match made:
        case Serve():
            world[alias] = replace(
                target,
                leases=target.leases + 1,
                busy_since=target.busy_since if target.leases else now,
                admits=None if target.admits is None else target.admits - 1,
            )
        case Start(memory, evict):
            world[alias] = replace(target, state=S.STARTING, memory=memory)
            for victim in evict:
                world[victim] = replace(world[victim], state=S.STOPPING)
        case Wait(memory=memory, held=held) if memory:
            # Its room is as good as taken: a later request may only take what is left besides. Who
            # must leave for it still has its memory, but nothing new to do.
            world[alias] = replace(target, state=S.STARTING, memory=memory, reserved=True)
            for other in held:
                world[other] = replace(world[other], held=True)


def plan(request: Waiting, workers: Workers, terms: Terms, now: float) -> Plan:
    """Decide what one request needs, in this order:

    1. Ready: serve it, unless the worker must leave or be replaced first.
    2. On its way up, or on its way down: wait for that to settle.
    3. Declared larger than the whole budget: refuse.
    4. Failed recently: refuse until its backoff has passed if it was the load that failed; wait for
       that if it crashed later, as the next process may well serve.
    5. Declared too large to fit beside the pinned workers: refuse, as those never leave by themselves.
    6. Nothing may be loaded now: wait.
    7. Fits beside what is loaded and not on its way out: start it.
    8. Fits once idle workers are evicted, least recently used first: evict, then start.
    9. Otherwise the room it needs is busy: wait, and reserve it.
    """
    target, budget = request.alias, terms.budget
    worker = workers[target]
    if worker.state is S.READY:
        if worker.held:
            return Wait(f"{target} must leave for an earlier request")
        if worker.admits is not None and worker.admits <= 0:
            return Wait(f"{target} is to be replaced by a fresh process")
        return Serve()
    if worker.state in HOLDS_MEMORY:
        return Wait(f"{target} is {worker.state}")
    declared = worker.memory if worker.declared is None else worker.declared
    if declared > budget:
        return Refuse(Why.TOO_LARGE)
    if worker.state is S.FAILED and now < worker.retry_at:
        if worker.load_failed:
            return Refuse(Why.LOAD_FAILED, retry_at=worker.retry_at)
        return Wait(f"{target} crashed", until=worker.retry_at)

    # What is on its way out counts as gone: the process is launched when its memory is really back.
    staying = [w for w in workers.values() if w.stays]
    pinned = [w for w in staying if w.pinned and w.state is not S.DRAINING]
    room = budget - sum(w.memory for w in pinned)
    if declared > room:
        return Refuse(Why.PINNED, by=tuple(sorted(w.alias for w in pinned)))
    if not terms.loads:
        return Wait(f"{target} waits for the system to have memory again", pressure=True)
    memory = min(worker.memory, room)
    alone = memory < worker.memory
    # It must fit now, and when those that earlier requests wait for have taken the place of the held.
    now_short = sum(w.memory for w in staying if not w.reserved) + memory - budget
    later_short = sum(w.memory for w in staying if not w.held) + memory - budget
    shortfall = max(now_short, later_short)
    if shortfall <= 0:
        return Start(memory, alone=alone)
    turn_is_over = {
        w.alias for w in staying if now - max(request.since, w.ready_at) >= terms.max_wait_s
    }
    idle = [w for w in staying if w.evictable]
    gone_quiet = [w for w in idle if w.alias in turn_is_over or now >= w.last_used + terms.linger_s]
    victims = choose_victims(gone_quiet, shortfall)
    if victims:
        return Start(memory, victims, alone)
    lingering = [w.last_used + terms.linger_s for w in idle if w not in gone_quiet]
    busy = [w for w in staying if w.state is S.READY and not w.pinned and w.leases and not w.held]
    over = [w for w in busy if w.alias in turn_is_over]
    held = _spare(_until_enough([*by_use(gone_quiet), *_by_busy(over)], later_short), later_short)
    until = min(lingering, default=None)
    return Wait(f"{target} waits for memory", memory=memory, held=held, until=until)


def choose_victims(loaded: Collection[WorkerView], shortfall: int) -> tuple[str, ...]:
    """The aliases to evict to free *shortfall* bytes, or () when idle workers can't.

    Least recently used first; then spare, most recently used first, every victim whose memory turned
    out not to be needed.
    """
    return _spare(_until_enough(by_use(w for w in loaded if w.evictable), shortfall), shortfall)


def by_use(workers: Iterable[WorkerView]) -> list[WorkerView]:
    """Least recently used first."""
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
