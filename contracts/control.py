"""What manager and workers, and gateway and manager, tell each other.

``/health`` of a worker is a ``WorkerHealth``; ``/status`` of the manager is a ``ManagerStatus``, whose
names are those that the homelab dashboard reads: ``workers`` holds only workers that are ready, keyed
by alias, and its numbers are never null.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict

# Headers between the tiers; none of them is for clients to rely on, but the timings.
KEEP_ALIVE_HEADER = b"x-vision-keep-alive"  # of a request: seconds (``KeepAlive``)
RETRYABLE_HEADER = b"x-vision-retryable"  # of a 503: the worker ended before its answer had begun
QUEUE_HEADER = b"x-vision-queue-ms"  # of an answer: from asking for the worker to the grant
LOAD_HEADER = b"x-vision-load-ms"  # the part of that during which the worker was loading
MODEL_HEADER = b"x-vision-model-ms"  # what the model took; not for streams, which begin before it


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
    VERIFYING = "verifying"  # all bytes are there; their hashes are compared
    LOADING = "loading"
    SAVING = "saving a quantized copy"
    WARMING_UP = "warming up"
    READY = "ready"
    FAILED = "failed"


class _Wire(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class DeviceMemory(_Wire):
    """Bytes that MLX holds. ``unified``: they are part of the process's own footprint already."""

    active: int = 0
    cache: int = 0  # freed, and kept for the next buffer
    peak: int = 0  # the most that was ever active in this process
    unified: bool = True  # False on CUDA
    limit: int = 0  # that the GPU may hold in all, by Metal; 0: nobody says so


class Download(_Wire):
    """How far a download is. ``total_bytes`` 0: not known yet; ``eta_seconds`` likewise.

    ``verified_bytes`` counts what of it was hashed so far, once all bytes are there.
    """

    done_bytes: int = 0
    total_bytes: int = 0
    bytes_per_second: float = 0.0
    eta_seconds: float = 0.0
    verified_bytes: int = 0


class Drawing(_Wire):
    """What an image worker draws now. ``kind``: generation, edit, or "" when it draws nothing.

    Step ``step`` of ``steps`` is done of picture ``picture`` (from 1) of ``pictures``; ``eta_seconds``
    is what all of them will take still, 0 until a step was done.
    """

    kind: str = ""
    step: int = 0
    steps: int = 0
    picture: int = 0
    pictures: int = 0
    eta_seconds: float = 0.0


class Work(_Wire):
    """What a worker's process has done since it began; each number only grows.

    ``cached``: what of a prompt, or which pictures, had been kept from before.
    """

    tokens: int = 0  # of answers
    prompt_tokens: int = 0
    cached_tokens: int = 0
    pictures: int = 0  # that were looked at
    cached_pictures: int = 0
    # Served or drawn at a size that shows what the model needs: see ``contracts.settings.models``.
    large_pictures: int = 0
    steps: int = 0  # of drawings
    step_seconds: float = 0.0

    def plus(self, now: Work, before: Work) -> Work:
        """With what was done from *before* to *now*."""
        return Work(
            **{
                name: getattr(self, name) + getattr(now, name) - getattr(before, name)
                for name in WORK_FIELDS
            }
        )


WORK_FIELDS = tuple(Work.model_fields)


class Caches(_Wire):
    """Bytes of prompts and of pictures that a worker keeps, so as not to compute them again."""

    prompts: int = 0
    pictures: int = 0


class WorkerHealth(_Wire):
    """``GET /health`` of a worker: 200 when ``phase`` is ready, else 503, with this body either way.

    ``nonce`` and ``pid`` prove that the answer comes from the process that was started: a stranger on
    the same port can't know the nonce. ``progress`` counts what the model thread has done (jobs begun,
    tokens, steps); while ``jobs`` are in hand it must grow.
    """

    alias: str
    phase: Phase
    detail: str = ""
    nonce: str = ""
    pid: int
    active_requests: int = 0
    request_count: int = 0
    uptime_seconds: float = 0.0
    jobs: int = 0  # on the model thread, running or waiting
    progress: int = 0
    device: DeviceMemory = DeviceMemory()
    work: Work = Work()
    caches: Caches = Caches()
    download: Download | None = None  # while ``phase`` is downloading or verifying
    drawing: Drawing | None = None
    revision: str = ""  # the commit of the Hub that is loaded; "": a folder, or not known yet
    newer_revision: str = ""  # the commit that the Hub has now, when its files are not all here


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
    """Every configured alias, running or not. ``status`` is its ``WorkerState``. GiB, 0: not known.

    ``memory_gb`` is what it is charged while it is loaded: the larger of its estimate and its
    footprint. The estimate is the larger of ``declared_gb`` and ``learned_gb``; once the model has
    served a large picture it is ``learned_gb`` alone. ``measured_gb`` is the footprint now,
    ``peak_gb`` the most that this process was seen to need. ``idle_timeout_seconds``: how long it
    stays after its last request, which may have asked for that (``keep_alive``); -1: it has no end.
    """

    path: str
    kind: str
    port: int
    status: WorkerState
    memory_gb: float
    declared_gb: float = 0.0
    learned_gb: float = 0.0
    learned_age_seconds: float = 0.0  # since that peak was seen
    measured_gb: float = 0.0
    peak_gb: float = 0.0
    phase: str = ""
    download: Download = Download()  # in the phases downloading and verifying
    revision: str = ""  # the commit that is loaded, else the revision that will be; "": main, a folder
    drawing: Drawing = Drawing()
    queued: int = 0
    last_error: str = ""
    retry_in_seconds: float = 0.0
    idle_timeout_seconds: float = -1.0
    pinned: bool = False


class MemoryStatus(_Wire):
    """GiB. ``used``, ``available``: the system's; ``models_loaded_gb`` is charged to the budget.

    ``models_measured_gb`` is what the workers' footprints add up to, ``standby_gb`` that of processes
    that wait for work; ``pressure`` is the system's: normal, warning or critical. ``budget_reason``:
    the rule that the budget comes from, in words.
    """

    total_gb: float
    available_gb: float
    used_gb: float
    used_percent: float
    usage_percent: float
    budget_gb: float
    budget_reason: str = ""
    models_loaded_gb: float
    models_measured_gb: float = 0.0
    standby_gb: float = 0.0
    pressure: str = "normal"


class StandbyStatus(_Wire):
    """Processes that wait with their libraries imported; ``ready``: all of them are."""

    count: int = 0
    ready: int = 0


class Spawned(_Wire):
    """The manager's answer to ``POST /spawn/{alias}``, once the worker is ready."""

    success: Literal[True] = True
    alias: str
    port: int
    pid: int
    state: WorkerState
    load_seconds: float


class Stopped(_Wire):
    """The manager's answer to ``POST /stop/{alias}``, when the worker has ended or was none."""

    success: Literal[True] = True
    alias: str
    was_loaded: bool
    state: WorkerState


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
    standby: StandbyStatus = StandbyStatus()
    config: ConfigStatus
