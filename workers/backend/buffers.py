"""Gives freed buffers back to the system: while nobody waits, a bounded amount at a time.

MLX keeps freed buffers for the next ones, up to its cache limit; on Metal they are memory of the
machine. Freeing all of them at once beside work that creates new ones is the churn under which macOS
has panicked (mlx#3186), so nothing here runs while a job does.

Rules: ``next_limit`` decides; ``give_back`` acts, on the model thread alone, between two jobs.
It lowers MLX's cache limit for a moment: MLX frees what is above the limit at its next allocation,
oldest first, whole buffers.
"""

from __future__ import annotations

import logging
import queue
from types import ModuleType
from typing import Any, TypeVar

from workers.engine import Engine

log = logging.getLogger(__name__)
T = TypeVar("T")

MIB = 1 << 20
STEP_BYTES = 64 * MIB
REST_S = 0.05  # from one step to the next: a gigabyte is back within a second


def next_limit(cached: int, keep: int, step: int = STEP_BYTES) -> int | None:
    """The cache limit that frees one step of *cached* bytes; None: no more than *keep* are there."""
    return max(keep, cached - step) if cached > keep else None


def give_back(keep: int) -> bool:
    """Free one step of what is cached beyond *keep* bytes; True when there is more to do."""
    import mlx.core as mx  # noqa: TID251 - for the engines

    cached = mx.get_cache_memory()
    limit = next_limit(cached, keep)
    if limit is None:
        return False
    before = mx.set_cache_limit(limit)
    try:
        mx.eval(mx.array([0.0]) + 1)  # an allocation
    finally:
        mx.set_cache_limit(before)
    # One that frees nothing is not repeated: it would go on for ever.
    return bool(keep < mx.get_cache_memory() < cached)


def awaited(waiting: queue.SimpleQueue[T], engine: Engine[Any, Any]) -> T:
    """The next of *waiting*; until it comes, *engine* gives back what it does not need."""
    more = True
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


def without_clear_cache(mx: Any) -> ModuleType:
    """A copy of the module *mx* whose ``clear_cache`` does nothing, for libraries that call it."""
    copy = ModuleType(mx.__name__)
    copy.__dict__.update(vars(mx))
    copy.__dict__["clear_cache"] = lambda: None
    return copy
