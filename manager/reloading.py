"""Which models to load although no request needs them. Pure: workers in, aliases and reasons out."""

from __future__ import annotations

from collections.abc import Iterable

from contracts.control import WorkerState
from manager.worker import Worker


def at_start(workers: Iterable[Worker]) -> list[tuple[str, str]]:
    return [(w.alias, "preload") for w in workers if w.model.preload]


def after_end(ended: Worker, workers: Iterable[Worker]) -> list[tuple[str, str]]:
    """The models to load after the process of *ended* has been reaped."""
    if ended.recycling:
        return [(ended.alias, "recycled")]
    if ended.life.load_failed:
        # The preloaded models that were evicted for it were evicted in vain.
        evicted = (w for w in workers if w.evicted_for == ended.alias and w.model.preload)
        why = f"{ended.alias} could not be loaded"
        return [(w.alias, why) for w in evicted if w.state is WorkerState.STOPPED]
    if ended.crashed and (ended.model.preload or ended.model.pinned):
        return [(ended.alias, "crashed")]
    return []
