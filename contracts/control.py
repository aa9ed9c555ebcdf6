"""What manager and workers, and gateway and manager, tell each other.

``/health`` of a worker is a ``WorkerHealth``; ``/status`` of the manager is a ``ManagerStatus``, whose
names are those that the homelab dashboard reads: ``workers`` holds only workers that are ready, keyed
by alias, and its numbers are never null.
"""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict


class WorkerState(StrEnum):
    """Where a worker is in its life; the table of transitions is ``manager.lifecycle``."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPING = "stopping"
    FAILED = "failed"


class Phase(StrEnum):
    """What a worker is doing on its way to ready."""

    IMPORTING = "importing"
    DOWNLOADING = "downloading"
    LOADING = "loading"
    WARMING_UP = "warming up"
    READY = "ready"
    FAILED = "failed"


class _Wire(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class WorkerHealth(_Wire):
    """``GET /health`` of a worker: 200 when ``phase`` is ready, else 503, with this body either way.

    ``nonce`` and ``pid`` prove that the answer comes from the process that was started: a stranger on
    the same port can't know the nonce.
    """

    alias: str
    phase: Phase
    detail: str = ""
    nonce: str = ""
    pid: int
    active_requests: int = 0
    request_count: int = 0
    uptime_seconds: float = 0.0


class RunningWorker(_Wire):
    """A ready (or draining) worker, as the dashboard reads it."""

    port: int
    pid: int
    state: WorkerState
    memory_gb: float
    uptime_seconds: float
    idle_seconds: float
    active_requests: int
    request_count: int
    model_path: str
    model_type: str


class ModelStatus(_Wire):
    """Every configured alias, running or not. ``status`` is its ``WorkerState``."""

    path: str
    kind: str
    port: int
    status: WorkerState
    memory_gb: float
    phase: str = ""
    queued: int = 0
    last_error: str = ""
    retry_in_seconds: float = 0.0
    pinned: bool = False


class MemoryStatus(_Wire):
    """GiB. ``used``, ``available``: the system's; ``models_loaded_gb`` is charged to the budget."""

    total_gb: float
    available_gb: float
    used_gb: float
    used_percent: float
    usage_percent: float
    budget_gb: float
    models_loaded_gb: float


class ConfigStatus(_Wire):
    idle_timeout_seconds: float
    max_requests_before_restart: int
    safety_margin_gb: float


class ManagerStatus(_Wire):
    status: str
    uptime_seconds: float
    workers: dict[str, RunningWorker]
    models: dict[str, ModelStatus]
    memory: MemoryStatus
    config: ConfigStatus
