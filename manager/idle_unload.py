"""Which idle workers to unload although no request needs their memory. Pure: facts in, aliases out.

Rules: after the idle timeout, under memory pressure, and when the charges exceed the budget because
workers outgrew their estimates. Only idle workers, never pinned ones; least recently used first.
"""

from manager.planner import Workers, WorkerView, by_use, choose_victims


def idle_deadline(worker: WorkerView) -> float | None:
    """When its idle timeout passes; None: never, in its current state."""
    if not worker.evictable or worker.idle_timeout_s < 0:
        return None
    return worker.last_used + worker.idle_timeout_s


def idle_too_long(workers: Workers, now: float) -> tuple[str, ...]:
    """The aliases whose idle timeout has passed."""
    deadlines = ((w.alias, idle_deadline(w)) for w in workers.values())
    return tuple(alias for alias, deadline in deadlines if deadline is not None and deadline <= now)


def next_idle_deadline(workers: Workers, now: float) -> float | None:
    """The first idle timeout after *now*, if nothing changes before."""
    deadlines = (idle_deadline(w) for w in workers.values())
    return min((d for d in deadlines if d is not None and d > now), default=None)


def overcommitted(workers: Workers, budget: int) -> tuple[str, ...]:
    """The idle workers to unload because the charges exceed *budget*: workers outgrew their estimates.

    No more than needed; all idle ones when they do not suffice. The last worker stays, however large.
    """
    staying = [w for w in workers.values() if w.stays]
    excess = sum(w.charge for w in staying) - budget
    if excess <= 0 or len(staying) == 1:
        return ()
    idle = by_use(w for w in staying if w.evictable)
    return choose_victims(idle, excess) or tuple(w.alias for w in idle)


def least_recently_used(workers: Workers) -> str | None:
    """The idle worker to unload next under memory pressure."""
    idle = by_use(w for w in workers.values() if w.evictable)
    return idle[0].alias if idle else None
