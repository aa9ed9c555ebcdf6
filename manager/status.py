"""The response of ``GET /status``. Pure: reports and readings in, ``ManagerStatus`` out.

Rules: names and units are those of the homelab dashboard (``contracts.control``). ``workers`` lists
only workers that serve requests; a number is never null.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from contracts.control import (
    ConfigStatus,
    Download,
    ImageProgress,
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
from manager.memory.peaks import Peak
from manager.memory.pressure import Pressure
from manager.memory.system import MemoryReading
from manager.planner import WorkerView
from manager.worker_facts import Process


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """The facts about one worker at one moment. Memory in bytes; times by the manager's clock."""

    view: WorkerView
    model: VlmSettings | ImageSettings
    process: Process | None = None  # a copy; None: no process can hold memory
    learned: Peak | None = None
    queued: int = 0
    request_count: int = 0
    phase: str = ""
    download: Download | None = None
    last_error: str = ""
    work: Work = field(default_factory=Work)

    @property
    def alias(self) -> str:
        return self.view.alias

    @property
    def state(self) -> WorkerState:
        return self.view.state

    @property
    def charged(self) -> int:
        """Bytes charged for a process that exists or is being launched."""
        return self.view.charge if self.process else 0

    @property
    def footprint(self) -> int:
        return self.process.footprint if self.process else 0

    @property
    def peak(self) -> int:
        return self.process.peak if self.process else 0


@dataclass(frozen=True, slots=True)
class BudgetReport:
    """The budget, and the memory of standby workers, in bytes."""

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
    budget: BudgetReport,
    started_at: float,
    now: float,
    wall_now: float,
) -> ManagerStatus:
    reports = list(reports)
    return ManagerStatus(
        status="ok",
        uptime_seconds=round(now - started_at, 3),
        workers={r.alias: _running(r, now) for r in reports if r.state in RUNNING},
        models={r.alias: _model(r, now, wall_now) for r in reports},
        memory=MemoryStatus(
            total_gb=_gb(reading.total),
            available_gb=_gb(reading.available),
            used_gb=_gb(reading.used),
            used_percent=round(reading.used_percent, 1),
            usage_percent=round(reading.used_percent, 1),
            budget_gb=_gb(budget.budget),
            budget_reason=budget.budget_reason,
            models_loaded_gb=_gb(sum(r.charged for r in reports)),
            models_measured_gb=_gb(sum(r.footprint for r in reports)),
            standby_gb=_gb(budget.standby_memory),
            pressure=budget.pressure.name.lower(),
        ),
        standby=StandbyStatus(count=budget.standbys, ready=budget.standbys_ready),
        config=ConfigStatus(
            idle_timeout_seconds=settings.manager.idle_timeout_s,
            max_requests_before_restart=settings.manager.max_requests,
            safety_margin_gb=settings.memory.safety_margin_gb,
        ),
    )


def _running(report: WorkerReport, now: float) -> RunningWorker:
    view, process = report.view, report.process or Process()
    return RunningWorker(
        port=process.handle.address.port if process.handle else report.model.port,
        pid=process.pid,
        state=view.state,
        memory_gb=_gb(view.charge),
        uptime_seconds=round(now - process.launched_at, 3),
        idle_seconds=0.0 if view.leases else round(now - view.last_used, 3),
        active_requests=view.leases,
        request_count=report.request_count,
        model_path=report.model.path,
        model_type=report.model.kind,
    )


def _model(report: WorkerReport, now: float, wall_now: float) -> ModelStatus:
    view, model, process, learned = report.view, report.model, report.process, report.learned
    failed = view.state is WorkerState.FAILED
    return ModelStatus(
        path=model.path,
        kind=model.kind,
        port=model.port,
        status=view.state,
        memory_gb=_gb(view.charge),
        declared_gb=_gb(model.memory_bytes),
        learned_gb=_gb(learned.bytes) if learned else 0.0,
        learned_age_seconds=round(max(0.0, wall_now - learned.learned_at), 1) if learned else 0.0,
        measured_gb=_gb(report.footprint),
        peak_gb=_gb(report.peak),
        phase=report.phase,
        download=report.download or Download(),
        revision=(process and process.revision) or model.revision or CHECKED.get(model.path, ""),
        drawing=(process and process.drawing) or ImageProgress(),
        queued=report.queued,
        last_error=report.last_error,
        retry_in_seconds=max(0.0, round(view.retry_at - now, 3)) if failed else 0.0,
        idle_timeout_seconds=view.idle_timeout_s,
        pinned=model.pinned,
    )


def _gb(memory: int) -> float:
    return round(memory / GIB, 3)
