"""Plans what to do about waiting requests. Pure: facts in, plans out.

Rules: no clock, no locks, no processes, no logging. ``schedule`` is speculative: the pool calls it
again for all waiting requests whenever anything changes. Memory is in bytes and means a worker's
charge.

Fairness: requests are planned in order of arrival. A request that waits for memory reserves it: later
requests cannot take it. Loaded models keep accepting requests meanwhile, so that few swaps serve many
requests, until the waiting request has waited ``max_wait_s``: from then on the workers that must leave
for it accept no new requests. So each loaded model has a turn of at least that length, which a stream
of requests cannot extend and a short pause does not end. Requests for a ready worker that is not in the
way are always served.

Only the declared memory of a model can refuse it. A model whose measured memory exceeds the budget runs
alone: a measurement must not lock a model out.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from contracts.control import WorkerState as S
from manager.lifecycle import HOLDS_MEMORY

LONGEST_LINGER_S = 1.0


@dataclass(frozen=True, slots=True)
class WorkerView:
    """A snapshot of a worker, for the planner and for reports."""

    alias: str
    state: S
    charge: int  # in bytes; counted while the worker holds memory
    declared: int | None = None  # memory_gb in the settings; None: ``charge``
    leases: int = 0
    last_used: float = 0.0
    busy_since: float = 0.0
    ready_at: float = 0.0
    retry_at: float = 0.0
    load_failed: bool = False
    pinned: bool = False
    idle_timeout_s: float = -1.0  # -1: never
    admits: int | None = None  # requests before its process is replaced; None: any number
    # Only inside ``schedule``, on behalf of an earlier request:
    held: bool = False  # must leave once it is idle
    reserved: bool = False  # its memory is reserved, and it has no process yet

    @property
    def evictable(self) -> bool:
        return self.state is S.READY and self.leases == 0 and not self.pinned and not self.held

    @property
    def stays(self) -> bool:
        """Holds memory, and is not stopping."""
        return self.state in HOLDS_MEMORY and self.state is not S.STOPPING


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request that has waited since ``since``."""

    alias: str
    since: float


@dataclass(frozen=True, slots=True)
class Terms:
    """The limits for every plan. ``budget`` in bytes."""

    budget: int
    max_wait_s: float = 0.0  # how long a loaded model keeps accepting requests while another waits
    loads: bool = True  # False: nothing may be loaded, because the system is short of memory

    @property
    def linger_s(self) -> float:
        """How long after a request a worker cannot be evicted.

        Clients pause between requests; without this, each pause would end the model's turn.
        """
        return min(LONGEST_LINGER_S, self.max_wait_s / 10)


class Why(StrEnum):
    """Why a request is refused."""

    LOAD_FAILED = "load failed"  # recently; its backoff has not passed
    TOO_LARGE = "too large"  # for the whole budget
    PINNED = "pinned"  # only pinned workers are in the way


@dataclass(frozen=True, slots=True)
class Serve:
    """Grant the lease now."""


