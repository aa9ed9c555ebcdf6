"""The errors with which the pool answers a request that gets no lease: the reasons in words. Pure."""

from __future__ import annotations

from contracts.errors import (
    ApiError,
    InsufficientMemory,
    LoadFailed,
    ModelNotFound,
    QueueFull,
    QueueTimeout,
    Unavailable,
)
from contracts.settings.base import GIB
from manager.planner import Refuse, Why, WorkerView

BUSY_RETRY_S = 5.0  # what a client is told to wait where nobody knows


def refused(
    refusal: Refuse, target: WorkerView, *, budget: int, last_error: str, now: float
) -> ApiError:
    """The error for a request that the planner refuses."""
    match refusal.why:
        case Why.TOO_LARGE:
            return InsufficientMemory(too_large(target.alias, _declared(target), budget))
        case Why.PINNED:
            return InsufficientMemory(
                f"{target.alias} needs {_gb(_declared(target))}, which does not fit into the memory "
                f"budget of {_gb(budget)} beside what is pinned: {', '.join(refusal.by)}"
            )
        case Why.LOAD_FAILED:
            wait_s = (refusal.retry_at or now) - now
            return cannot_load(target.alias, last_error, retry_after=wait_s)


def cannot_load(alias: str, why: str, *, retry_after: float | None = None) -> ApiError:
    return LoadFailed(f"{alias} could not be loaded: {why}", retry_after=retry_after)


def too_large(alias: str, memory: int, budget: int) -> str:
    return f"{alias} needs {_gb(memory)}, more than the whole memory budget of {_gb(budget)}"


def alone(alias: str, estimate: int, given: int) -> str:
    return (
        f"{alias} was measured to need {_gb(estimate)} and there are {_gb(given)}: "
        "it is loaded alone; raise memory.max_unified_memory_gb or choose a smaller model"
    )


def under_pressure(alias: str) -> ApiError:
    return Unavailable(
        f"{alias} is not loaded now: the system is critically short of memory",
        code="memory_pressure",
        retry_after=BUSY_RETRY_S,
    )


def unknown(alias: str, known: list[str]) -> ApiError:
    return ModelNotFound(f"no model {alias!r}; there are: {', '.join(known)}", param="model")


def queue_full(alias: str, limit: int) -> ApiError:
    return QueueFull(f"{limit} requests wait for {alias} already", retry_after=BUSY_RETRY_S)


def queue_timeout(alias: str, timeout_s: float, why: str) -> ApiError:
    return QueueTimeout(
        f"{alias} could not serve this within {timeout_s:g} s ({why})", retry_after=BUSY_RETRY_S
    )


def stopped_while_loading(alias: str) -> ApiError:
    error = Unavailable(f"{alias} was stopped while it was loading", code="stopped")
    error.should_retry = False  # an automatic retry would undo what somebody asked for
    return error


def shutting_down() -> ApiError:
    return Unavailable("the manager is shutting down", retry_after=BUSY_RETRY_S)


def _declared(target: WorkerView) -> int:
    return target.memory if target.declared is None else target.declared


def _gb(memory: int) -> str:
    return f"{memory / GIB:.1f} GB"
