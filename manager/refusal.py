"""The errors for requests that get no lease, with the reason in words. Pure."""

from __future__ import annotations

from contracts.amounts import left_text
from contracts.control import Download
from contracts.errors import (
    ApiError,
    InsufficientMemory,
    LoadFailed,
    MemoryPressure,
    ModelNotFound,
    QueueFull,
    QueueTimeout,
    Stopped,
    Unavailable,
)
from contracts.settings.base import GIB
from manager.planner import Refuse, Why, WorkerView

BUSY_RETRY_S = 5.0  # Retry-After where the time is unknown


def refused(
    refusal: Refuse, target: WorkerView, *, budget: int, last_error: str, now: float
) -> ApiError:
    """The error for a request that the planner refuses."""
    match refusal.why:
        case Why.TOO_LARGE:
            return InsufficientMemory(too_large(target.alias, _declared(target), budget))
        case Why.PINNED:
            return InsufficientMemory(
                f"{target.alias} needs {_gb(_declared(target))}, which does not fit in the memory "
                f"budget of {_gb(budget)} with the pinned models: {', '.join(refusal.by)}"
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
        f"{alias} was measured to need {_gb(estimate)} and {_gb(given)} are available: "
        "it is loaded alone; raise memory.max_unified_memory_gb or choose a smaller model"
    )


def under_pressure(alias: str) -> ApiError:
    return MemoryPressure(
        f"{alias} is not loaded now: the system is critically short of memory",
        retry_after=BUSY_RETRY_S,
    )


def unknown(alias: str, known: list[str]) -> ApiError:
    return ModelNotFound(
        f"model {alias!r} does not exist; there are: {', '.join(known)}", param="model"
    )


def queue_full(alias: str, limit: int, download: Download | None = None) -> ApiError:
    what = f"{limit} requests already wait for {alias}"
    if download is not None:
        what += f"; it is being downloaded, {left_text(download)}"
    return QueueFull(what, retry_after=_retry_s(download))


def queue_timeout(
    alias: str, timeout_s: float, state: str, download: Download | None = None
) -> ApiError:
    """*download*: the progress of the model's download, if there is one that has stalled."""
    if download is None:
        what = f"{alias} could not serve this within {timeout_s:g} s (it is {state})"
    else:
        what = (
            f"{alias} is being downloaded, {left_text(download)};"
            f" no bytes arrived within {timeout_s:g} s"
        )
    return QueueTimeout(what, retry_after=_retry_s(download))


def _retry_s(download: Download | None) -> float:
    """Seconds after which a retry is worth it (``ApiError`` limits them to 1-59)."""
    return (download.eta_seconds if download else 0.0) or BUSY_RETRY_S


def stopped_while_loading(alias: str) -> ApiError:
    return Stopped(f"{alias} was stopped while it was loading")


def shutting_down() -> ApiError:
    return Unavailable("the manager is shutting down", retry_after=BUSY_RETRY_S)


def _declared(target: WorkerView) -> int:
    return target.charge if target.declared is None else target.declared


def _gb(memory: int) -> str:
    return f"{memory / GIB:.1f} GB"
