"""Returns freed buffers to the system, in bounded steps, while no job waits.

MLX keeps freed buffers for reuse, up to its cache limit; on Metal they are the machine's memory.
Freeing all of them while a job allocates new ones is the load under which macOS has panicked
(mlx#3186), so nothing here runs during a job.

Rules: ``next_limit`` decides, ``give_back`` acts, on the model thread only, between two jobs. It lowers
MLX's cache limit for a moment: at its next allocation, MLX frees the buffers above the limit, oldest
first, whole buffers only.
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
REST_S = 0.05  # between two steps: a gigabyte is returned within a second


def next_limit(cached: int, keep: int, step: int = STEP_BYTES) -> int | None:
    """The cache limit that frees one step of *cached* bytes; None if at most *keep* are cached."""
    return max(keep, cached - step) if cached > keep else None


def give_back(keep: int) -> bool:
    """Free one step of the bytes cached beyond *keep*; True if there is more to free."""
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
    # A step that freed nothing is not repeated: it would never end.
    return bool(keep < mx.get_cache_memory() < cached)


def awaited(waiting: queue.SimpleQueue[T], engine: Engine[Any, Any]) -> T:
    """The next item of *waiting*; until it arrives, *engine* returns memory that it does not need."""
    more = True
    while more:
        try:
            return waiting.get(timeout=REST_S)
        except queue.Empty:
            try:
                more = engine.rest()
            except Exception:
                log.exception("freed buffers could not be returned to the system")
                more = False
    return waiting.get()


def without_clear_cache(mx: Any) -> ModuleType:
    """A copy of module *mx* whose ``clear_cache`` does nothing, for libraries that call it."""
    copy = ModuleType(mx.__name__)
    copy.__dict__.update(vars(mx))
    copy.__dict__["clear_cache"] = lambda: None
    return copy
