"""Who leaves memory though no request asks for its room. Pure: facts in, aliases out.

Rules: only idle workers leave, pinned ones never do; least recently used first.
"""

from manager.planner import Workers, WorkerView, by_use, choose_victims


def idle_deadline(worker: WorkerView) -> float | None:
    """When it has been idle for too long; None: never, as things are."""
    if not worker.evictable or worker.idle_timeout_s < 0:
        return None
    return worker.last_used + worker.idle_timeout_s


def idle_too_long(workers: Workers, now: float) -> tuple[str, ...]:
    """The aliases whose idle timeout has passed."""
    deadlines = ((w.alias, idle_deadline(w)) for w in workers.values())
    return tuple(alias for alias, deadline in deadlines if deadline is not None and deadline <= now)


def soonest_idle(workers: Workers, now: float) -> float | None:
    """When the next idle timeout after *now* passes, if nothing changes before."""
    deadlines = (idle_deadline(w) for w in workers.values())
    return min((d for d in deadlines if d is not None and d > now), default=None)


def overcommitted(workers: Workers, budget: int) -> tuple[str, ...]:
    """Who must leave because others have grown beyond what they were expected to need.

    No more than needed; when idle workers can't make up for all of it, all of them leave. One that is
    alone stays however large it is: from its end nobody has anything.
    """
    staying = [w for w in workers.values() if w.stays]
    excess = sum(w.memory for w in staying) - budget
    if excess <= 0 or len(staying) == 1:
        return ()
    idle = by_use(w for w in staying if w.evictable)
    return choose_victims(idle, excess) or tuple(w.alias for w in idle)


def least_recently_used(workers: Workers) -> str | None:
    """The idle worker that goes next when the system is short of memory."""
    idle = by_use(w for w in workers.values() if w.evictable)
    return idle[0].alias if idle else None


SETTLE_S = 10.0


def memory_is_back(needed: int, available: int, freed_ago_s: float) -> bool:
    """Whether a load of *needed* bytes may begin, as far as the system goes.

    What an ended process had is not always to be had at once (on macOS the GPU's wired pages lag
    behind), so a load waits for it, up to ``SETTLE_S`` after the last end: what others use of the
    memory then is no business of the budget.
    """
    return available >= needed or freed_ago_s >= SETTLE_S