@dataclass(frozen=True, slots=True)
class Start:
    """Stop every worker in ``evict``, and start the target as soon as their memory is free.

    ``memory``: the bytes that it is given. With ``alone`` they are fewer than its estimate, because no
    more are available; only pinned workers stay loaded with it.
    """

    memory: int
    evict: tuple[str, ...] = ()
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do until something changes.

    ``memory``: bytes reserved for the target. ``held``: the workers that must leave for it once they
    are idle. ``until``: when to plan again at the latest. ``pressure``: only memory pressure prevents
    its start.
    """

    reason: str
    memory: int = 0
    held: tuple[str, ...] = ()
    until: float | None = None
    pressure: bool = False


@dataclass(frozen=True, slots=True)
class Refuse:
    """Waiting does not help before ``retry_at`` (None: ever). ``by``: the aliases in the way."""

    why: Why
    by: tuple[str, ...] = ()
    retry_at: float | None = None


Plan = Serve | Start | Wait | Refuse
Workers = Mapping[str, WorkerView]


def schedule(waiting: Sequence[Waiting], workers: Workers, terms: Terms, now: float) -> list[Plan]:
    """A plan for each of *waiting*, in order of arrival.

    Each plan assumes that the plans before it are carried out; carry them out in order.
    """
    world = dict(workers)
    settled: dict[str, Plan] = {}  # later requests for an alias follow its first one that waits
    plans: list[Plan] = []
    for request in waiting:
        alias = request.alias
        made = settled.get(alias)
        if made is None:
            made = plan(request, world, terms, now)
            _apply(made, alias, world, now)
            if isinstance(made, Start | Wait):
                pressure = isinstance(made, Wait) and made.pressure
                settled[alias] = Wait(f"an earlier request waits for {alias}", pressure=pressure)
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
            world[alias] = replace(target, state=S.STARTING, charge=memory)
            for victim in evict:
                world[victim] = replace(world[victim], state=S.STOPPING)
        case Wait(memory=memory, held=held) if memory:
            # Later requests may only use the memory that is left. The held workers still have theirs,
            # but accept no new requests.
            world[alias] = replace(target, state=S.STARTING, charge=memory, reserved=True)
            for other in held:
                world[other] = replace(world[other], held=True)


def plan(request: Waiting, workers: Workers, terms: Terms, now: float) -> Plan:
    """Plan one request. The first case that applies decides:

    1. Ready: serve, unless the worker must leave or be replaced first.
    2. Starting, draining or stopping: wait.
    3. Declared larger than the whole budget: refuse.
    4. Failed recently: refuse until its backoff has passed if the load failed; wait for that if it
       crashed later, because the next process may serve the request.
    5. Declared too large to fit with the pinned workers: refuse, because those are never evicted.
    6. Nothing may be loaded now: wait.
    7. Fits with the workers that stay loaded: start.
    8. Fits once idle workers are evicted, least recently used first: evict, then start.
    9. The memory it needs is busy: wait, and reserve it.
    """
    target, budget = request.alias, terms.budget
    worker = workers[target]
    # 1. Ready
    if worker.state is S.READY:
        if worker.held:
            return Wait(f"{target} must leave for an earlier request")
        if worker.admits is not None and worker.admits <= 0:
            return Wait(f"a fresh process will replace {target}")
        return Serve()
    # 2. Starting, draining or stopping
    if worker.state in HOLDS_MEMORY:
        return Wait(f"{target} is {worker.state}")
    # 3. Declared larger than the whole budget
    declared = worker.charge if worker.declared is None else worker.declared
    if declared > budget:
        return Refuse(Why.TOO_LARGE)
    # 4. Failed recently
    if worker.state is S.FAILED and now < worker.retry_at:
        if worker.load_failed:
            return Refuse(Why.LOAD_FAILED, retry_at=worker.retry_at)
        return Wait(f"{target} crashed", until=worker.retry_at)

    # 5. Declared too large to fit with the pinned workers. Stopping workers count as gone: the process
    # is launched when their memory is free.
    staying = [w for w in workers.values() if w.stays]
    pinned = [w for w in staying if w.pinned and w.state is not S.DRAINING]
    room = budget - sum(w.charge for w in pinned)
    if declared > room:
        return Refuse(Why.PINNED, by=tuple(sorted(w.alias for w in pinned)))
    # 6. Nothing may be loaded now
    if not terms.loads:
        return Wait(f"{target} waits until memory pressure falls", pressure=True)
    # 7. Fits: now, and when reserved workers have replaced the held ones
    memory = min(worker.charge, room)
    alone = memory < worker.charge
    now_short = sum(w.charge for w in staying if not w.reserved) + memory - budget
    later_short = sum(w.charge for w in staying if not w.held) + memory - budget
    shortfall = max(now_short, later_short)
    if shortfall <= 0:
        return Start(memory, alone=alone)
    # 8. Fits once idle workers are evicted
    turn_is_over = {
        w.alias for w in staying if now - max(request.since, w.ready_at) >= terms.max_wait_s
    }
    idle = [w for w in staying if w.evictable]
    gone_quiet = [w for w in idle if w.alias in turn_is_over or now >= w.last_used + terms.linger_s]
    victims = choose_victims(gone_quiet, shortfall)
    if victims:
        return Start(memory, victims, alone)
    # 9. The memory it needs is busy
    lingering = [w.last_used + terms.linger_s for w in idle if w not in gone_quiet]
    busy = [w for w in staying if w.state is S.READY and not w.pinned and w.leases and not w.held]
    over = [w for w in busy if w.alias in turn_is_over]
    held = _spare(_until_enough([*by_use(gone_quiet), *_by_busy(over)], later_short), later_short)
    until = min(lingering, default=None)
    return Wait(f"{target} waits for memory", memory=memory, held=held, until=until)


def choose_victims(loaded: Collection[WorkerView], shortfall: int) -> tuple[str, ...]:
    """The aliases to evict to free *shortfall* bytes; () when idle workers do not suffice.

    Takes the least recently used first, then spares those that are not needed, most recently used
    first.
    """
    return _spare(_until_enough(by_use(w for w in loaded if w.evictable), shortfall), shortfall)


def by_use(workers: Iterable[WorkerView]) -> list[WorkerView]:
    """Least recently used first."""
    return sorted(workers, key=lambda w: (w.last_used, w.alias))


def _by_busy(workers: Iterable[WorkerView]) -> list[WorkerView]:
    # Longest busy first. A worker that becomes busy later sorts after the held ones, so the choice does
    # not change until the memory is free.
    return sorted(workers, key=lambda w: (w.busy_since, w.alias))


def _until_enough(candidates: Sequence[WorkerView], shortfall: int) -> list[WorkerView]:
    """The first of *candidates* that together free *shortfall* bytes; [] when all do not suffice."""
    chosen = []
    for w in candidates:
        if shortfall <= 0:
            break
        chosen.append(w)
        shortfall -= w.charge
    return [] if shortfall > 0 else chosen


def _spare(chosen: list[WorkerView], shortfall: int) -> tuple[str, ...]:
    """*chosen* without those that are not needed for *shortfall* bytes; the last are spared first."""
    surplus = sum(w.charge for w in chosen) - shortfall
    kept = []
    for w in reversed(chosen):
        if w.charge <= surplus:
            surplus -= w.charge
        else:
            kept.append(w.alias)
    return tuple(reversed(kept))
