"""The internal interfaces: worker to manager, and manager to gateway.

A worker's ``/health`` returns a ``WorkerHealth``, the manager's ``/status`` a ``ManagerStatus``. The
homelab dashboard reads ``ManagerStatus`` by these field names: ``workers`` holds ready workers only, by
alias, and its numbers are never null.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict

# Headers between the tiers. Only the timings are public.
KEEP_ALIVE_HEADER = b"x-vision-keep-alive"  # on requests: seconds (``KeepAlive``)
RETRYABLE_HEADER = b"x-vision-retryable"  # on a 503: the worker exited before the response began
QUEUE_HEADER = b"x-vision-queue-ms"  # on responses: from arrival to the lease
LOAD_HEADER = b"x-vision-load-ms"  # the part of the queue time in which the model was loading
MODEL_HEADER = b"x-vision-model-ms"  # the model's time; not on streams, whose headers come first


class WorkerState(StrEnum):  # the transitions are in manager.lifecycle
    """The state of a worker: stopped, starting, ready, draining, stopping or failed."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPING = "stopping"
    FAILED = "failed"


class Phase(StrEnum):
    """The steps of a worker from launch to ready."""

    IMPORTING = "importing"
    DOWNLOADING = "downloading"
    VERIFYING = "verifying"  # the download is complete; hashes are compared
    LOADING = "loading"
    SAVING = "saving a quantized copy"
    WARMING_UP = "warming up"
    READY = "ready"
    FAILED = "failed"


class _Wire(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class DeviceMemory(_Wire):
    """Bytes that MLX has allocated. ``unified``: the process's footprint includes them."""

    active: int = 0
    cache: int = 0  # freed, kept for the next buffer
    peak: int = 0  # the highest ``active`` of this process
    unified: bool = True  # False on CUDA
    limit: int = 0  # the GPU limit that Metal reports; 0: unknown


class Download(_Wire):
    """Progress of a download. ``total_bytes`` and ``eta_seconds`` are 0 until they are known.

    ``verified_bytes`` counts the bytes hashed so far, after the download is complete.
    """

    done_bytes: int = 0
    total_bytes: int = 0
    bytes_per_second: float = 0.0
    eta_seconds: float = 0.0
    verified_bytes: int = 0


class ImageProgress(_Wire):
    """Progress of an image worker. ``kind`` is "generation" or "edit", or "" if it is idle.

    ``step`` of ``steps`` steps are done, for image ``picture`` (from 1) of ``pictures``.
    ``eta_seconds`` covers all remaining images; it is 0 until the first step is done.
    """

    kind: str = ""
    step: int = 0
    steps: int = 0
    picture: int = 0
    pictures: int = 0
    eta_seconds: float = 0.0


class Work(_Wire):
    """Counters of a worker process since its launch; they only grow."""

    tokens: int = 0  # decoded
    prompt_tokens: int = 0
    cached_tokens: int = 0  # prompt tokens found in the prefix cache
    pictures: int = 0  # images encoded or found in the vision cache
    cached_pictures: int = 0  # images found in the vision cache
    # Images of at least ``large_image_pixels`` (``contracts.settings.models``).
    large_pictures: int = 0
    steps: int = 0  # denoising steps
    step_seconds: float = 0.0

    def plus(self, now: Work, before: Work) -> Work:
        """These counters increased by the work done from *before* to *now*."""
        return Work(
            **{
                name: getattr(self, name) + getattr(now, name) - getattr(before, name)
                for name in WORK_FIELDS
            }
        )


WORK_FIELDS = tuple(Work.model_fields)


class Caches(_Wire):
    """Bytes in a worker's caches: prefix or prompt cache, and vision cache."""

    prompts: int = 0
    pictures: int = 0


class WorkerHealth(_Wire):
    """``GET /health`` of a worker: status 200 if ``phase`` is ready, else 503; the body is the same.

    ``nonce`` and ``pid`` prove that the response comes from the launched process: another program on
    the port can't know the nonce. ``progress`` counts the work of the model thread (jobs started,
    tokens, steps); it must grow while ``jobs`` is above 0.
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
    drawing: ImageProgress | None = None
    revision: str = ""  # the loaded commit of a Hub repository; "": a folder, or not known yet
    newer_revision: str = ""  # the Hub's current commit, if it is not downloaded completely


class RunningWorker(_Wire):  # the dashboard reads these fields
    """A ready or draining worker."""

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
    """One configured model, loaded or not. Sizes are GiB; 0: not known.

    ``memory_gb`` is the charge while the model is loaded: the larger of estimate and footprint. The
    estimate is the larger of ``declared_gb`` and ``learned_gb``; after the first large image it is
    ``learned_gb`` alone. ``measured_gb`` is the current footprint, ``peak_gb`` the highest of this
    process. ``idle_timeout_seconds`` is how long the model stays loaded after its last request, which
    can set it (``keep_alive``); -1 means no timeout.
    """

    path: str
    kind: str
    port: int
    status: WorkerState
    memory_gb: float
    declared_gb: float = 0.0
    learned_gb: float = 0.0
    learned_age_seconds: float = 0.0  # since that peak was measured
    measured_gb: float = 0.0
    peak_gb: float = 0.0
    phase: str = ""
    download: Download = Download()  # in the phases downloading and verifying
    revision: str = ""  # the loaded commit, else the configured revision; "": main, or a folder
    drawing: ImageProgress = ImageProgress()
    queued: int = 0
    last_error: str = ""
    retry_in_seconds: float = 0.0
    idle_timeout_seconds: float = -1.0
    pinned: bool = False


class MemoryStatus(_Wire):
    """Memory in GiB. ``total_gb``, ``used_gb`` and ``available_gb`` describe the machine.

    ``models_loaded_gb`` is charged to the budget, ``models_measured_gb`` is the sum of the workers'
    footprints, ``standby_gb`` that of standby workers. ``pressure`` is normal, warning or critical.
    ``budget_reason`` is the rule that sets the budget, as text.
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
    """Standby workers: how many are configured, and how many are ready."""

    count: int = 0
    ready: int = 0


class LoadResponse(_Wire):
    """The model is loaded."""

    success: Literal[True] = True
    alias: str
    port: int
    pid: int
    state: WorkerState
    load_seconds: float


class UnloadResponse(_Wire):
    """The model is unloaded. ``was_loaded`` is false if it had no worker process."""

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
