"""What ``GET /status`` says. Pure: reports and readings in, ``ManagerStatus`` out.

Rules: names and units are those that the homelab dashboard reads (``contracts.control``). ``workers``
holds only those that serve; every number is a number, never null.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from contracts.control import (
    Caches,
    ConfigStatus,
    Download,
    Drawing,
    ManagerStatus,
    MemoryStatus,
    ModelStatus,
    RunningWorker,
    StandbyStatus,
    Work,
    WorkerState,
)
from contracts.revisions import CHECKED
from contracts.settings import Settings
from contracts.settings.base import GIB
from contracts.settings.models import ImageSettings, VlmSettings
from manager.lifecycle import RUNNING
from manager.memory.pressure import Pressure
from manager.memory.system import MemoryReading


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """The facts about one alias at one moment. Memory in bytes; times by the manager's clock."""

    alias: str
    model: VlmSettings | ImageSettings
    state: WorkerState
    memory: int  # charged while it holds memory
    learned: int = 0
    learned_age_s: float = 0.0
    footprint: int = 0
    peak: int = 0
    charged: bool = False
    pid: int = 0
    port: int = 0
    leases: int = 0
    queued: int = 0
    request_count: int = 0
    launched_at: float = 0.0
    last_used: float = 0.0
    retry_at: float = 0.0
    idle_timeout_s: float = -1.0  # -1: never
    phase: str = ""
    download: Download | None = None
    revision: str = ""
    drawing: Drawing | None = None
    last_error: str = ""
    work: Work = field(default_factory=Work)
    caches: Caches = field(default_factory=Caches)


@dataclass(frozen=True, slots=True)
class Room:
    """What there is to share out: the budget and what standby processes take of it, in bytes."""

    budget: int
    standbys: int = 0
    standbys_ready: int = 0
    standby_memory: int = 0
    pressure: Pressure = Pressure.NORMAL
    budget_reason: str = ""


def manager_status(
    reports: Iterable[WorkerReport],
    reading: MemoryReading,
    settings: Settings,
    *,
    room: Room,
    started_at: float,
    now: float,
) -> ManagerStatus:
    reports = list(reports)
    return ManagerStatus(
        status="ok",
        uptime_seconds=round(now - started_at, 3),
        workers={r.alias: _running(r, now) for r in reports if r.state in RUNNING},
        models={r.alias: _model(r, now) for r in reports},
        memory=MemoryStatus(
            total_gb=_gb(reading.total),
            available_gb=_gb(reading.available),
            used_gb=_gb(reading.used),
            used_percent=round(reading.used_percent, 1),
            usage_percent=round(reading.used_percent, 1),
            budget_gb=_gb(room.budget),
            budget_reason=room.budget_reason,
            models_loaded_gb=_gb(sum(r.memory for r in reports if r.charged)),
            models_measured_gb=_gb(sum(r.footprint for r in reports)),
            standby_gb=_gb(room.standby_memory),
            pressure=room.pressure.name.lower(),
        ),
        standby=StandbyStatus(count=room.standbys, ready=room.standbys_ready),
        config=ConfigStatus(
            idle_timeout_seconds=settings.manager.idle_timeout_s,
            max_requests_before_restart=settings.manager.max_requests,
            safety_margin_gb=settings.memory.safety_margin_gb,
        ),
    )


def _running(report: WorkerReport, now: float) -> RunningWorker:
    return RunningWorker(
        port=report.port,
        pid=report.pid,
        state=report.state,
        memory_gb=_gb(report.memory),
        uptime_seconds=round(now - report.launched_at, 3),
        idle_seconds=0.0 if report.leases else round(now - report.last_used, 3),
        active_requests=report.leases,
        request_count=report.request_count,
        model_path=report.model.path,
        model_type=report.model.kind,
    )


def _model(report: WorkerReport, now: float) -> ModelStatus:
    failed = report.state is WorkerState.FAILED
    return ModelStatus(
        path=report.model.path,
        kind=report.model.kind,
        port=report.model.port,
        status=report.state,
        memory_gb=_gb(report.memory),
        declared_gb=_gb(report.model.memory_bytes),
        learned_gb=_gb(report.learned),
        learned_age_seconds=round(report.learned_age_s, 1),
        measured_gb=_gb(report.footprint),
        peak_gb=_gb(report.peak),
        phase=report.phase,
        download=report.download or Download(),
        revision=report.revision or report.model.revision or CHECKED.get(report.model.path, ""),
        drawing=report.drawing or Drawing(),
        queued=report.queued,
        last_error=report.last_error,
        retry_in_seconds=max(0.0, round(report.retry_at - now, 3)) if failed else 0.0,
        idle_timeout_seconds=report.idle_timeout_s,
        pinned=report.model.pinned,
    )


def _gb(memory: int) -> float:
    return round(memory / GIB, 3)
